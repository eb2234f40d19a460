"""Tests of the codebook on 1, 2 and 4 processes, with restarts, saving and loading."""

import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.codebook import Codebook, merge
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig

SIZE, DIM, BATCH, STEPS = 32, 8, 512, 200
CONFIG = QuantizerConfig(
    codebook_size=SIZE, codebook_dim=DIM, restart_threshold=0.2, rms_scaling="constant"
)


def batch_of(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, DIM, generator=generator) * 1.5 + 0.3


def train(book: Codebook, first: int, last: int, rank: int = 0, world: int = 1) -> list[dict]:
    """Update a codebook on this rank's part of each global batch; return a record per step.

    A global batch has two micro-batches. Every fifth step, some codes are made dead.
    """
    lines = []
    for step in range(first, last):
        micro_batches = batch_of(step).chunk(2)
        mine = [part.chunk(world)[rank] for part in micro_batches]
        if not book.is_initialized:
            book.initialize(tuple(mine), seed=7)
        if step % 5 == 4:
            book.codes[step % 8 :: 8] = 100.0
            book.average_count[step % 8 :: 8] = 0.0
        parts = [book.statistics(rows, nearest_codes(rows, book.codes)) for rows in mine]
        update = book.update(merge(parts), seed=7)
        digest = hashlib.sha256()
        for _, value in sorted(book.state_dict().items()):
            digest.update(value.numpy().tobytes())
        lines.append(
            {
                "hash": digest.hexdigest(),
                "counts": update.counts.tolist(),
                "restarted": update.restarted.tolist(),
            }
        )
    return lines


def dynamic_gradient(rank: int = 0, world: int = 1) -> torch.Tensor:
    """Return the gradient of this rank's rows, whose weights depend on the global batch."""
    config = QuantizerConfig(codebook_size=4, codebook_dim=DIM, estimator="rotation_dynamic")
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(DIM, config)
    quantizer.codebook.codes.copy_(torch.randn(4, DIM))
    rows = batch_of(0).chunk(world)[rank].clone().requires_grad_()
    quantizer(rows[:, :, None]).quantized.sum().backward()
    with torch.no_grad():  # scoring on only one rank does not wait for the others
        if rank == 0:
            quantizer.eval()(rows[:, :, None])
    assert rows.grad is not None
    return rows.grad


def run_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # nothing may depend on a rank's own generator
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=world)
    try:
        book = Codebook(CONFIG)
        lines = train(book, 0, STEPS, rank, world)
        gradient = dynamic_gradient(rank, world)
    finally:
        dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(lines))
    tensors = {**book.state_dict(), "gradient": gradient}
    safetensors.torch.save_file(tensors, Path(folder, f"{rank}.safetensors"))


def train_on(world: int, folder: Path) -> tuple[list[list[dict]], dict[str, torch.Tensor]]:
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=run_rank, args=(rank, world, str(folder))) for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    lines = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
    return lines, safetensors.torch.load_file(folder / "0.safetensors")


@pytest.fixture(scope="module")
def alone() -> tuple[list[dict], Codebook]:
    torch.manual_seed(0)
    book = Codebook(CONFIG)
    return train(book, 0, STEPS), book


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_are_bit_equal_and_agree_with_one_process(world, alone, tmp_path):
    one, book = alone
    lines, tensors = train_on(world, tmp_path)
    for rank in lines[1:]:
        assert [line["hash"] for line in rank] == [line["hash"] for line in lines[0]]
    assert len({line["hash"] for line in lines[0]}) == STEPS
    restarts = [len(line["restarted"]) for line in lines[0]]
    assert all(count >= 4 for count in restarts[4::5])
    assert [line["restarted"] for line in lines[0]] == [line["restarted"] for line in one]
    assert [line["counts"] for line in lines[0]] == [line["counts"] for line in one]
    error = (tensors["codes"] - book.codes).norm() / book.codes.norm()
    assert float(error) < 1e-6
    whole = dynamic_gradient()
    torch.testing.assert_close(tensors["gradient"], whole.chunk(world)[0])


def test_saving_and_loading_in_the_middle_changes_no_bit(alone, tmp_path):
    whole, _ = alone
    torch.manual_seed(1)
    first = Codebook(CONFIG)
    lines = train(first, 0, 93)
    safetensors.torch.save_file(first.state_dict(), tmp_path / "book.safetensors")
    second = Codebook(CONFIG)
    second.load_state_dict(safetensors.torch.load_file(tmp_path / "book.safetensors"))
    lines += train(second, 93, STEPS)
    assert lines == whole
