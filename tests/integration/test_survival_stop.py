"""Tests of requests to stop in every phase: ranks save, print a message and exit with 0."""

import itertools
import os
import pty
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from runs import SMALL_TOKENIZER, launcher
from survival import Run, of_ranks, wait_for

from video_vq.training.checkpoint import CheckpointFolder
from video_vq.training.stop_request import ECHO_SECONDS

HELD = Path(__file__).with_name("held_rank.py")
PHASES = ("start-up", "training", "validation", "saving")
# The first steps after which a run that was held may look at the request.
FIRST_LOOK = {"training": 5, "validation": 4, "saving": 2}


class Stop(NamedTuple):
    """One way to stop a run."""

    phase: str
    what: str  # a signal, or "file"
    whom: str  # "launcher", "ranks", "group": the launcher and all in its process group, ""
    processes: int  # 0: one process without a launcher
    workers: int

    def __str__(self) -> str:
        words = (self.what, self.whom, self.phase, f"{self.processes}p", f"{self.workers}w")
        return "-".join(word for word in words if word)


def all_stops() -> Iterator[Stop]:
    """Yield all ways to stop a run in each phase."""
    for phase in PHASES:
        for what, processes, workers in itertools.product(("SIGTERM", "SIGINT"), (0, 1, 2), (0, 2)):
            for whom in ("launcher", "ranks") if processes else ("ranks",):
                yield Stop(phase, what, whom, processes, workers)
        for processes in (1, 2):
            if (phase, processes) != ("start-up", 2):  # below
                yield Stop(phase, "SIGKILL", "launcher", processes, 2)
            yield Stop(phase, "SIGINT", "group", processes, 2)  # Ctrl-C
            yield Stop(phase, "SIGHUP", "group", processes, 2)  # the terminal is gone
            if phase != "start-up":  # there is no folder yet to put the file in
                yield Stop(phase, "file", "", processes, 2)


SOME_STOPS = (
    Stop("start-up", "SIGTERM", "launcher", 1, 0),
    Stop("training", "SIGINT", "launcher", 2, 2),
    Stop("saving", "SIGTERM", "ranks", 2, 0),
    Stop("validation", "SIGKILL", "launcher", 2, 2),
    Stop("validation", "file", "", 1, 0),
)


def command_of(stop: Stop, clip_store: Path, folder: Path) -> list[object]:
    config, out = folder / "tokenizer.yaml", folder / "run"
    config.write_text(SMALL_TOKENIZER)
    head = launcher(stop.processes) if stop.processes else [sys.executable]
    return [
        *(*head, HELD, "train-tokenizer", "--config", config, "--data", clip_store, "--out", out),
        *("--tracker", "none", "optim.steps=200", f"run.num_workers={stop.workers}"),
        *("run.validation_clips=6", "run.validate_every=4"),
    ]


def held_at(phase: str, folder: Path) -> dict[str, str]:
    return {"HELD_AT": phase, "HELD_FOLDER": str(folder)}


def check(stop: Stop, clip_store: Path, folder: Path) -> None:
    out = folder / "run"
    command = command_of(stop, clip_store, folder)
    ranks = range(max(stop.processes, 1))
    with Run(folder, command, held_at(stop.phase, folder)) as run:
        held = 1 if stop.phase == "saving" else len(ranks)  # rank 0 saves
        wait_for(
            lambda: len(of_ranks(folder, "held")) == held or run.leader.poll() is not None,
            stop.phase,
        )
        assert run.leader.poll() is None, run.text("stderr")
        ask(stop, run, out)
        (folder / "go").touch()
        wait_for(
            lambda: len(of_ranks(folder, "status")) == len(ranks) or not run.processes(),
            "the end of the ranks",
        )
        run.wait_until_gone()
    said = run.text("stdout") + run.text("stderr")
    assert of_ranks(folder, "status") == dict.fromkeys(ranks, 0), said
    if not stop.processes:
        assert run.leader.returncode == 0, said
    check_what_is_left(stop, out, said)


