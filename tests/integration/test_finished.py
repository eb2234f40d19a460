"""Tests that repeating a finished command says so without loading torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from runs import SMALL_PRIOR, SMALL_TOKENIZER, environment

from video_vq.cli import main
from video_vq.config import load_config, to_json
from video_vq.evaluation.evaluation_job import EvaluationJob, finished_scores, identity_of_scores
from video_vq.machine import PRECISION, THREADS
from video_vq.metrics.protocol import fvd_protocol
from video_vq.models.prior_config import SamplingSettings
from video_vq.stages.decode_job import DecodeJob, finished_clips
from video_vq.stages.encode_job import ALL_CLIPS, EncodeJob, finished_tokens
from video_vq.stages.sample_job import VIDEOS, FramesToGive, SampleJob, finished_samples
from video_vq.stores import lock
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import write_json
from video_vq.training.finished import finished_by_same_command
from video_vq.training.training_config import TokenizerTrainingConfig

WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["accelerate"] = None  # importing them is an error from here on
import video_vq.report.summary as summary
from video_vq.cli import main
summary.summary = lambda scores: "the scores"
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""
NOWHERE = Path("nowhere")
SAMPLED = SampleJob(NOWHERE, NOWHERE, NOWHERE, num_samples=2, batch_size=2)


class Done(NamedTuple):
    """A folder with the results of a small pipeline, the pipeline's data, and its commands."""

    path: Path
    data: Path
    commands: list[list[str]]

    def job(self) -> EncodeJob:
        return EncodeJob(self.data, self.path / "tokenizer", self.path / "tokens")

    def identity(self) -> dict[str, Any]:
        return identity_of_scores(
            EvaluationJob(
                self.data, self.path / "tokenizer", fvd_protocol("styleganv"), num_clips=2
            ),
            "no",
        )


@pytest.fixture(scope="module")
def done(clip_store, tmp_path_factory) -> Done:
    """Return a finished pipeline from clips to scores; the scores contain only their identity."""
    path = tmp_path_factory.mktemp("done")
    (path / "tokenizer.yaml").write_text(SMALL_TOKENIZER)
    (path / "prior.yaml").write_text(SMALL_PRIOR)
    text = f"""
        train-tokenizer --config {path}/tokenizer.yaml --data {clip_store} --out {path}/tokenizer
        encode {clip_store} --tokenizer {path}/tokenizer --out {path}/tokens
        train-prior --config {path}/prior.yaml --tokens {path}/tokens --out {path}/prior
        sample --prior {path}/prior --tokenizer {path}/tokenizer --out {path}/samples --num 2
            --batch-size 2
        decode {path}/tokens --tokenizer {path}/tokenizer --out {path}/decoded --split test
        evaluate --data {clip_store} --tokenizer {path}/tokenizer --out {path}/scores --num 2
    """
    commands = [line.split() for line in text.replace("\n            ", " ").strip().splitlines()]
    for command in commands[:-1]:
        assert main(command) == 0
    made = Done(path, clip_store, commands)
    (path / "scores").mkdir()
    write_json(path / "scores" / "scores.json", {"identity": made.identity()})
    return made


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> None:
    """Set the precision and the number of threads with which the pipeline was run."""
    monkeypatch.delenv(PRECISION, raising=False)
    monkeypatch.setenv(THREADS, str(torch.get_num_threads()))


@pytest.mark.parametrize("threads", ["as recorded", "as asked for"])
def test_what_is_done_is_said_without_torch(done, threads):
    changes = {} if threads == "as recorded" else {THREADS: str(torch.get_num_threads())}
    kept = {key: value for key, value in environment().items() if key not in (THREADS, PRECISION)}
    files = {file: file.stat().st_mtime_ns for file in sorted(done.path.rglob("*"))}
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(done.commands)],
        env={**kept, **changes},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    said = answer.stdout
    for part in (
        *("already finished", f"tokenizer: {done.path}/tokenizer/tokenizer", "clips of 2x4x4"),
        *(f"prior: {done.path}/prior/prior", f"2 samples: {done.path}/samples"),
        *(f"clips: {done.path}/decoded", "the scores"),
    ):
        assert part in said
    assert {file: file.stat().st_mtime_ns for file in sorted(done.path.rglob("*"))} == files


def test_finished_samples_are_said_without_a_lock_and_a_missing_mp4_is_made_under_one(
    done, monkeypatch, capsys
):
    calls = []
    whole = lock.flock

    def counted(descriptor: int, operation: int) -> None:
        calls.append(operation)
        whole(descriptor, operation)

    monkeypatch.setattr(lock, "flock", counted)
    command = next(command for command in done.commands if command[0] == "sample")
    assert main(command) == 0
    assert "2 samples" in capsys.readouterr().out
    assert not calls
    mp4 = sorted((done.path / "samples" / VIDEOS).iterdir())[0]
    before = mp4.read_bytes()
    mp4.unlink()
    assert main(command) == 0
    assert mp4.read_bytes() == before
    assert calls


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff"])
def test_broken_scores_are_not_done(done, damaged):
    file = done.path / "scores" / "scores.json"
    before = file.read_bytes()
    try:
        file.write_bytes(damaged)
        assert DONE["scores"](done) is None
    finally:
        file.write_bytes(before)


