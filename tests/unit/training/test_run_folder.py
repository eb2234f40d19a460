"""Tests that a run folder rejects a different run, and that a full disk does not end a run."""

import errno
import gc
import json
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.tracking import WandBTracker
from holder import Holder

from video_vq.config import to_json
from video_vq.distributed import make_accelerator
from video_vq.errors import InputError
from video_vq.stores import files
from video_vq.stores.lock import LOCK
from video_vq.training.finished import in_todays_settings
from video_vq.training.optimizer import make_optimizer
from video_vq.training.run_folder import RunFolder, diverged, refuse_changes
from video_vq.training.state import TrainingState
from video_vq.training.trackers import Trackers
from video_vq.training.training_config import OptimizerConfig, RunConfig, TokenizerTrainingConfig

CONFIG = {
    "model": {"kind": "autoregressive", "width": 8},
    "optim": {"kind": "adamw", "decay_steps": None, "lr": 0.1, "steps": 9},
    "run": {"seed": 0},
}


def open_run(path: Path, allowed: tuple[str, ...] = (), **changes: Any) -> RunFolder:
    facts = {"data": "hash", "precision": "no", "world_size": 1, "threads": 1}
    config = changes.pop("config", CONFIG)
    return RunFolder(path, "prior", config, {**facts, **changes}, is_main=True, allowed=allowed)


def test_more_ranks_are_refused_with_the_difference_and_the_flag(tmp_path):
    open_run(tmp_path / "run")
    with pytest.raises(InputError) as refusal:
        open_run(tmp_path / "run", world_size=2)
    message = str(refusal.value)
    assert "started with other settings (was -> now):\n  world_size: 1 -> 2\n" in message
    assert message.endswith("from the newest checkpoint: --allow-change world_size")
    open_run(tmp_path / "run", world_size=1)  # the refusal changed nothing
    open_run(tmp_path / "run", ("world_size",), world_size=2)
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["identity"]["world_size"] == 2
    assert described["changes"] == [{"after_step": 0, "was -> now": ["world_size: 1 -> 2"]}]
    open_run(tmp_path / "run", world_size=2)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ([], ()),
        (["config.optim.lr: 1 -> 2"], ("config.optim.lr",)),
        (["config.optim.lr: 1 -> 2", "config.optim.steps: 1 -> 2"], ("config.optim",)),
        (["world_size: 1 -> 2", "data: 'a' -> 'b'"], ("world_size", "data")),
    ],
)
def test_a_change_is_allowed_by_its_name_or_its_sections(changes, allowed):
    refuse_changes(Path("run"), changes, allowed)


def test_a_run_of_an_earlier_version_goes_on_without_a_flag(tmp_path):
    config = to_json(TokenizerTrainingConfig())
    facts = {"data": "d", "precision": "no", "world_size": 1, "threads": 1}
    arguments = (tmp_path / "run", "tokenizer")
    RunFolder(*arguments, config, facts, True).let_go()
    file = tmp_path / "run" / "run.json"
    described = json.loads(file.read_text())
    recorded = described["identity"]["config"]
    del recorded["optim"]["kind"], recorded["optim"]["decay_steps"]
    recorded["run"]["audit_every"] = 5
    del recorded["run"]["measure_gradients"]
    del recorded["continuous_steps"], recorded["loss"]["temporal"]
    # What the first versions knew of a quantizer.
    known = "kind codebook_size codebook_dim learning decay decay_warmup init restart_threshold"
    known += " estimator normalize gradient_through_norm centered"
    quantizer = recorded["model"]["quantizer"]
    recorded["model"]["quantizer"] = {name: quantizer[name] for name in known.split()}
    file.write_text(json.dumps(described))
    before = file.read_bytes()
    RunFolder(*arguments, config, facts, True).let_go()
    assert file.read_bytes() == before
    muon = to_json(TokenizerTrainingConfig(optim=OptimizerConfig(kind="muon")))
    with pytest.raises(InputError, match=r"config\.optim\.kind: 'adamw' -> 'muon'"):
        RunFolder(*arguments, muon, facts, True)


def test_a_prior_of_an_earlier_version_is_autoregressive():
    before = {"kind": "prior", "config": {"model": {"width": 64}}}
    today = in_todays_settings(before)
    assert today["config"]["model"] == {"kind": "autoregressive", "width": 64}


@pytest.mark.parametrize("identity", [None, [], {}, {"config": 3}, {"config": {"optim": []}}])
def test_a_damaged_description_is_left_as_it_is(identity):
    assert in_todays_settings(identity) == identity


@pytest.mark.parametrize(
    ("changes", "allowed", "flags"),
    [
        (["config.optim.lr: 1 -> 2"], ("config.optim.l",), ["config.optim.lr"]),
        (["config.optim.lr: 1 -> 2"], ("config.optim.lr.x", "optim.lr"), ["config.optim.lr"]),
        (
            ["config.optim.lr: 1 -> 2", "threads: 1 -> 2", "world_size: 1 -> 2"],
            ("threads",),
            ["config.optim.lr", "world_size"],
        ),
    ],
)
def test_what_is_not_allowed_is_listed_alone_and_with_its_flags(changes, allowed, flags):
    with pytest.raises(InputError) as refusal:
        refuse_changes(Path("run"), changes, allowed)
    message = str(refusal.value)
    assert message.endswith(": " + " ".join(f"--allow-change {flag}" for flag in flags))
    for change in changes:
        assert (change in message) == (change.partition(":")[0] in flags)


