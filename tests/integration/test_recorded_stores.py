"""Tests that stores have the recorded bytes."""

import json
from pathlib import Path

import pytest
import recorded
import recorded_stores

KNOWN = json.loads(recorded_stores.FILE.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, str]]:
    root: Path = tmp_path_factory.mktemp("stores")
    with recorded_stores.one_thread():
        recorded_stores.make_stores(root)
    return recorded_stores.digests(root)


def test_a_clip_store_has_the_bytes_that_were_recorded(found):
    assert {"manifest.json", "frames-00000.npy"} <= found["clips"].keys()
    assert found["clips"] == KNOWN["clips"]


def test_tokens_decoded_clips_and_samples_have_the_bytes_that_were_recorded(found):
    machine = recorded.machine()
    if machine not in KNOWN["machines"]:
        pytest.skip(f"nothing is recorded for {machine}")
    made = {name: files for name, files in found.items() if name != recorded_stores.EVERYWHERE}
    assert all(len(files) >= 3 for files in made.values())
    assert made == KNOWN["machines"][machine]
