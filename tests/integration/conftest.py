"""Fixtures for integration tests: a clip store, a hostile run and a small file system."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_report import make_hostile_run
from runs import Preloaded, make_clip_store


@pytest.fixture(scope="session")
def clip_store(tmp_path_factory) -> Path:
    """Return the path of a small clip store."""
    path = tmp_path_factory.mktemp("stores") / "clips"
    make_clip_store(path)
    return path


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """Yield a server that runs `video-vq` without loading PyTorch again."""
    with Preloaded() as server:
        yield server


@pytest.fixture
def hostile_run(tmp_path) -> Path:
    """Return the path of a run in which every name is an attack."""
    return make_hostile_run(tmp_path)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """Yield a function that mounts a file system of a given size in MiB, or skips the test."""
    path = tmp_path / "disk"

    def mount(megabytes: int) -> Path:
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot mount a small file system: {error}")
        return path

    yield mount
    if path.is_mount():
        subprocess.run(["umount", str(path)], check=True, timeout=120)