@pytest.mark.parametrize("fixed", ["config.model.width", "config.run.seed", "kind"])
@pytest.mark.parametrize("is_allowed", [False, True])
def test_another_model_seed_or_kind_is_another_run_even_if_allowed(fixed, is_allowed):
    changes = [f"{fixed}: 1 -> 2", "config.optim.lr: 1 -> 2"]
    allowed = ("config.model", "config", fixed) if is_allowed else ()
    with pytest.raises(InputError) as refusal:
        refuse_changes(Path("run"), changes, allowed)
    message = str(refusal.value)
    assert changes[0] in message
    assert (changes[1] in message) == (not is_allowed)
    assert "With another model or seed it would be another run" in message
    assert "--allow-change" not in message


def is_held(path: Path) -> bool:
    holder = Holder(path)
    holder.leave()
    return not holder.holds


@pytest.mark.parametrize("is_full", [False, True])
def test_a_run_holds_its_folder_until_its_last_checkpoint_is_written_or_not(
    tmp_path, monkeypatch, is_full
):
    """The launcher and the training loop may have ended by then."""
    path, may_go_on, whole = tmp_path / "run", threading.Event(), files.write
    run = open_run(path)
    layer = torch.nn.Linear(1, 1)
    state = TrainingState(make_accelerator(), layer, RunConfig(average_decay=0.9))
    state.step = 1

    def slow(file, data):
        assert may_go_on.wait(60)
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, data)

    monkeypatch.setattr(files, "write", slow)
    state.save(run, make_optimizer(layer, OptimizerConfig()))
    run.close()
    del run
    assert is_held(path)
    may_go_on.set()
    gc.disable()  # a cycle would keep the lock until it happens to be found
    try:
        assert state.wait_for_save() != is_full
        assert not is_held(path)
    finally:
        gc.enable()
    assert sorted(entry.name for entry in path.iterdir()) == ["run.json", "state"]


def test_a_run_that_is_refused_or_not_rank_0_holds_nothing(tmp_path):
    path = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / LOCK).touch()  # left behind by a killed run
    first = open_run(tmp_path / "empty")
    with pytest.raises(InputError) as refusal:
        open_run(tmp_path / "empty", world_size=2)
    assert is_held(tmp_path / "empty")
    del first
    assert refusal.traceback  # keeps the second, which was never a run
    assert not is_held(tmp_path / "empty")
    with Holder(path) as holder:
        with pytest.raises(InputError, match=f"run: is being written by {holder.name}"):
            open_run(path)
        assert {entry.name for entry in path.iterdir()} == {LOCK}
        RunFolder(path, "prior", CONFIG, {}, is_main=False)


@pytest.mark.parametrize("how", ["diverged", "not exported"])
def test_a_run_that_failed_holds_its_folder_no_longer_than_its_error_is_known(tmp_path, how):
    run = open_run(tmp_path / "run")
    assert is_held(tmp_path / "run")
    if how == "diverged":
        diverged(run, 3, 10)
    else:
        with pytest.raises(InputError, match="free some space"), run.exporting(tmp_path / "run"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not is_held(tmp_path / "run")
    assert run.is_main


def lines(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_that_cannot_be_written_are_said_once_and_leave_no_halves(
    tmp_path, monkeypatch, capsys
):
    run = open_run(tmp_path / "run")
    run.log(1, {"loss/x": 1.0})
    whole = files.write

    def half(file, data):
        whole(file, data[: len(data) // 2])
        file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("video_vq.stores.files.write", half)
        for step in (2, 3):
            run.log(step, {"loss/x": 1.0})
    said = capsys.readouterr().err
    assert said.count("could not write") == 1
    assert "metrics.jsonl: [Errno 28] No space left on device; training continues" in said
    assert all(f"step {step}  loss/x 1" in said for step in (1, 2, 3))
    run.log(4, {"loss/x": 1.0})
    run.log(5, {"loss/x": 1.0})
    run.close()
    assert "metrics.jsonl lacks 2 line(s) that were only shown here" in capsys.readouterr().err
    assert lines(tmp_path / "run" / "metrics.jsonl") == [1, 4, 5]


def broken_tracker(*_: object) -> Any:
    """Return a tracker that fails as if its disk were full."""
    error = OSError(errno.ENOSPC, "No space left on device")
    tracker = mock.Mock(spec=WandBTracker)
    tracker.log.side_effect = tracker.finish.side_effect = error
    return tracker


def test_trackers_on_a_full_disk_are_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(Trackers, "_make", broken_tracker)
    run = open_run(tmp_path / "run")
    run.track(["wandb"], 0)
    assert run.trackers is not None
    run.log(1, {"loss": 1.0})
    (tmp_path / "run" / "clips").write_text("in the way of a folder")
    run.trackers.log_clip(1, "clips", np.zeros((2, 4, 4, 3), np.uint8))
    run.close()
    assert capsys.readouterr().err.count("could not write for the trackers") == 1
    assert lines(tmp_path / "run" / "metrics.jsonl") == [1]


def test_a_model_that_cannot_be_written_at_the_end_says_how_to_go_on(tmp_path):
    run = open_run(tmp_path / "run")
    with (
        pytest.raises(
            InputError, match=r"run/prior: the finished .* free some space, then the same"
        ),
        run.exporting(tmp_path / "run" / "prior"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
