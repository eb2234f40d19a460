"""Tests that training continues on a full disk, which costs only checkpoints and logs."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ranks import arguments, make_data, settings, train
from runs import AfterStep, run

from video_vq.errors import InputError
from video_vq.training.checkpoint import CheckpointFolder

CHANGES = settings(
    "prior", "optim.steps=60 run.log_every=1 run.checkpoint_every=20 run.validate_every=60"
)

# Every file may grow to 16 KiB, as with `ulimit -f`: metrics.jsonl for a while, a checkpoint not.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
from video_vq.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """Yield a folder with data; training in this process uses one thread, as in other processes."""
    make_data(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def saved(path: Path) -> tuple[int, dict[str, bytes]]:
    """Return the step and files of the newest checkpoint after checking that it is valid."""
    checkpoints = CheckpointFolder(path / "state")
    newest = checkpoints.newest()
    assert newest is not None
    step, problems = newest
    assert problems == []
    assert not list(checkpoints.path.glob("*.partial"))
    return step, {file.name: file.read_bytes() for file in checkpoints.folder(step).iterdir()}


def logged(path: Path) -> list[int]:
    """Return the steps of all training lines of metrics.jsonl."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "optim/lr" in line]


def assert_went_on(path: Path, out: str, err: str, before: tuple[int, dict[str, bytes]]) -> None:
    """Check that training reported failed writes, finished, and kept the last good checkpoint."""
    for step in (20, 40, 60):
        assert f"could not save the checkpoint of step {step}: [Errno " in out
    assert err.count(f"could not write {path / 'metrics.jsonl'}: [Errno ") == 1
    assert "step 60  loss/bits_per_token" in err
    assert saved(path) == before
    steps = logged(path)  # each line is whole
    assert steps == sorted(set(steps))
    assert steps[:5] == [1, 2, 3, 4, 5]
    assert len(steps) < 60


def test_training_goes_on_when_no_file_can_grow_and_resumes_when_it_can(folder):
    path = folder / "run"
    train("prior", folder, path, CHANGES, AfterStep(5))
    before = saved(path)
    assert before[0] == 5
    limited = [sys.executable, "-c", LIMITED, *arguments("prior", folder, path)]
    answer = run([*limited, "--tracker", "none", *CHANGES], expect=1)
    assert_went_on(path, answer.stdout, answer.stderr, before)
    assert f"{path / 'prior'}: the finished model could not be written: [Errno 27]" in answer.stderr
    assert "the same command resumes from the last good checkpoint" in answer.stderr
    assert "Traceback" not in answer.stderr
    train("prior", folder, path, CHANGES)
    assert saved(path)[0] == 60
    assert logged(path) == list(range(1, 61))


def test_training_goes_on_on_a_full_disk_and_resumes_when_there_is_room(folder, small_disk, capfd):
    disk = small_disk(4)
    path, ballast = disk / "run", disk / "ballast"
    train("prior", folder, path, CHANGES, AfterStep(5))
    before = saved(path)
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(4 << 20))
    assert os.statvfs(disk).f_bavail == 0
    capfd.readouterr()
    with pytest.raises(InputError, match="the finished model could not be written") as refusal:
        train("prior", folder, path, CHANGES)
    assert "free some space, then the same command resumes" in str(refusal.value)
    out, err = capfd.readouterr()
    assert_went_on(path, out, err, before)
    ballast.unlink()
    train("prior", folder, path, CHANGES)
    assert saved(path)[0] == 60
    assert logged(path) == list(range(1, 61))
