"""Tests that several ranks compute what one rank computes and react to errors together."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import ranks
import safetensors.torch
import torch
from holder import Holder
from ranks import ACCUMULATIONS, BAD_STEPS, KINDS, SIZES, make_data, settings, train
from runs import AfterStep, launcher, run

from video_vq.training.checkpoint import CheckpointFolder

SCRIPT = Path(ranks.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder for all cases, with the data and with the results of one rank."""
    folder = tmp_path_factory.mktemp("ranks")
    make_data(folder)
    for number in (1, 2, 3):
        (folder / str(number)).mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for case in (ranks.parity, ranks.validation, ranks.poison):
        case(folder, folder / "1")
    for kind in KINDS:
        changes = settings(kind)
        train(kind, folder, folder / "1" / f"{kind}-whole", changes)
        train(kind, folder, folder / "1" / f"{kind}-begun", changes, AfterStep(3))
        shutil.copytree(folder / "1" / f"{kind}-begun", folder / "2" / f"{kind}-begun")
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """Return the finished launch of two ranks, which ran these cases and diverged in the last."""
    cases = ("parity", "validation", "poison", "more_ranks", "second_start", "diverge")
    with Holder(folder / "2" / "held") as holder:
        (folder / "2" / "holder").write_text(holder.name)
        return run([*launcher(2), SCRIPT, folder, *cases], expect=1)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensors(run: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    file = run / "state" / f"step_{step:07d}" / f"{name}.safetensors"
    return safetensors.torch.load(file.read_bytes())


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the L2 distance between all tensors, relative to the norm of the first set."""
    assert first.keys() == second.keys()
    one, other = (
        torch.cat([values[name].double().flatten() for name in sorted(values)])
        for values in (first, second)
    )
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_like_one(folder, two, kind, accumulation):
    one, other = (folder / world / f"{kind}-{accumulation}" for world in "12")
    for name in ("model", "averages"):
        assert distance(tensors(one, 30, name), tensors(other, 30, name)) < 1e-5
    start = tensors(folder / "1" / f"{kind}-1", 30, "model")
    assert distance(start, tensors(folder / "1" / f"{kind}-whole", 6, "model")) > 1e-2
    rates = [
        [
            (line["step"], line["optim/lr"])
            for line in lines(run / "metrics.jsonl")
            if "optim/lr" in line
        ]
        for run in (one, other)
    ]
    assert rates[0] == rates[1]
    assert [step for step, _ in rates[0]] == [5, 10, 15, 20, 25, 30]
    if kind == "tokenizer":
        alone = lines(one / "observed-rank0.jsonl")
        both = zip(*(lines(other / f"observed-rank{rank}.jsonl") for rank in (0, 1)), strict=True)
        for line, shares in zip(alone, both, strict=True):
            size = 4 // accumulation  # of a rank's micro-batch
            parts = [share["videos"] for share in shares]
            # Each micro-batch is shared: its first half lies on rank 0.
            together = [
                video
                for start in range(0, 4, size)
                for part in parts
                for video in part[start : start + size]
            ]
            assert line["videos"] == together


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_train_like_the_whole_batch(folder, kind):
    whole = tensors(folder / "1" / f"{kind}-1", 30, "model")
    for accumulation in ACCUMULATIONS[1:]:
        parts = tensors(folder / "1" / f"{kind}-{accumulation}", 30, "model")
        assert distance(whole, parts) < 1e-5


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_validates_with_no_more_at_once_than_it_trains_with(folder, two, kind, accumulation):
    for world in (1, 2):
        largest = 8 // (accumulation * world)
        for rank in range(world):
            file = folder / str(world) / f"{kind}-{accumulation}-validated-rank{rank}.json"
            sizes = json.loads(file.read_text())
            assert sum(sizes) == 2 * 20 / world  # two validations of 20 items
            assert max(sizes) == largest


def test_validation_is_the_same_on_one_two_and_three_ranks(folder, two):
    run([sys.executable, SCRIPT, "3", folder, "validation"])
    expected = json.loads((folder / "1" / "validation-rank0.json").read_text())
    assert list(expected) == [str(size) for size in SIZES]
    for world in (2, 3):
        for rank in range(world):
            found = json.loads((folder / str(world) / f"validation-rank{rank}.json").read_text())
            for size, scores in expected.items():
                assert found[size] == pytest.approx(scores, rel=1e-6), (world, rank, size)
    for name in ("psnr", "code_usage", "perplexity", "bits_per_token"):
        assert len({scores[name] for scores in expected.values()}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_all(folder, two, kind):
    facts = [
        json.loads((folder / world / f"{kind}-poison-rank{rank}.json").read_text())
        for world, rank in (("1", 0), ("2", 0), ("2", 1))
    ]
    assert [fact["skipped"] for fact in facts] == [len(BAD_STEPS)] * 3
    assert facts[1]["sha256"] == facts[2]["sha256"]
    logged = lines(folder / "2" / f"{kind}-poison" / "metrics.jsonl")
    skipped = [line["optim/skipped_steps"] for line in logged if "optim/lr" in line]
    assert skipped == [sum(bad <= step for bad in BAD_STEPS) for step in range(1, 11)]
    one, other = (tensors(folder / world / f"{kind}-poison", 10, "model") for world in "12")
    assert all(torch.isfinite(value).all() for value in other.values())
    assert distance(one, other) < 1e-5


def test_ten_such_steps_in_a_row_end_the_run_and_name_a_finite_checkpoint(folder, two):
    state = CheckpointFolder(folder / "2" / "diverged" / "state")
    newest = state.newest()
    assert newest == (20, [])
    assert "not finite 10 steps in a row, up to step 22" in two.stderr
    assert f"the last healthy checkpoint: {state.folder(20)}. Lower optim.lr" in two.stderr
    assert "Traceback (most recent call last)" not in two.stderr.partition("not finite 10")[0]
    values, described = state.load(20)
    assert described["bad_in_a_row"] == 8
    for found in values.values():
        assert all(torch.isfinite(value).all() for value in found.values())


def test_all_ranks_end_where_another_process_writes(folder, two):
    holder = (folder / "2" / "holder").read_text()
    first, second = ((folder / "2" / f"refusal-rank{rank}").read_text() for rank in (0, 1))
    assert f"held: is being written by {holder}" in first
    assert second == "rank 0 cannot continue; its message says why"
    # Each rank looks for itself before torch is loaded; later rank 0 looks for all.
    refusal = f"held: is being written by {holder}"
    assert two.stderr.count(refusal) == 3
    assert two.stderr.count("video-vq [rank 1]: rank 0 cannot continue; its message says why") >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_more_ranks_go_on_with_a_run_where_that_is_allowed(folder, two, kind):
    begun, whole = folder / "2" / f"{kind}-begun", folder / "1" / f"{kind}-whole"
    assert "world_size: 1 -> 2" in two.stderr
    assert "--allow-change world_size" in two.stderr
    described = json.loads((begun / "run.json").read_text())
    assert described["changes"] == [{"after_step": 3, "was -> now": ["world_size: 1 -> 2"]}]
    assert distance(tensors(begun, 6, "model"), tensors(whole, 6, "model")) < 1e-5
    if kind == "tokenizer":
        assert [line["step"] for line in lines(begun / "observed-rank1.jsonl")] == [4, 5, 6]


def test_the_one_process_that_launch_cpu_starts_in_silence_is_refused(folder):
    command = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    more = ["--num_machines", "1", "--dynamo_backend", "no", "--mixed_precision", "no"]
    answer = run(
        [
            *(sys.executable, *command, *more, "-m", "video_vq"),
            *ranks.arguments("prior", folder, folder / "alone"),
        ],
        expect=1,
    )
    assert "asked for several processes and started one, as it does with --cpu" in answer.stderr
    assert "accelerate launch --multi_gpu --num_processes N -m video_vq" in answer.stderr
    assert not (folder / "alone").exists()
