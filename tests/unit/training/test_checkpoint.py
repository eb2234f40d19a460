"""Tests that checkpoints are written whole or not at all, and rejected after any change."""

import errno
import importlib
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from video_vq.errors import InputError
from video_vq.stores import files
from video_vq.training.averaging import Averages
from video_vq.training.checkpoint import CheckpointFolder, _safetensors
from video_vq.training.training_config import RunConfig


def save(folder: CheckpointFolder, step: int, **more) -> None:
    tensors = {"w": torch.full((3,), float(step))}
    folder.save(step, {"model": tensors, "averages": tensors}, {"step": step}, **more)


def test_a_checkpoint_comes_back(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    assert folder.newest() is None
    save(folder, 10)
    assert folder.newest() == (10, [])
    tensors, state = folder.load(10)
    assert torch.equal(tensors["model"]["w"], torch.full((3,), 10.0))
    assert state == {"step": 10}


def test_the_last_two_and_the_best_stay(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    for step in (10, 20, 30, 40):
        save(folder, step, keep={20})
    assert folder.steps() == [20, 30, 40]


def test_any_changed_byte_or_file_is_found(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    save(folder, 10)
    save(folder, 20)
    for name in ("model.safetensors", "state.json", "manifest.json"):
        path = folder.folder(20) / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        found = folder.newest()
        if name == "manifest.json" and found is not None and found[0] == 20:
            # The last byte of the manifest is a line feed; JSON does not care.
            assert json.loads(path.read_bytes()) == json.loads(whole)
        else:
            assert found is not None
            assert found[0] == 10
            assert len(found[1]) == 1
        path.write_bytes(whole)
    (folder.folder(20) / "extra.safetensors").write_bytes(b"")
    found = folder.newest()
    assert found is not None
    assert found[0] == 10
    (folder.folder(10) / "manifest.json").unlink()
    with pytest.raises(InputError, match="no checkpoint can be used"):
        folder.newest()


def test_the_last_two_that_verify_stay_when_a_newer_one_is_damaged(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    for step in (10, 20, 30):
        save(folder, step, keep={10})
    for fresh in (False, True):
        newest = folder.folder(folder.steps()[-1]) / "model.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1])
        folder = CheckpointFolder(tmp_path / "state") if fresh else folder
        save(folder, 50 if fresh else 40, keep={10})
    assert [step for step in folder.steps() if folder.problem(step) is None] == [10, 20, 50]
    save(folder, 60, keep={10})
    assert [step for step in folder.steps() if folder.problem(step) is None] == [10, 50, 60]


class Fault:
    """A wrapper that makes the n-th call of a function fail: by an error or by a kill.

    A failing write first writes half of the data.
    """

    def __init__(self, target: str, kind: str, point: int):
        module, _, self.name = target.rpartition(".")
        self.module = importlib.import_module(module)
        self.whole = getattr(self.module, self.name)
        self.kind, self.point, self.calls = kind, point, 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.calls != self.point:
            return self.whole(*arguments, **named)
        if self.name == "write":
            file, data = arguments
            self.whole(file, data[: len(data) // 2])
            file.flush()
        if self.kind == "kill":
            os._exit(9)
        raise OSError(getattr(errno, self.kind), "injected")

    def save(self, folder: CheckpointFolder) -> str:
        """Save step 40 with the fault, and return the outcome as text."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.module, self.name, self)
            try:
                save(folder, 40, keep={10})
            except OSError:
                return "failed"
        return "saved" if self.calls < self.point else "saved in spite of it"


def in_a_fork(action: Callable[[], str]) -> str:
    """Run an action in a forked child; return its result, or "killed" if there is none."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on a fork beside threads warns; this child takes no lock of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(writing, action().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer or "killed"


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "kill"])
@pytest.mark.parametrize(
    ("target", "num_points"),
    [
        ("video_vq.stores.files.write", 8),
        ("video_vq.stores.files.fsync", 6),
        ("video_vq.stores.files.rename", 2),
        ("os.unlink", 4),
    ],
)
def test_after_a_fault_at_any_point_of_a_save_and_its_pruning_all_is_well(
    tmp_path, target, num_points, kind, is_replaced
):
    """Two tensor files are saved, each as length, header and one tensor; old ones are pruned."""
    template = CheckpointFolder(tmp_path / "template")
    for step in (10, 20, 30, *((40,) if is_replaced else ())):
        save(template, step, keep={10, 20})
    if is_replaced:
        (template.folder(40) / "state.json").write_bytes(b"{}")
    outcomes = []
    while "saved" not in outcomes:
        point = len(outcomes) + 1
        state = Path(shutil.copytree(template.path, tmp_path / str(point)))
        folder, fault = CheckpointFolder(state), Fault(target, kind, point)
        if kind == "kill":
            outcomes.append(in_a_fork(lambda fault=fault, folder=folder: fault.save(folder)))
            folder = CheckpointFolder(state)
        else:
            outcomes.append(fault.save(folder))
        found = folder.newest()
        assert found is not None
        # Saved whole or not at all; otherwise the newest checkpoint is the previous one.
        assert found[0] == 40 or (found[0] == 30 and "saved" not in outcomes[-1])
        assert [step for step in (10, 30) if folder.problem(step)] == []
        assert_is_of(folder, found[0])
        save(folder, 50, keep={10})
        assert folder.newest() == (50, [])
        healthy = [step for step in folder.steps() if folder.problem(step) is None]
        assert healthy[-2:] == [found[0], 50]
        assert_is_of(folder, 50)
        assert not list(state.glob("*.partial"))
    # Replacing a checkpoint takes one more rename and removes four more files.
    more = {"rename": 1, "unlink": 4}.get(target.rpartition(".")[2], 0) if is_replaced else 0
    assert len(outcomes) == num_points + more + 1


def assert_is_of(folder: CheckpointFolder, step: int) -> None:
    tensors, state = folder.load(step)
    assert state == {"step": step}
    assert tensors.keys() == {"model", "averages"}
    for values in tensors.values():
        assert torch.equal(values["w"], torch.full((3,), float(step)))


def test_every_byte_of_a_save_is_written_by_one_function_and_fsynced_before_the_rename(
    tmp_path, monkeypatch
):
    events: list[tuple[str, str]] = []
    unwritten = CheckpointFolder(tmp_path / "unwritten")

    def note(what: str, module: str, name: str, place: Callable[..., str]) -> None:
        whole = getattr(importlib.import_module(module), name)

        def noting(*arguments):
            events.append((what, place(*arguments)))
            return whole(*arguments)

        monkeypatch.setattr(f"{module}.{name}", noting)

    def path_of(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    ours = "video_vq.stores.files"
    note("write", ours, "write", lambda file, _: Path(file.name).name)
    note("fsync", "os", "fsync", path_of)  # the system's own: nothing passes by ours
    for name in ("rename", "replace"):
        note("rename", "os", name, lambda source, _: Path(source).name)
    folder = CheckpointFolder(tmp_path / "state")
    for step in (10, 20):
        save(folder, step)
    events.clear()
    save(folder, 30)
    names = ("model.safetensors", "averages.safetensors", "state.json", "manifest.json")
    assert [event for event, _ in itertools.groupby(events)] == [
        *[(what, name) for name in names for what in ("write", "fsync")],
        ("fsync", "step_0000030.partial"),
        ("rename", "step_0000030.partial"),
        ("fsync", "state"),
        ("rename", "step_0000010"),
    ]
    monkeypatch.setattr(f"{ours}.write", lambda file, data: None)
    save(unwritten, 10)
    files_of_it = list(unwritten.folder(10).iterdir())
    assert len(files_of_it) == len(names)
    assert all(file.stat().st_size == 0 for file in files_of_it)


@pytest.mark.parametrize("number", range(8))
def test_a_save_that_lost_bytes_does_not_verify_and_costs_no_older_one(
    tmp_path, monkeypatch, number
):
    folder = CheckpointFolder(tmp_path / "state")
    for step in (10, 20):
        save(folder, step)
    whole, calls = files.write, 0

    def lossy(file, data):
        nonlocal calls
        calls += 1
        whole(file, data[:-2] if calls == number + 1 else data)

    monkeypatch.setattr("video_vq.stores.files.write", lossy)
    save(folder, 30)
    assert folder.problem(30) is not None
    assert folder.steps() == [10, 20, 30]
    found = folder.newest()
    assert found is not None
    assert found[0] == 20


def test_a_save_that_was_killed_is_no_hindrance_to_the_same_step_again(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    save(folder, 10)
    killed = Fault("video_vq.stores.files.rename", "kill", 1)

    def save_20() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(killed.module, killed.name, killed)
            save(folder, 20)
        return "saved"

    assert in_a_fork(save_20) == "killed"
    assert (folder.path / "step_0000020.partial").is_dir()
    save(folder, 20)
    assert folder.newest() == (20, [])


def test_a_save_that_failed_gives_the_disk_its_room_back_at_once(tmp_path):
    folder = CheckpointFolder(tmp_path / "state")
    save(folder, 10)
    assert Fault("video_vq.stores.files.write", "ENOSPC", 5).save(folder) == "failed"
    assert [entry.name for entry in folder.path.iterdir()] == ["step_0000010"]


def test_averages_follow_the_closed_form_and_copy_rows_that_jumped():
    layer = torch.nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    averages = Averages(layer, RunConfig(average_decay=0.5))
    with torch.no_grad():
        layer.weight.fill_(1.0)
    averages.update(layer)  # decay 0.1
    torch.testing.assert_close(averages.tensors["weight"], torch.full((3, 2), 0.9))
    averages.update(layer, {"weight": torch.tensor([1])})  # decay 2/11
    expected = torch.full((3, 2), 0.9 * 2 / 11 + 9 / 11)
    expected[1] = 1.0
    torch.testing.assert_close(averages.tensors["weight"], expected)


def test_the_files_are_read_by_the_library_as_they_were():
    tensors = {
        "matrix": torch.randn(3, 5),
        "transposed": torch.randn(4, 6).t(),
        "every other": torch.arange(6.0)[::2],
        "number": torch.tensor(2.5, dtype=torch.float64),
        "flags": torch.tensor([True, False, True]),
        "nothing": torch.zeros(0, 3),
        "narrow": torch.randn(3).bfloat16(),
        "half": torch.randn(3).half(),
        "bytes": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "counts": torch.arange(4),
    }
    data = b"".join(bytes(part) for part in _safetensors(tensors))
    found = safetensors.torch.load(data)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("length", range(1, 18))
def test_every_tensor_of_a_file_begins_at_a_multiple_of_its_own_size(length):
    """Files can thus be mapped into memory unchanged; the header may have any length."""
    dtypes = [torch.float16, torch.float64, torch.float32, torch.bool, torch.int64]
    tensors = {"n" * length + str(k): torch.ones(3, dtype=d) for k, d in enumerate(dtypes)}
    data = b"".join(bytes(part) for part in _safetensors(tensors))
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size]
    assert size % 8 == 0
    assert size - len(text.rstrip(b" ")) < 8
    header = json.loads(text)
    for name, value in tensors.items():
        start, end = header[name]["data_offsets"]
        assert (8 + size + start) % value.itemsize == 0
        assert end - start == value.nbytes
    assert sorted(entry["data_offsets"] for entry in header.values())[-1][1] == len(data) - 8 - size
    assert safetensors.torch.load(data).keys() == tensors.keys()


def test_equal_tensors_give_equal_bytes_in_whatever_order_they_come():
    tensors = {name: torch.full((2,), float(k)) for k, name in enumerate("badc")}
    swapped = dict(reversed(tensors.items()))
    first, second = (b"".join(map(bytes, _safetensors(one))) for one in (tensors, swapped))
    assert first == second
