"""Tests that a clip store returns exactly what was written."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.stores.clips import (
    ClipStore,
    ClipStoreWriter,
    PreparedVideo,
    Skipped,
    UnusableVideoError,
    Video,
)
from video_vq.stores.files import damage, sha256_json

SIZE = (6, 4)


def frames_of(number: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (length, *SIZE, 3), dtype=np.uint8)


def video_of(number: int) -> Video:
    return Video(f"v{number}", "ab"[number % 2], "train", f"g{number}", fps=25.0)


def prepared(number: int, length: int) -> PreparedVideo:
    frames = frames_of(number, length)
    actions = np.arange(length * 2, dtype=np.float32).reshape(length, 2) + number
    return PreparedVideo(video_of(number), np.array_split(frames, 2), {"actions": actions})


def make(path, lengths=(5, 1, 8), per_shard=2) -> ClipStore:
    writer = ClipStoreWriter(path, SIZE, {"made": "by hand"}, {"actions": (2,)})
    numbers = range(len(lengths))
    shards = [numbers[first : first + per_shard] for first in range(0, len(lengths), per_shard)]
    for shard, members in reversed(list(enumerate(shards))):
        writer.write_shard(shard, [prepared(number, lengths[number]) for number in members])
    return writer.finish(len(shards), ["a", "b"])


def test_frames_and_arrays_come_back_at_any_window(tmp_path):
    store = make(tmp_path / "store")
    assert [video.id for video in store.videos] == ["v0", "v1", "v2"]
    assert [video.num_frames for video in store.videos] == [5, 1, 8]
    assert store.frame_size_hw == SIZE
    for index, length in enumerate((5, 1, 8)):
        assert np.array_equal(store.read(index), frames_of(index, length))
    assert np.array_equal(store.read(2, 1, 3, 2), frames_of(2, 8)[1:7:2])
    assert np.array_equal(store.read(2, 1, stride=3), frames_of(2, 8)[1::3])
    assert store.read_array("actions", 2, 7, 1).tolist() == [[16.0, 17.0]]


def test_the_content_hash_names_frames_order_labels_and_splits_and_not_the_settings(tmp_path):
    def hash_of(name: str, *videos: PreparedVideo, classes=("a", "b"), plan="one") -> str:
        writer = ClipStoreWriter(tmp_path / name, SIZE, {"plan": plan})
        writer.write_shard(0, [replace(video, arrays={}) for video in videos])
        return writer.finish(1, list(classes)).content_hash

    one, two = prepared(0, 5), prepared(1, 2)
    usual = hash_of("usual", one, two)
    assert hash_of("other settings", one, two, plan="two") == usual
    changes = {
        "id": "w", "label": "b", "split": "val", "group": "g", "fps": 24.0,
        "origin": {"name": "w"},
    }  # fmt: skip
    others = [
        *(
            hash_of(name, replace(one, video=replace(one.video, **{name: value})), two)
            for name, value in changes.items()
        ),
        hash_of("frames", replace(one, frames=[frames_of(7, 5)]), two),
        hash_of("cut", replace(one, frames=[frames_of(0, 5)[:4]]), two),
        hash_of("order", two, one),
        hash_of("one", one),
        hash_of("classes", one, two, classes=("b", "a")),
    ]
    assert len({usual, *others}) == 1 + len(others)


@pytest.mark.parametrize("window", [(0, 6, 1), (-1, 2, 1), (4, 2, 1), (0, 3, 3), (0, 0, 1)])
def test_a_window_outside_the_video_is_an_error_and_never_another_videos_frames(tmp_path, window):
    store = make(tmp_path / "store")
    start, length, stride = window
    with pytest.raises(ValueError, match="not inside video 'v0' of 5 frames"):
        store.read(0, start, length, stride)


def test_the_order_of_shards_does_not_show(tmp_path):
    writer = ClipStoreWriter(tmp_path / "b", SIZE, {"made": "by hand"}, {"actions": (2,)})
    writer.write_shard(0, [prepared(0, 5), prepared(1, 1)])
    writer.write_shard(1, [prepared(2, 8)])
    ordered, reverse = writer.finish(2, ["a", "b"]), make(tmp_path / "a")
    assert ordered.content_hash == reverse.content_hash
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        "actions-00000.npy", "actions-00001.npy", "frames-00000.npy", "frames-00001.npy",
        "manifest.json", "skipped.jsonl",
    ]  # fmt: skip
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_unusable_video_takes_back_its_frames_and_leaves_its_reason(tmp_path):
    def broken():
        yield frames_of(7, 3)
        raise UnusableVideoError("frame 3 is damaged")

    bad = PreparedVideo(
        replace(video_of(7), origin={"name": "x/v7.avi"}), broken(), {"actions": np.zeros((3, 2))}
    )
    empty = PreparedVideo(video_of(9), [], {"actions": np.zeros((0, 2), np.float32)})
    writer = ClipStoreWriter(tmp_path / "store", SIZE, {"made": "by hand"}, {"actions": (2,)})
    known = [Skipped("v8", "v8.avi", "is no file")]
    writer.write_shard(0, [prepared(0, 5), bad, prepared(1, 1), empty], known)
    writer.write_shard(1, [prepared(2, 8)])
    store = writer.finish(2, ["a", "b"])
    assert np.array_equal(store.read(1), frames_of(1, 1))
    without = make(tmp_path / "without")
    assert store.shards == without.shards
    lines = (tmp_path / "store" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "v8", "path": "v8.avi", "reason": "is no file"},
        {"id": "v7", "path": "x/v7.avi", "reason": "frame 3 is damaged"},
        {"id": "v9", "path": "v9", "reason": "holds no frame"},
    ]
    assert store.num_skipped == 3


def test_rows_that_do_not_match_the_frames_are_a_bug_and_not_a_skip(tmp_path):
    writer = ClipStoreWriter(tmp_path / "store", SIZE, {}, {"actions": (2,)})
    bad = PreparedVideo(video_of(0), [frames_of(0, 3)], {"actions": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="v0: 2 rows of actions for 3 frames"):
        writer.write_shard(0, [bad])
    assert not writer.is_committed(0)
    assert not list((tmp_path / "store").glob("*.npy*"))


def test_nothing_usable_is_an_error_that_gives_the_reasons(tmp_path):
    writer = ClipStoreWriter(tmp_path / "store", SIZE, {})
    writer.write_shard(0, [], [Skipped("a", "a.avi", "is no video")])
    with pytest.raises(InputError, match=r"no usable video; 1 skipped:\n  a\.avi: is no video"):
        writer.finish(1, [])


def test_two_videos_of_one_id_are_refused(tmp_path):
    writer = ClipStoreWriter(tmp_path / "store", SIZE, {}, {"actions": (2,)})
    writer.write_shard(0, [prepared(0, 5), prepared(0, 5)])
    with pytest.raises(InputError, match="two videos have the id 'v0'"):
        writer.finish(1, ["a", "b"])


def test_every_damaged_or_missing_file_is_named(tmp_path):
    store = make(tmp_path / "store")

    def damaged_files() -> list[str]:
        found = [damage(store.path / name, sha256) for name, sha256 in store.files().items()]
        return [line for line in found if line is not None]

    assert damaged_files() == []
    assert len(store.files()) == 5
    for name in ("frames-00001.npy", "actions-00000.npy", "skipped.jsonl"):
        path = tmp_path / "store" / name
        intact = path.read_bytes()
        damaged = bytearray(intact) or bytearray(b"x")
        damaged[-1] ^= 0x10
        path.write_bytes(damaged)
        assert [line.split(":")[0] for line in damaged_files()] == [str(path)]
        path.unlink()
        assert damaged_files() == [f"{path}: missing"]
        path.write_bytes(intact)


def forge(store: ClipStore, change) -> None:
    """Change the manifest and give it a matching hash, as an attacker would."""
    path = store.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("sha256")
    change(manifest)
    path.write_text(json.dumps({**manifest, "sha256": sha256_json(manifest)}))


FORGERIES = {
    "frames outside the shard": lambda m: m["videos"][0].update(num_frames=7),
    "negative offset": lambda m: m["videos"][0].update(offset=-1),
    "unknown shard": lambda m: m["videos"][0].update(shard=2),
    "empty video": lambda m: m["videos"][0].update(num_frames=0),
    "number as text": lambda m: m["videos"][0].update(num_frames="5"),
    "fraction": lambda m: m["videos"][0].update(offset=0.5),
    "truth as a number": lambda m: m["videos"][0].update(shard=False),
    "label of another type": lambda m: m["videos"][0].update(label=["a"]),
    "unknown label": lambda m: m["videos"][0].update(label="c"),
    "one id twice": lambda m: m["videos"][1].update(id="v0"),
    "unknown field": lambda m: m["videos"][0].update(path="/etc/passwd"),
    "missing field": lambda m: m.pop("classes"),
    "array that leaves the folder": lambda m: m["arrays"].update({"../x": [2]}),
    "shards of another type": lambda m: m.update(shards=7),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_manifests_are_refused(tmp_path, forgery):
    store = make(tmp_path / "store")
    forge(store, FORGERIES[forgery])
    with pytest.raises(InputError, match="store"):
        ClipStore(store.path)


def test_a_shard_of_another_length_is_refused(tmp_path):
    store = make(tmp_path / "store")

    def longer(manifest):
        manifest["shards"][0]["frames"] = 9
        manifest["videos"][1]["num_frames"] = 4

    forge(store, longer)
    with pytest.raises(InputError, match="holds 6 rows, the manifest says 9"):
        ClipStore(store.path).read(0)


def test_a_store_travels_to_other_processes(tmp_path):
    store = make(tmp_path / "store")
    store.read(0)
    other = copy.copy(store)
    assert other._maps == {}
    assert np.array_equal(other.read(2), store.read(2))


def test_a_split_without_videos_is_an_error_that_names_those_there_are(tmp_path):
    store = make(tmp_path / "store")
    assert store.indices("train") == store.indices(None) == [0, 1, 2]
    with pytest.raises(InputError, match="no video in split 'test'; it has train"):
        store.indices("test")
