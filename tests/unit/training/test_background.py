"""Copies do not follow the tensors, and a job's error is raised where it is waited for."""

import threading

import pytest
import torch

from video_vq.training.background import BackgroundJob, Snapshot


def test_a_copy_stays_as_it_was_until_the_next_one():
    weight = torch.ones(3)
    snapshot = Snapshot()
    first = snapshot.take({"model": {"weight": weight}})
    weight += 1
    assert torch.equal(first["model"]["weight"], torch.ones(3))
    second = snapshot.take({"model": {"weight": weight}})
    assert torch.equal(second["model"]["weight"], torch.full((3,), 2.0))
    assert second["model"]["weight"].data_ptr() == first["model"]["weight"].data_ptr()
    grown = snapshot.take({"model": {"weight": torch.zeros(4)}})
    assert torch.equal(grown["model"]["weight"], torch.zeros(4))


def test_a_job_runs_aside_and_its_error_is_raised_once():
    job, release = BackgroundJob(), threading.Event()
    job.wait()

    def fail() -> None:
        release.wait(60)
        raise OSError("no room")

    job.start(fail)  # returns although the work has not ended
    release.set()
    with pytest.raises(OSError, match="no room"):
        job.wait()
    job.wait()
