"""Tests that a changed checkpoint loads correctly or is rejected, and never executed."""

import json
import os
import pickle
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hostile_checkpoint import MUTATIONS, Files, damaged_bytes, listed

from video_vq.distributed import make_accelerator
from video_vq.errors import InputError
from video_vq.metrics.code_usage import CodeUsage
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import ConvBackboneConfig, TokenizerConfig
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.stores.files import sha256_file
from video_vq.training.checkpoint import CheckpointFolder
from video_vq.training.optimizer import make_optimizer
from video_vq.training.run_folder import RunFolder
from video_vq.training.state import TrainingState
from video_vq.training.training_config import OptimizerConfig, RunConfig

STEPS = (10, 20)


class Run:
    """A run with two checkpoints in memory, which tests write to the disk and resume."""

    def __init__(self, path: Path):
        torch.manual_seed(0)
        self.accelerator = make_accelerator()
        backbone = ConvBackboneConfig(
            channels=8, num_blocks=1, multipliers=(1, 1), strides_thw=((1, 2, 2),)
        )
        self.model = VideoTokenizer(
            TokenizerConfig(backbone, QuantizerConfig(codebook_size=4, codebook_dim=4))
        )
        self.folder = RunFolder(path, "tokenizer", {}, {}, is_main=True)
        state, optimizer = self.start()
        for step in STEPS:
            self.train(optimizer)
            state.averages.update(self.model)
            assert state.usage is not None
            state.usage.update(torch.randint(4, (32,)))
            state.step, state.best = step, (1.5, 10)
            state.save(self.folder, optimizer)
            assert state.wait_for_save()
        self.steps = {step: read(self.folder.checkpoints.folder(step)) for step in STEPS}

    def start(self) -> tuple[TrainingState, torch.optim.Optimizer]:
        """Return a new training state and optimizer, as before a run is resumed."""
        state = TrainingState(
            self.accelerator, self.model, RunConfig(average_decay=0.9), CodeUsage(4)
        )
        return state, make_optimizer(self.model, OptimizerConfig(steps=100, batch_size=4))

    def train(self, optimizer: torch.optim.Optimizer) -> None:
        """Take one step with made-up gradients."""
        for value in self.model.parameters():
            value.grad = torch.randn_like(value)
        optimizer.step()

    def write(self, steps: dict[int, Files]) -> None:
        """Replace the files of all checkpoints on the disk by the given ones."""
        for step in self.folder.checkpoints.steps():
            folder = self.folder.checkpoints.folder(step)
            for file in folder.iterdir():
                file.unlink()
        for step, found in steps.items():
            for name, data in found.items():
                (self.folder.checkpoints.folder(step) / name).write_bytes(data)

    def resume(self) -> tuple[TrainingState, torch.optim.Optimizer]:
        """Resume as training does; return the state and the optimizer."""
        state, optimizer = self.start()
        assert state.resume(self.folder, optimizer, 100)
        return state, optimizer


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("hostile") / "run")


