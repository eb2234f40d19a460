"""Tests of `kill -9` at random moments: resumed runs equal undisturbed runs, bit for bit."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import SMALL_PRIOR, SMALL_TOKENIZER, launcher
from survival import (
    PATIENCE_SECONDS,
    Run,
    final_state,
    last_step,
    log_without_times,
    of_ranks,
    wait_for,
)
from trained import trained_tokenizer

from video_vq.cli import main
from video_vq.training.run_folder import RunFolder

STEPS = 100
SETTINGS = (
    f"optim.steps={STEPS}",
    # Two steps of code usage are in each second checkpoint that are not in the log yet.
    *("run.log_every=4", "run.checkpoint_every=10", "run.validate_every=50"),
)
HELD = Path(__file__).with_name("held_rank.py")
# Of a save, in order: parts of files written; 7 files fsynced, then their folder; the folder
# renamed; its parent fsynced.
CALLS_OF_A_SAVE = (
    *(("write", count) for count in range(0, 80, 10)),
    *(("fsync", count) for count in range(9)),
    ("rename", 0),
)
AFTER_THE_RENAME = ("fsync", 8)


class Training:
    """A training command for a number of ranks, with a run folder of its own."""

    def __init__(self, folder: Path, data: Path, kind: str, processes: int):
        self.folder, self.data, self.kind, self.processes = folder, data, kind, processes
        self.out = folder / "run"
        config = folder / "config.yaml"
        config.write_text({"tokenizer": SMALL_TOKENIZER, "prior": SMALL_PRIOR}[kind])
        self._arguments = (
            *(f"train-{kind}", "--config", config, "--out", self.out, "--tracker", "none"),
            *({"tokenizer": "--data", "prior": "--tokens"}[kind], data, *SETTINGS),
        )

    def start(self, **held: str) -> Run:
        """Start the command; with variables `held`, let held_rank.py pause it."""
        head = [sys.executable] if self.processes == 1 else launcher(self.processes)
        command = [HELD] if held else ["-m", "video_vq"]
        return Run(self.folder, [*head, *command, *self._arguments], held)

    def finish(self) -> None:
        """Run the command to its end and check that it exports the model."""
        with self.start() as run:
            assert run.leader.wait(PATIENCE_SECONDS * 3) == 0, run.text("stderr")
        assert (self.out / self.kind / "model.safetensors").exists()


@pytest.fixture(scope="module")
def data(clip_store, tmp_path_factory) -> dict[str, Path]:
    """Return the training data of each kind of model: a clip store and a token store."""
    folder = tmp_path_factory.mktemp("tokens")
    trained_tokenizer().save_pretrained(folder / "t")
    tokens = folder / "tokens"
    assert not main(
        [*("encode", str(clip_store), "--tokenizer", str(folder / "t"), "--out", str(tokens))]
    )
    return {"tokenizer": clip_store, "prior": tokens}


# A tokenizer's codebook and code usage are shared by the ranks; a prior draws its dropout.
@pytest.fixture(scope="module", params=["tokenizer 1", "tokenizer 2", "prior 1", "prior 2"])
def whole(request, data, tmp_path_factory) -> Training:
    """Return a finished, undisturbed training for each kind of model and number of ranks."""
    kind, processes = request.param.split()
    training = Training(tmp_path_factory.mktemp("whole"), data[kind], kind, int(processes))
    training.finish()
    return training


def moments(count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Yield ascending steps, each with a kind of kill: "all", "one rank" or "in a save"."""
    chance = random.Random(seed)
    first = chance.randrange(3)
    for index, step in enumerate(sorted(chance.sample(range(1, STEPS - 10), count))):
        yield step, ("in a save", "one rank", "all")[(first + index) % 3]


def kill_in_a_save(training: Training, step: int, chance: random.Random) -> None:
    held = training.folder / f"held-{step}"
    held.mkdir()
    call = chance.choice(CALLS_OF_A_SAVE)
    hold = {"HELD_AT": "saving", "HELD_STEP": str(step), "HELD_CALL": f"{call[0]}:{call[1]}"}
    with training.start(HELD_FOLDER=str(held), **hold) as run:
        wait_for(lambda: of_ranks(held, "held") or run.leader.poll() is not None, "a save")
        assert run.leader.poll() is None, run.text("stderr")
        run.kill()
        assert run.leader.returncode == -signal.SIGKILL
    partial = list((training.out / "state").glob("step_*.partial"))
    assert len(partial) == (call != AFTER_THE_RENAME)


def kill_after(step: int, training: Training, victim: str, chance: random.Random) -> None:
    started = time.time()
    with training.start() as run:
        wait_for(
            lambda: last_step(training.out, started) >= step or run.leader.poll() is not None,
            f"step {step}",
        )
        time.sleep(chance.uniform(0, 0.05))  # a step takes about that
        assert run.leader.poll() is None, run.text("stderr")
        ranks = [one for one in run.processes() if "RANK" in one.environ()]
        assert len(ranks) == (training.processes if training.processes > 1 else 0)
        if ranks and victim == "one rank":
            chance.choice(ranks).send_signal(signal.SIGKILL)
            run.wait_until_gone()  # the launcher ends the rest
            assert run.leader.returncode == 1
        else:
            run.kill()
            assert run.leader.returncode == -signal.SIGKILL


def check_that_kills_change_nothing(whole: Training, folder: Path, kills: int, seed: int) -> None:
    started = time.monotonic()
    training = Training(folder, whole.data, whole.kind, whole.processes)
    chance = random.Random(seed)
    victims = []
    for step, victim in moments(kills, seed):
        victims.append(victim)
        if victim == "in a save":
            kill_in_a_save(training, step, chance)
        else:
            kill_after(step, training, victim, chance)
        assert not (training.out / training.kind).exists()
    assert "in a save" in victims
    training.finish()
    assert log_without_times(training.out) == log_without_times(whole.out)
    assert final_state(training.out, STEPS) == final_state(whole.out, STEPS)
    assert not list((training.out / "state").glob("*.partial"))
    print(
        f"{whole.kind}, {whole.processes} process(es): {kills} kills, "
        f"{victims.count('in a save')} of them in a save, {time.monotonic() - started:.0f} s"
    )


@pytest.mark.parametrize("whole", ["prior 1", "tokenizer 2"], indirect=True)
def test_kills_at_random_moments_change_no_bit(whole, tmp_path):
    check_that_kills_change_nothing(whole, tmp_path, 2, seed=1)


@pytest.mark.slow
def test_many_kills_at_random_moments_change_no_bit(whole, tmp_path):
    seed = int(os.environ.get("VIDEO_VQ_KILL_SEED", "2"))
    check_that_kills_change_nothing(whole, tmp_path, {1: 20, 2: 5}[whole.processes], seed)


def test_a_kill_before_run_json_is_there_does_not_block_the_next_start(tmp_path):
    (tmp_path / "run.json.partial").write_text('{"identity": {"ki')
    RunFolder(tmp_path, "tokenizer", {}, {}, is_main=True)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
