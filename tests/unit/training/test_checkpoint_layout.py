"""Tests of the layout of checkpoint files, and of what an optimizer loads."""

import json

import pytest
import safetensors.torch
import torch

from video_vq.errors import InputError
from video_vq.stores import files
from video_vq.training.checkpoint import (
    KEEP,
    CheckpointFolder,
    _safetensors,
    random_state,
    set_random_state,
)
from video_vq.training.optimizer import load_optimizer, optimizer_tensors


@pytest.mark.parametrize("length", range(1, 18))
def test_tensors_begin_at_a_multiple_of_eight_bytes_whatever_their_names(tmp_path, length):
    tensors = {
        "a" * length: torch.arange(3, dtype=torch.float64),
        "b" * length: torch.tensor(True),
        "c" * length: torch.zeros(0, 4),
        "d" * length: torch.randn(4, 6).t()[::2],
    }
    data = b"".join(_safetensors(tensors))
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    text = data[8 : 8 + size]
    assert size - len(text.rstrip(b" ")) < 8
    header = json.loads(text)
    begins = [entry["data_offsets"][0] for entry in header.values()]
    assert begins == sorted(begins)
    assert len(data) == 8 + size + sum(value.nbytes for value in tensors.values())
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    found = safetensors.torch.load_file(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_the_folder_of_checkpoints_is_made_with_those_above_it(tmp_path):
    folder = CheckpointFolder(tmp_path / "run" / "state")
    folder.save(1, {"model": {"w": torch.ones(2)}}, {"step": 1})
    assert folder.steps() == [1]


def test_as_many_checkpoints_stay_as_are_kept_and_no_leftover(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    for step in range(1, KEEP + 3):
        folder.save(step, {"model": {"w": torch.ones(2)}}, {"step": step})
        assert folder.steps() == list(range(max(1, step - KEEP + 1), step + 1))
        assert len(list((tmp_path / "state").iterdir())) == min(step, KEEP)
    leftovers = [tmp_path / "state" / f"step_9{kind}{files.PARTIAL}" for kind in ("folder", "file")]
    leftovers[0].mkdir()
    leftovers[1].write_bytes(b"x")
    folder.save(99, {}, {"step": 99})
    assert not any(leftover.exists() for leftover in leftovers)


@pytest.mark.parametrize("hashes", [{}, {"model.safetensors": "0"}, [], "state.json", None])
def test_a_manifest_that_lists_no_state_is_a_problem(tmp_path, hashes):
    folder = CheckpointFolder(tmp_path / "state")
    folder.save(1, {}, {"step": 1})
    path = folder.folder(1) / "manifest.json"
    path.write_text(json.dumps({"step": 1, "sha256": hashes}))
    assert str(folder.problem(1)).endswith("manifest.json: lists no files")
    path.write_text("{")
    assert "manifest.json: a checkpoint's manifest cannot be read" in str(folder.problem(1))


def trained(number: int = 12) -> torch.optim.Optimizer:
    """Return AdamW after two steps on more than ten tensors with different shapes."""
    torch.manual_seed(0)
    values = [torch.nn.Parameter(torch.randn(1 + n)) for n in range(number)]
    optimizer = torch.optim.AdamW(values, lr=0.1)
    for step in range(2):
        for value in values:
            value.grad = torch.full_like(value, 1.0 + step)
        optimizer.step()
    return optimizer


def test_an_optimizer_goes_on_from_what_was_kept_of_it():
    one, other = trained(), trained()
    tensors = {name: value.clone() for name, value in optimizer_tensors(one).items()}
    assert sorted(tensors) == sorted(
        f"{n}.{name}" for n in range(12) for name in ("step", "exp_avg", "exp_avg_sq")
    )
    fresh = torch.optim.AdamW(other.param_groups[0]["params"], lr=0.1)
    load_optimizer(fresh, tensors)
    for optimizer in (one, fresh):
        for value in optimizer.param_groups[0]["params"]:
            value.grad = torch.full_like(value, -3.0)
        optimizer.step()
    pairs = zip(one.param_groups[0]["params"], fresh.param_groups[0]["params"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert optimizer_tensors(fresh).keys() == tensors.keys()


def test_an_optimizer_refuses_what_is_not_its_own():
    tensors = optimizer_tensors(trained())
    less = {name: value for name, value in tensors.items() if name != "11.exp_avg"}
    with pytest.raises(InputError, match=r"the optimizer: does not fit.*\n  missing: 11\.exp_avg$"):
        load_optimizer(trained(), less)
    with pytest.raises(InputError, match=r"\n  not part of the model: 12\.step$"):
        load_optimizer(trained(), {**tensors, "12.step": torch.zeros(())})
    with pytest.raises(InputError, match=r"3\.exp_avg_sq: expected \(4,\) .*, found \(5,\)"):
        load_optimizer(trained(), {**tensors, "3.exp_avg_sq": torch.zeros(5)})
    fresh = trained(2)
    fresh.state.clear()
    load_optimizer(fresh, {})  # before the first step
    assert optimizer_tensors(fresh) == {}


def test_random_numbers_go_on_where_they_were():
    before = torch.get_rng_state()
    try:
        kept = random_state()
        assert set(kept) == ({"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"})
        expected = torch.rand(5)
        torch.rand(100)
        set_random_state(kept)
        assert torch.equal(torch.rand(5), expected)
    finally:
        torch.set_rng_state(before)
