"""Tests of the work between training steps: memory, progress and late requests to stop."""

import itertools
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SMALL_TOKENIZER

from video_vq.config import load_config
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.training import loop
from video_vq.training import tokenizer as tokenizer_module
from video_vq.training.loop import Training
from video_vq.training.progress_line import ProgressLine
from video_vq.training.state import TrainingState
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(clip_store: Path, folder: Path, *changes: str, **more: Any) -> Path | None:
    config = folder / "tokenizer.yaml"
    config.write_text(SMALL_TOKENIZER)
    made = load_config(TokenizerTrainingConfig, config, list(changes))
    return train_tokenizer(made, clip_store, folder / "run", **more)


@pytest.mark.parametrize(("accumulation", "largest"), [(1, 4), (2, 2), (4, 1)])
def test_scoring_and_showing_clips_take_no_more_at_once_than_training(
    accumulation, largest, clip_store, tmp_path, monkeypatch
):
    sizes: list[int] = []
    real = tokenizer_module.functional_call

    def noted(model: Any, weights: Any, arguments: tuple[torch.Tensor]) -> Any:
        sizes.append(len(arguments[0]))
        return real(model, weights, arguments)

    monkeypatch.setattr(tokenizer_module, "functional_call", noted)
    changes = ("optim.steps=1", f"optim.accumulation={accumulation}", "run.validation_clips=6")
    train(clip_store, tmp_path, *changes, trackers=["tensorboard"])
    scored, shown = 6, 4
    assert sum(sizes) == scored + shown
    assert max(sizes) == largest


def test_frequent_checkpoints_do_not_silence_a_training(clip_store, tmp_path, monkeypatch, capfd):
    """The clock advances by 4 s at each reading: after each step and after each save."""
    seconds = itertools.count(0.0, 4.0)
    monkeypatch.setattr(loop, "ProgressLine", partial(ProgressLine, clock=seconds.__next__))
    train(
        *(clip_store, tmp_path, "optim.steps=12", "run.checkpoint_every=1"),
        *("run.log_every=100", "run.validate_every=100", "run.validation_clips=1"),
    )
    said = re.findall(r"^step (\d+) of 12  (\S+) clips per second", capfd.readouterr().err, re.M)
    # A step and its save take 8 s, of which the save is no part of the rate: 4 clips in 4 s.
    assert said == [("1", "1.00"), ("5", "1.00"), ("9", "1.00")]


@pytest.mark.parametrize("moment", ["validation", "last save", "export"])
def test_a_stop_file_that_comes_too_late_does_not_stop_a_longer_run(
    moment, clip_store, tmp_path, monkeypatch
):
    owner, name = {
        "validation": (Training, "note_validation"),
        "last save": (TrainingState, "save"),
        "export": (VideoTokenizer, "save_pretrained"),
    }[moment]
    real = getattr(owner, name)

    def late(*arguments: Any) -> Any:
        done = real(*arguments)
        (tmp_path / "run" / "stop").touch()
        return done

    monkeypatch.setattr(owner, name, late)
    short = ("optim.steps=1", "run.validation_clips=1")
    assert train(clip_store, tmp_path, *short) is not None
    monkeypatch.undo()
    assert not (tmp_path / "run" / "stop").exists()
    longer = ("optim.steps=2", "run.validation_clips=1")
    assert train(clip_store, tmp_path, *longer, allowed_changes=["config.optim.steps"]) is not None


def test_a_run_that_only_lacks_its_last_validation_announces_no_steps(
    clip_store, tmp_path, monkeypatch, capfd
):
    changes = ("optim.steps=2", "run.validation_clips=1")
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_module, "score", lambda *_: stop_now(tmp_path / "run"))
        assert train(clip_store, tmp_path, *changes) is None
    said = capfd.readouterr().out
    assert "training steps 1 to 2" in said
    assert "stopped after step 2 of 2 and saved" in said
    assert train(clip_store, tmp_path, *changes) is not None
    said = capfd.readouterr().out
    assert "resuming from" in said
    assert "validated on 1 clip in" in said
    assert "training steps" not in said


def stop_now(run: Path) -> None:
    """Ask a run to stop, as during a validation, which then returns no scores."""
    (run / "stop").touch()
