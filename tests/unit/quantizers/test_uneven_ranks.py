"""Tests of ranks with different, even empty, batches against one process with all batches."""

import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from video_vq.quantizers.codebook import Codebook, merge
from video_vq.quantizers.compat import VectorQuantize
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig

SIZE, DIM, STEPS = 16, 4, 4
KMEANS = {"kmeans_init": True, "threshold_ema_dead_code": 1}
LENGTHS = {
    2: [(20, 12), (5, 3), (1, 200), (40, 0), (0, 40)],
    3: [(20, 20, 7), (1, 2, 3), (30, 0, 9), (0, 0, 50), (0, 60, 60)],
}


class Case(NamedTuple):
    name: str
    settings: dict[str, Any]
    micro_batches: int = 0  # 0: the drop-in; else the codebook alone with so many


CASES = [
    Case("kmeans", KMEANS),
    Case("first codes alone", {**KMEANS, "kmeans_iters": 0}),
    Case("random first codes", {"threshold_ema_dead_code": 1}),
    Case("cosine", {**KMEANS, "use_cosine_sim": True}),
    Case("by gradient", {**KMEANS, "learnable_codebook": True, "ema_update": False}),
    Case("averages without restarts", {"kmeans_init": True, "decay": 0.5}),
    Case("projected", {**KMEANS, "codebook_dim": 2}),
    Case("one micro-batch", {}, 1),
    Case("three micro-batches", {}, 3),
]
ALL = [(world, lengths, case) for world in LENGTHS for lengths in LENGTHS[world] for case in CASES]


def share(step: int, lengths: tuple[int, ...], rank: int | None) -> Tensor:
    """Return a rank's rows of a global batch, or all rows if `rank` is None."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randn(sum(lengths), DIM, generator=generator) + 0.5
    return rows if rank is None else rows.split(lengths)[rank]


def spoil(book: Codebook) -> None:
    """Make every third code dead: far away and never used."""
    book.codes.data[1::3] = 100.0
    book.average_count[1::3] = 0.0
    book.average_sum[1::3] = 0.0


def drop_in(case: Case, lengths: tuple[int, ...], rank: int | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = VectorQuantize(DIM, SIZE, **case.settings)
    book, results = module._book, {}
    for step in range(STEPS):
        if step == 2:
            spoil(book)
        leaf = share(step, lengths, rank).requires_grad_()
        output = module(leaf)
        (output.quantized.square().sum() + len(leaf) * output.loss).backward()
        assert bool(torch.isfinite(output.loss))
        results |= {f"rows.quantized{step}": output.quantized, f"rows.gradient{step}": leaf.grad}
        results |= {f"{step}.{name}": value.clone() for name, value in book.state_dict().items()}
    return {name: value.detach() for name, value in results.items()}


def micro_batched(case: Case, lengths: tuple[int, ...], rank: int | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    config = QuantizerConfig(codebook_size=SIZE, codebook_dim=DIM, restart_threshold=0.5)
    book, results = Codebook(config), {}
    for step in range(STEPS):
        # Each micro-batch gives the lengths to other ranks, so that rows of tokens differ too.
        turned = [lengths[part:] + lengths[:part] for part in range(case.micro_batches)]
        mine = tuple(share(10 * step + part, turned[part], rank) for part in range(len(turned)))
        if not book.is_initialized:
            book.initialize(mine, seed=3)
        if step == 2:
            spoil(book)
        parts = [book.statistics(rows, nearest_codes(rows, book.codes)) for rows in mine]
        whole = merge(parts)
        kept = [value.clone() for value in whole[:2]]
        update = book.update(whole, seed=3)
        assert all(torch.equal(*pair) for pair in zip(kept, whole[:2], strict=True))
        results[f"{step}.counts"] = update.counts
        results[f"{step}.restarted"] = update.restarted
        results |= {f"{step}.{name}": value.clone() for name, value in book.state_dict().items()}
    return results


def run(case: Case, lengths: tuple[int, ...], rank: int | None = None) -> dict[str, Tensor]:
    return (micro_batched if case.micro_batches else drop_in)(case, lengths, rank)


def run_rank(rank: int, folder: str) -> None:
    """Run all cases as one of three ranks and, below rank 2, as one of two; save the results."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank >= world:
            continue
        found = {}
        where = f"file://{folder}/store{world}"
        dist.init_process_group(
            "gloo", init_method=where, rank=rank, world_size=world, timeout=timedelta(minutes=2)
        )
        try:
            for lengths in LENGTHS[world]:
                for case in CASES:
                    for name, value in run(case, lengths, rank).items():
                        found[f"{case.name} {lengths} {name}"] = value.contiguous()
        finally:
            dist.destroy_process_group()
        safetensors.torch.save_file(found, Path(folder, f"{world}-{rank}.safetensors"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> dict[int, list[dict[str, Tensor]]]:
    """Return the results of each rank, by number of ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=run_rank, args=(rank, str(folder))) for rank in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    return {
        world: [
            safetensors.torch.load_file(folder / f"{world}-{rank}.safetensors")
            for rank in range(world)
        ]
        for world in LENGTHS
    }


@pytest.mark.parametrize(("world", "lengths", "case"), ALL)
def test_uneven_ranks_find_what_one_process_finds_in_all_their_latents(ranks, world, lengths, case):
    expected = run(case, lengths)
    for name, value in expected.items():
        found = [rank[f"{case.name} {lengths} {name}"] for rank in ranks[world]]
        if name.startswith("rows."):
            torch.testing.assert_close(torch.cat(found), value)
            continue
        for other in found:
            assert torch.equal(other, found[0])
        torch.testing.assert_close(found[0], value)


@pytest.mark.parametrize("world", LENGTHS)
def test_restarted_codes_are_latents_of_some_rank(ranks, world):
    for lengths in LENGTHS[world]:
        codes = ranks[world][0][f"random first codes {lengths} 2.codes"]
        latents = share(2, lengths, None)
        for code in codes[1::3]:
            assert bool((latents == code).all(1).any())


def test_without_a_latent_on_any_rank_nothing_moves():
    module = VectorQuantize(DIM, SIZE, **KMEANS)
    before = module.codebook.clone()
    assert float(module(torch.zeros(2, 0, DIM)).loss) == 0
    assert not module._book.is_initialized
    assert torch.equal(module.codebook, before)
    module(torch.randn(2, 30, DIM, generator=torch.Generator().manual_seed(0)))
    assert bool(module._book.is_initialized)
    spoil(module._book)
    before = module.codebook.clone()
    assert module(torch.zeros(0, DIM)).quantized.shape == (0, DIM)
    torch.testing.assert_close(module.codebook, before)