def read(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@contextmanager
def bounded(seconds: int, more_bytes: int) -> Iterator[None]:
    """Limit a block to some seconds, and to some bytes more than the process uses."""

    def hang(*_: object) -> None:
        raise TimeoutError("hangs")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, limits[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def resume_or_refuse(
    run: Run,
) -> tuple[tuple[TrainingState, torch.optim.Optimizer] | None, str]:
    """Resume; return the state and the optimizer, or None, and the reason if refused."""
    try:
        with bounded(60, 1 << 30):
            return run.resume(), ""
    except InputError as error:
        return None, str(error)


def assert_holds(run: Run, state: TrainingState, optimizer: torch.optim.Optimizer) -> int:
    """Check that the state equals its checkpoint, is finite and can be trained; return its step."""
    found = read(run.folder.checkpoints.folder(state.step))
    for name, tensors in (
        ("model", dict(run.model.state_dict())),
        ("averages", state.averages.tensors),
    ):
        held = safetensors.torch.load(found[f"{name}.safetensors"])
        assert held.keys() == tensors.keys()
        assert all(torch.equal(tensors[key], value) for key, value in held.items())
        assert all(torch.isfinite(value).all() for value in held.values())
    described = json.loads(found["state.json"])
    best = None if state.best is None else list(state.best)
    assert (described["step"], described["best"]) == (state.step, best)
    assert described["skipped_steps"] == state.skipped_steps
    assert described["health"] == vars(state.health)
    run.train(optimizer)
    return state.step


# ---------------------------------------------------------------------------- never executed


class Canary:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, sign: Path):
        self.sign = sign

    def __reduce__(self):
        return os.mkdir, (str(self.sign),)


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_pickle_in_the_place_of_any_file_is_never_executed(run, tmp_path, is_listed):
    sign = tmp_path / "executed"
    torch.save(Canary(sign), tmp_path / "canary.pt")
    pickles = [pickle.dumps(Canary(sign)), (tmp_path / "canary.pt").read_bytes()]
    pickle.loads(pickles[0])
    sign.rmdir()  # it does work
    others = ("custom_checkpoint_0.pkl", "optimizer.bin", "extra.safetensors", "__init__.py")
    for data in pickles:
        for name in (*run.steps[20], *others):
            if is_listed and name == "manifest.json":
                continue
            changed = {**run.steps[20], name: data}
            run.write({10: run.steps[10], 20: listed(changed) if is_listed else changed})
            if is_listed and name.endswith(("safetensors", "json")):
                with pytest.raises(InputError, match="step_0000020: does not fit this run"):
                    run.resume()
            else:
                newest = run.folder.checkpoints.newest()
                assert newest is not None
                assert newest[0] == 10
                assert "step_0000020" in newest[1][0]
                assert assert_holds(run, *run.resume()) == 10
            assert not sign.exists()


@pytest.mark.parametrize("kind", ["symlink", "endless symlink", "folder", "pipe"])
def test_what_is_not_a_plain_file_is_passed_over(run, tmp_path, kind):
    folder = run.folder.checkpoints.folder(20)
    for name in run.steps[20]:
        run.write(run.steps)
        file = folder / name
        if kind == "symlink":
            file.rename(tmp_path / name)
            file.symlink_to(tmp_path / name)
        else:
            file.unlink()
        if kind == "endless symlink":
            file.symlink_to("/dev/zero")
        elif kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        with bounded(60, 1 << 30):
            newest = run.folder.checkpoints.newest()
        assert newest == (10, [f"{folder}: holds something that is not a plain file"])
        file.rmdir() if kind == "folder" else file.unlink()


def test_a_checkpoint_that_cannot_be_read_is_passed_over(run, monkeypatch):
    run.write(run.steps)

    def broken(path: Path) -> str:
        if "step_0000020" in str(path):
            raise OSError(5, "Input/output error")
        return sha256_file(path)

    monkeypatch.setattr("video_vq.training.checkpoint_files.sha256_file", broken)
    newest = run.folder.checkpoints.newest()
    assert newest is not None
    assert newest[0] == 10
    assert "cannot be read: [Errno 5]" in newest[1][0]


def test_names_that_only_look_like_steps_do_not_count(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for name in ("step_00000010", "step_\u0661\u0662\u0663\u0661\u0662\u0663\u0661", "step_10"):
        (tmp_path / name).mkdir()
    assert folder.steps() == []
    (tmp_path / "step_0000010.partial").symlink_to("/nowhere")
    (tmp_path / "step_0000020.partial").write_text("")
    (tmp_path / "step_0000030").write_text("")
    folder.save(20, {}, {})
    assert folder.newest() == (
        20,
        [
            f"{tmp_path}/step_0000030: cannot be read: [Errno 20] Not a "
            f"directory: '{tmp_path}/step_0000030'"
        ],
    )
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_beyond_its_last_step_is_refused(run):
    run.write(run.steps)
    state, optimizer = run.start()
    with pytest.raises(InputError, match=r"has done 20 steps, more than optim.steps = 15"):
        state.resume(run.folder, optimizer, 15)


def test_weights_that_are_not_finite_are_not_saved(run, capsys):
    run.write(run.steps)
    state, optimizer = run.resume()
    state.step = 30
    with torch.no_grad():
        next(run.model.parameters()).view(-1)[0] = torch.nan
    state.save(run.folder, optimizer)
    assert not state.wait_for_save()
    assert "could not save the checkpoint of step 30: model: " in capsys.readouterr().out
    assert run.folder.checkpoints.steps() == [10, 20]


# ------------------------------------------------------------------------------- mutations


@pytest.mark.parametrize(("mutate", "number"), MUTATIONS)
def test_a_mutated_checkpoint_is_loaded_right_or_refused(run, mutate, number, capsys):
    """There are 300 mutations in all."""
    outcomes = {"refused": 0, "the one before": 0, "loaded": 0}
    for seed in range(number):
        mutated: Any = mutate(run.steps[20], run.steps[10], random.Random(seed))
        run.write({10: run.steps[10], 20: mutated})
        resumed, refusal = resume_or_refuse(run)
        if resumed is None:
            assert "step_0000020: does not fit this run: " in refusal, seed
            assert len(refusal) < 5000, seed
            outcomes["refused"] += 1
            continue
        step = assert_holds(run, *resumed)
        if mutate is damaged_bytes:
            # What is loaded is what was written, byte for byte; the manifest may have lost a blank.
            loaded = read(run.folder.checkpoints.folder(step))
            del loaded["manifest.json"]
            assert loaded.items() <= run.steps[step].items(), seed
        outcomes["the one before" if step == 10 else "loaded"] += 1
    assert capsys.readouterr().out.count("skipped a damaged") == outcomes["the one before"]
    assert outcomes["loaded"] < number / 4
    assert sum(outcomes.values()) == number
