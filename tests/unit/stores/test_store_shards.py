"""Tests that a folder of shards survives any stop, and that its manifest is sealed."""

import errno
import fcntl
import json
import os

import pytest

from video_vq.errors import InputError
from video_vq.stores.lock import LOCK, held
from video_vq.stores.shards import ShardFolder, read_manifest

HOW = "make one"


def sealed(path):
    folder = ShardFolder(path, {"size": 64})
    folder.commit(0, {"frames": 3})
    folder.seal({"format": "f", "version": 1, "plan": {"size": 64}, "x": [1, 2.5, "é"]})
    return folder


def test_a_second_start_finds_what_the_first_committed(tmp_path):
    path = tmp_path / "store"
    ShardFolder(path, {"size": 64}).commit(1, {"frames": 3})
    again = ShardFolder(path, {"size": 64})
    assert [again.is_committed(shard) for shard in range(3)] == [False, True, False]
    assert again.record(1) == {"frames": 3}
    assert not again.is_complete


def test_another_plan_is_refused_and_the_difference_shown(tmp_path):
    ShardFolder(tmp_path / "store", {"size": 64, "fps": None})
    with pytest.raises(InputError, match="size: 64 -> 128"):
        ShardFolder(tmp_path / "store", {"size": 128, "fps": None})
    sealed(tmp_path / "done")
    with pytest.raises(InputError, match="size: 64 -> 128"):
        ShardFolder(tmp_path / "done", {"size": 128})


HASHES = ("ab" * 32, "cd" * 32)


def test_a_difference_begins_with_settings_and_shows_hashes_only_where_nothing_else_differs(
    tmp_path,
):
    first = {"list_sha256": HASHES[0], "num_videos": 3, "size_hw": [64, 64]}
    ShardFolder(tmp_path / "store", first)
    with pytest.raises(InputError) as caught:
        ShardFolder(tmp_path / "store", {**first, "list_sha256": HASHES[1], "size_hw": [32, 32]})
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == ["  size_hw: [64, 64] -> [32, 32]"]
    with pytest.raises(InputError) as caught:
        ShardFolder(tmp_path / "store", {**first, "list_sha256": HASHES[1]})
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == ["  list_sha256: 'abababababab…' -> 'cdcdcdcdcdcd…'"]


KINDS = {
    "a clip store": {"source": "folder"},
    "a token store": {"tokenizer_hash": HASHES[0]},
    "a store of samples": {"kind": "samples"},
    "a store of decoded tokens": {"kind": "decoded tokens"},
}


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("finished", [False, True])
def test_a_store_of_another_kind_is_named_in_one_line_without_internals(
    tmp_path, old, new, finished
):
    folder = ShardFolder(tmp_path / "store", KINDS[old])
    if finished:
        folder.seal({"format": "f", "version": 1, "plan": KINDS[old]})
    if old == new:
        ShardFolder(tmp_path / "store", KINDS[new])
        return
    with pytest.raises(InputError) as caught:
        ShardFolder(tmp_path / "store", KINDS[new])
    told = f"{tmp_path / 'store'}: is {old}, but {new} should be made there; name another folder"
    assert str(caught.value) == told


def test_only_the_owner_clears_what_is_half_written(tmp_path):
    path = tmp_path / "store"
    ShardFolder(path, {})
    for partial in (path / "frames-00000.npy.partial", path / "parts" / "shard-00000.json.partial"):
        partial.write_bytes(b"half")
    ShardFolder(path, {}, owner=False)
    assert (path / "frames-00000.npy.partial").exists()
    ShardFolder(path, {})
    assert not list(path.rglob("*.partial"))


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds other files"):
        ShardFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(InputError, match="is a file"):
        ShardFolder(tmp_path / "holiday.jpg", {})


def test_a_stop_between_manifest_and_clearing_is_harmless(tmp_path):
    folder = sealed(tmp_path / "store")
    folder.parts.mkdir()
    (folder.parts / "plan.json").write_text("{}")
    assert read_manifest(folder.path, "f", 1, HOW)["x"] == [1, 2.5, "é"]
    assert ShardFolder(folder.path, {"size": 64}).is_complete
    assert not folder.parts.exists()


def test_every_change_of_a_manifest_is_found(tmp_path):
    folder = sealed(tmp_path / "store")
    path = folder.path / "manifest.json"
    intact = path.read_bytes()
    assert read_manifest(folder.path, "f", 1, HOW)["plan"] == {"size": 64}
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        try:
            found = read_manifest(folder.path, "f", 1, HOW)
        except InputError:
            continue
        pytest.fail(f"byte {position} was changed unseen: {found}")


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_what_seal_never_writes_is_refused(tmp_path, value):
    folder = sealed(tmp_path / "store")
    manifest = {"format": "f", "version": 1, "x": value, "sha256": "0" * 64}
    (folder.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="not as it was written"):
        read_manifest(folder.path, "f", 1, HOW)


def test_every_refusal_to_open_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"no such folder; make one"):
        read_manifest(tmp_path / "nothing", "f", 1, HOW)
    ShardFolder(tmp_path / "open", {})
    with pytest.raises(InputError, match="run the command that made it again"):
        read_manifest(tmp_path / "open", "f", 1, HOW)
    with pytest.raises(InputError, match=r"holds no manifest\.json; make one"):
        read_manifest(tmp_path, "f", 1, HOW)
    (tmp_path / "my videos").mkdir()
    with pytest.raises(InputError, match=r"manifest\.json; run `prep '/.*/my videos' --out STORE`"):
        read_manifest(tmp_path / "my videos", "f", 1, "run `prep VIDEOS --out STORE`")
    folder = sealed(tmp_path / "store")
    with pytest.raises(InputError, match="is a 'f' store, expected 'g'"):
        read_manifest(folder.path, "g", 1, HOW)
    with pytest.raises(InputError, match="has format version 1, this program reads 2"):
        read_manifest(folder.path, "f", 2, HOW)


def test_a_shard_on_a_drive_without_locks_is_made_all_the_same(tmp_path, monkeypatch):
    folder = ShardFolder(tmp_path / "store", {})

    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with folder.locked(0) as descriptor:
        assert os.fstat(descriptor).st_size == 0
        folder.commit(0, {})
    assert folder.is_committed(0)


def test_a_lock_in_the_folder_is_neither_a_strangers_file_nor_part_of_the_store(tmp_path):
    with held(tmp_path / "store"):
        folder = ShardFolder(tmp_path / "store", {"a": 1})
        assert (tmp_path / "store" / LOCK).exists()
        folder.seal({"plan": {"a": 1}})
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["manifest.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).touch()  # left behind by a killed run
    ShardFolder(tmp_path / "other", {})
    (tmp_path / "strange").mkdir()
    for name in (LOCK, "thesis.tex"):
        (tmp_path / "strange" / name).touch()
    with pytest.raises(InputError, match="holds other files"):
        ShardFolder(tmp_path / "strange", {})
