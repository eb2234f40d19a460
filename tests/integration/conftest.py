"""A small clip store that all integration tests share."""

from pathlib import Path

import pytest
from runs import make_clip_store


@pytest.fixture(scope="session")
def clip_store(tmp_path_factory) -> Path:
    """Return the path of a small clip store."""
    path = tmp_path_factory.mktemp("stores") / "clips"
    make_clip_store(path)
    return path