def ask(stop: Stop, run: Run, out: Path) -> None:
    """Ask the run to stop; after a signal, wait until a rank acknowledges the request."""
    if stop.what == "file":
        out.mkdir(exist_ok=True)
        (out / "stop").touch()
        return
    number = signal.Signals[stop.what]
    if stop.whom == "ranks":
        for pid in of_ranks(run.folder, "pid").values():
            os.kill(pid, number)
    elif stop.whom == "launcher":
        run.leader.send_signal(number)
    else:
        os.killpg(run.leader.pid, number)
    wait_for(lambda: "then saving" in run.text("stderr"), "an answer of a rank")


def check_what_is_left(stop: Stop, out: Path, said: str) -> None:
    newest = CheckpointFolder(out / "state").newest()
    assert not list((out / "state").glob("*.partial"))
    assert not (out / "stop").exists()
    if stop.phase == "start-up":
        assert newest is None
        assert "before there was anything to save; the same command starts again" in said
        return
    assert newest is not None
    step, problems = newest
    assert f"stopped after step {step} of 200 and saved; the same command resumes" in said
    assert not problems
    assert FIRST_LOOK[stop.phase] <= step <= FIRST_LOOK[stop.phase] + 4


@pytest.mark.parametrize("stop", SOME_STOPS, ids=str)
def test_a_run_that_is_asked_to_stop_saves_and_leaves_no_process(stop, clip_store, tmp_path):
    check(stop, clip_store, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stop", sorted(set(all_stops()) - set(SOME_STOPS)), ids=str)
def test_every_way_to_stop_in_every_phase(stop, clip_store, tmp_path):
    check(stop, clip_store, tmp_path)


@pytest.mark.slow
def test_ranks_whose_launcher_is_killed_before_they_have_met_end_by_themselves(
    clip_store, tmp_path
):
    # They meet at the launcher's, and wait there until their grace is over.
    stop = Stop("start-up", "SIGKILL", "launcher", 2, 0)
    with Run(
        tmp_path, command_of(stop, clip_store, tmp_path), held_at(stop.phase, tmp_path)
    ) as run:
        wait_for(lambda: len(of_ranks(tmp_path, "held")) == 2, stop.phase)
        ask(stop, run, tmp_path / "run")
        (tmp_path / "go").touch()
        run.wait_until_gone()
        assert "the other ranks do not answer: ending" in run.text("stderr")
    assert not (tmp_path / "run").exists()


def test_a_screen_that_is_gone_costs_no_checkpoint(clip_store, tmp_path):
    # As when a terminal is closed, or `| tee log` dies of the same Ctrl-C.
    terminal, stderr = pty.openpty()
    reader, stdout = os.pipe()
    command = command_of(Stop("training", "SIGHUP", "group", 0, 0), clip_store, tmp_path)
    with Run(tmp_path, command, held_at("training", tmp_path), (stdout, stderr)) as run:
        wait_for(lambda: of_ranks(tmp_path, "held") or run.leader.poll() is not None, "training")
        assert run.leader.poll() is None
        for descriptor in (terminal, stderr, reader, stdout):
            os.close(descriptor)
        os.killpg(run.leader.pid, signal.SIGHUP)
        (tmp_path / "go").touch()
        run.wait_until_gone()
    assert run.leader.returncode == 0
    assert CheckpointFolder(tmp_path / "run" / "state").newest() == (5, [])


def test_the_echo_of_a_signal_does_not_hurt_a_rank_that_is_ending(clip_store, tmp_path):
    command = command_of(Stop("training", "SIGINT", "ranks", 0, 0), clip_store, tmp_path)
    with Run(tmp_path, command, held_at("training", tmp_path)) as run:
        wait_for(lambda: of_ranks(tmp_path, "held") or run.leader.poll() is not None, "training")
        first = time.monotonic()
        run.leader.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        while run.leader.poll() is None and time.monotonic() < first + ECHO_SECONDS - 1:
            run.leader.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        run.wait_until_gone()
    assert run.leader.returncode == 0, run.text("stderr")
    assert CheckpointFolder(tmp_path / "run" / "state").newest() == (5, [])
