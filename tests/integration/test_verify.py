"""Tests that `data-prep verify` finds any changed byte in a clip store or token store."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main
from data_prep.table_world.layouts import TableWorldSettings, write_table_world
from data_prep.verify import open_store, verify
from video_vq.errors import InputError
from video_vq.media.encode import write_video
from video_vq.stores.lock import LOCK
from video_vq.stores.tokens import TokenHeader, TokenStoreWriter
from video_vq.stores.videos import Video

FLIPS = 150  # of each file


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Return a folder with two stores: one with per-frame arrays, one with a skipped file."""
    root = tmp_path_factory.mktemp("stores")
    settings = TableWorldSettings(layout="bair", num_videos=8)
    write_table_world(root / "raw", settings, workers=1)
    assert (
        main(
            [
                "bair",
                str(root / "raw"),
                "--out",
                str(root / "bair"),
                "--size",
                "16",
                "--videos-per-shard",
                "4",
            ]
        )
        == 0
    )
    random = np.random.default_rng(0)
    (root / "videos").mkdir()
    for index in range(6):
        frames = random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        write_video(root / "videos" / f"é{index}.avi", frames, 10)
    (root / "videos" / "notes.mp4").write_text("no video")
    folder = ["folder", str(root / "videos"), "--size", "16", "--videos-per-shard", "3"]
    assert main([*folder, "--out", str(root / "folder")]) == 0
    return root


def tokens(path: Path) -> Path:
    random = np.random.default_rng(0)
    header = TokenHeader("a" * 64, 40, (2, 3, 3), 4, (12, 12), 10.0, ("x",), None, {})
    writer = TokenStoreWriter(path, header)
    for shard in range(2):
        rows = np.stack([np.arange(3), np.zeros(3, int), np.ones(3, int)], axis=1)
        writer.write_shard(shard, random.integers(0, 40, (3, 2, 3, 3)), rows)
    writer.finish(2, [Video(f"v{n}", "x", "train", f"g{n}", 4) for n in range(3)])
    return path


def is_intact(store: Path) -> bool:
    try:
        verify(open_store(store))
    except InputError as error:
        if not str(error).startswith(str(store)):
            raise
        return False
    return True


@pytest.mark.parametrize("kind", ["bair", "folder", "tokens"])
def test_a_changed_byte_is_found_wherever_it_is(clips, tmp_path, kind):
    store = tmp_path / "store"
    if kind == "tokens":
        tokens(store)
    else:
        shutil.copytree(clips / kind, store)
    assert is_intact(store)
    random = np.random.default_rng(1)
    files = sorted(store.iterdir())
    assert {"manifest.json"} < {path.name for path in files}
    for path in files:
        intact = path.read_bytes()
        for _ in range(FLIPS if intact else 0):
            damaged = bytearray(intact)
            position = int(random.integers(len(intact)))
            damaged[position] ^= int(random.integers(1, 256))
            path.write_bytes(damaged)
            assert not is_intact(store), f"{path.name}: byte {position}"
        for changed in (intact[:-1], intact + b"\n", b""):
            path.write_bytes(changed)
            assert not is_intact(store) or changed == intact, f"{path.name}: other length"
        path.write_bytes(intact)
    assert is_intact(store)


@pytest.mark.parametrize("name", ["manifest.json", "provenance.json"])
def test_white_space_that_changes_no_value_is_a_changed_byte_too(clips, tmp_path, name):
    store = tmp_path / "store"
    shutil.copytree(clips / "folder", store)
    intact = (store / name).read_bytes()
    spaces = [place for place, byte in enumerate(intact) if byte in b" \n"]
    for place in spaces[:: max(1, len(spaces) // 60)]:
        damaged = bytearray(intact)
        damaged[place] = ord("\t")
        (store / name).write_bytes(damaged)
        assert not is_intact(store), place


def test_every_damaged_file_is_named_and_what_is_not_of_the_store_is_said(clips, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(clips / "bair", store)
    (store / "sheet.png").write_bytes(b"mine")
    (store / LOCK).touch()  # left behind by a killed run
    assert main(["verify", str(store)]) == 0
    assert "not part of the store: sheet.png\n" in capsys.readouterr().out
    (store / "frames-00000.npy").unlink()
    (store / "frames-00000.npy").mkdir()
    (store / "actions-00001.npy").unlink()
    (store / "provenance.json").write_text("{}\n")
    assert main(["verify", str(store)]) == 1
    told = capsys.readouterr().err
    assert "3 of " in told
    assert "frames-00000.npy: cannot be read (Is a directory)" in told
    assert "actions-00001.npy: missing" in told
    assert "provenance.json: its bytes are not those that were written" in told


def test_a_store_of_tokens_is_verified_by_the_same_command(tmp_path, capsys):
    store = tokens(tmp_path / "tokens")
    assert main(["verify", str(store)]) == 0
    assert capsys.readouterr().out == f"{store}: every byte is as it was written\n"