CHANGES: dict[str, Callable[[Done], object]] = {
    "tokens of another batch": lambda done: finished_tokens(replace(done.job(), batch_size=3)),
    "tokens of other clips": lambda done: finished_tokens(
        replace(done.job(), clips=replace(ALL_CLIPS, hop=1))
    ),
    "tokens of other data": lambda done: finished_tokens(
        replace(done.job(), data=done.path / "decoded")
    ),
    "tokens of a missing tokenizer": lambda done: finished_tokens(
        replace(done.job(), tokenizer=done.path / "prior")
    ),
    "tokens elsewhere": lambda done: finished_tokens(replace(done.job(), out=done.path / "new")),
    "more samples": lambda done: samples(done, replace(SAMPLED, num_samples=3)),
    "samples by default": lambda done: samples(done, replace(SAMPLED, num_samples=None)),
    "samples of another seed": lambda done: samples(done, replace(SAMPLED, seed=1)),
    "samples of a class": lambda done: samples(done, replace(SAMPLED, label="left")),
    "samples of another dtype": lambda done: samples(done, replace(SAMPLED, dtype="bfloat16")),
    "warmer samples": lambda done: samples(
        done, replace(SAMPLED, settings=SamplingSettings(temperature=2))
    ),
    "samples that continue": lambda done: samples(
        done, replace(SAMPLED, given=FramesToGive(done.data, "test", 1, "true"))
    ),
    "samples with actions": lambda done: samples(done, replace(SAMPLED, actions=done.data)),
    "clips of all splits": lambda done: decoded(done, None, 16),
    "clips of another batch": lambda done: decoded(done, "test", 8),
    "scores of another split": lambda done: finished_scores(
        done.path / "scores", {**done.identity(), "split": "val"}
    ),
    "scores elsewhere": lambda done: finished_scores(done.path / "new", done.identity()),
    "a longer run": lambda done: run(done, "optim.steps=8"),
    "a run at another rate": lambda done: run(done, "optim.lr=2e-3"),
    "a run of other data": lambda done: run(done, data_hash="another"),
}


def samples(done: Done, job: SampleJob) -> object:
    places = {name: done.path / name for name in ("prior", "tokenizer")}
    return finished_samples(replace(job, out=done.path / "samples", **places))


def decoded(done: Done, split: str | None, batch_size: int) -> object:
    inputs = done.path / "tokens", done.path / "tokenizer"
    return finished_clips(DecodeJob(*inputs, done.path / "decoded", split, batch_size))


def run(done: Done, *settings: str, data_hash: str | None = None) -> Path | None:
    file = done.path / "tokenizer.yaml"
    config = to_json(load_config(TokenizerTrainingConfig, file, settings))
    data_hash = data_hash or ClipStore(done.data).content_hash
    return finished_by_same_command(done.path / "tokenizer", "tokenizer", config, data_hash)


DONE: dict[str, Callable[[Done], object]] = {
    "tokens": lambda done: finished_tokens(done.job()),
    "samples": lambda done: samples(done, SAMPLED),
    "clips": lambda done: decoded(done, "test", 16),
    "scores": lambda done: finished_scores(done.path / "scores", done.identity()),
    "a run": run,
}


@pytest.mark.parametrize("what", DONE)
def test_the_same_again_is_done(done, what):
    assert DONE[what](done) is not None


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_differs_is_not_done(done, change):
    assert CHANGES[change](done) is None


@pytest.mark.parametrize("what", ["tokens", "samples", "clips", "a run"])
def test_another_precision_is_not_done(done, what, monkeypatch):
    monkeypatch.setenv(PRECISION, "bf16")
    assert DONE[what](done) is None


@pytest.mark.parametrize("what", ["samples", "a run"])
def test_another_number_of_threads_is_not_done(done, what, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert DONE[what](done) is None
    monkeypatch.setitem(sys.modules, "torch", None)  # not loaded: the environment tells
    assert DONE[what](done) is not None
    monkeypatch.setenv(THREADS, str(threads + 1))
    assert DONE[what](done) is None
    monkeypatch.delenv(THREADS)
    assert DONE[what](done) is None


@pytest.mark.parametrize(
    ("what", "file"),
    [
        ("tokens", "tokens/manifest.json"),
        ("samples", "samples/manifest.json"),
        ("clips", "decoded/manifest.json"),
        ("a run", "tokenizer/run.json"),
        ("a run", "tokenizer/state/step_0000006/averages.safetensors"),
    ],
)
def test_damage_is_left_to_the_verb_itself(done, what, file):
    before = (done.path / file).read_bytes()
    try:
        for damaged in (b"", b"{}", b"[]", before[:-9] + b"#" + before[-8:]):
            (done.path / file).write_bytes(damaged)
            assert DONE[what](done) is None, damaged[:9]
        os.unlink(done.path / file)
        assert DONE[what](done) is None
    finally:
        (done.path / file).write_bytes(before)
    assert DONE[what](done) is not None


@pytest.mark.parametrize("what", ["tokens", "samples", "clips"])
def test_a_store_that_is_still_to_be_tidied_up_is_left_to_the_verb(done, what):
    folder = done.path / {"clips": "decoded"}.get(what, what) / "parts"
    folder.mkdir()
    assert DONE[what](done) is None
    folder.rmdir()
