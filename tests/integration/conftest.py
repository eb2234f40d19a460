"""A small clip store that all integration tests share."""

from pathlib import Path

import pytest
from hostile_report import make_hostile_run
from runs import make_clip_store


@pytest.fixture(scope="session")
def clip_store(tmp_path_factory) -> Path:
    """Return the path of a small clip store."""
    path = tmp_path_factory.mktemp("stores") / "clips"
    make_clip_store(path)
    return path


@pytest.fixture
def hostile_run(tmp_path) -> Path:
    """Return a run whose every name is an attack."""
    return make_hostile_run(tmp_path)
