"""Tests of edge cases of stores: writing order, the last frame and the last skipped video."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.stores import files
from video_vq.stores.clips import ClipStore, ClipStoreWriter
from video_vq.stores.files import ArrayFile, damage, open_array, sha256_file, write_bytes
from video_vq.stores.shards import ShardFolder, plan_of, sealed_damage, write_sealed
from video_vq.stores.videos import (
    PreparedVideo,
    Skipped,
    Video,
    commonest_fps,
    reasons,
    require_few_skipped,
    skipped_entry,
)


def watch_disk(monkeypatch) -> list[tuple[str, str, int]]:
    """Return a list to which each fsync and rename is added as (event, file name, file size)."""
    events: list[tuple[str, str, int]] = []
    fsync, rename = files.fsync, files.rename

    def watched_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(("fsync", path.name, path.stat().st_size if path.is_file() else -1))
        fsync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        events.append(("rename", target.name, source.stat().st_size))
        rename(source, target)

    monkeypatch.setattr(files, "fsync", watched_fsync)
    monkeypatch.setattr(files, "rename", watched_rename)
    return events


def test_a_file_is_whole_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events = watch_disk(monkeypatch)
    write_bytes(tmp_path / "file", b"x" * 1000)
    whole = [
        ("fsync", "file.partial", 1000),
        ("rename", "file", 1000),
        ("fsync", tmp_path.name, -1),
    ]
    assert events == whole


def test_the_hash_of_an_array_is_that_of_the_bytes_on_the_disk(tmp_path, monkeypatch):
    events = watch_disk(monkeypatch)
    path = tmp_path / "a.npy"
    with ArrayFile(path, (3,), np.float32) as file:
        file.append(np.ones((5, 3), np.float32))
        file.append(np.zeros((0, 3), np.float32))
        assert file.num_rows == 5
        file.truncate(0)
        file.append(np.full((2, 3), 7, np.float32))
    size = 128 + 2 * 3 * 4
    assert events == [("fsync", "a.npy.partial", size), ("rename", "a.npy", size),
                      ("fsync", tmp_path.name, -1)]  # fmt: skip
    assert file.sha256 == sha256_file(path)
    assert open_array(path, (3,), np.float32).tolist() == [[7.0] * 3] * 2
    assert not open_array(path, (3,), np.float32).flags.writeable


def test_a_failure_inside_an_array_removes_it(tmp_path):
    file = ArrayFile(tmp_path / "a.npy", (), np.float32)
    with pytest.raises(KeyError), file:
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(ValueError, match="holds 0 rows, not -1"),
        ArrayFile(tmp_path / "a.npy", (2,), np.float32) as file,
    ):
        file.truncate(-1)


def test_damage_tells_a_missing_a_changed_and_an_unreadable_file(tmp_path):
    path = tmp_path / "file"
    assert damage(path, "0") == f"{path}: missing"
    path.write_bytes(b"a")
    assert damage(path, sha256_file(path)) is None
    assert "sha256 differs" in str(damage(path, "0"))
    assert "cannot be read" in str(damage(tmp_path, "0"))


def store_of(path: Path, lengths: tuple[int, ...], **changes) -> ClipStore:
    writer = ClipStoreWriter(path, (2, 2), {})
    frames = np.arange(sum(lengths) * 12, dtype=np.uint8).reshape(-1, 2, 2, 3)
    parts = np.split(frames, np.cumsum(lengths)[:-1])
    writer.write_shard(
        0,
        [
            PreparedVideo(Video(f"v{n}", None, "train", f"g{n}", **changes), [part], {})
            for n, part in enumerate(parts)
        ],
    )
    return writer.finish(1, [])


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_below_one_is_refused(tmp_path, stride):
    store = store_of(tmp_path / "store", (4, 4))
    with pytest.raises(ValueError, match="not inside video 'v1' of 4 frames"):
        store.read(1, 3, 2, stride)


def test_the_last_frame_is_inside_and_the_next_is_not(tmp_path):
    store = store_of(tmp_path / "store", (4, 5))
    whole = store.read(1)
    assert len(whole) == 5
    for stride in (1, 2, 3, 4, 7):
        for start in range(5):
            assert np.array_equal(store.read(1, start, None, stride), whole[start::stride])
            number = -(-(5 - start) // stride)
            assert np.array_equal(store.read(1, start, number, stride), whole[start::stride])
            with pytest.raises(ValueError, match="not inside"):
                store.read(1, start, number + 1, stride)
    with pytest.raises(ValueError, match="not inside"):
        store.read(1, 5)
    fresh = store.read(0)
    fresh[:] = 0
    assert store.read(0).any()


def test_a_writer_clears_what_a_killed_one_left_unless_it_is_told_not_to(tmp_path):
    ClipStoreWriter(tmp_path / "store", (2, 2), {})
    partial = tmp_path / "store/frames-00000.npy.partial"
    partial.write_bytes(b"half")
    ClipStoreWriter(tmp_path / "store", (2, 2), {}, owner=False)
    assert partial.exists()
    ClipStoreWriter(tmp_path / "store", (2, 2), {})
    assert not partial.exists()


def test_a_finished_store_is_left_as_it_is(tmp_path):
    store = store_of(tmp_path / "store", (2,))
    writer = ClipStoreWriter(tmp_path / "store", (2, 2), {})
    assert writer.is_complete
    assert writer.is_committed(99)
    assert writer.finish(0, []).content_hash == store.content_hash
    assert not (tmp_path / "store/parts").exists()


def test_committed_records_come_in_order_and_unwritten_ones_are_left_out(tmp_path):
    writer = ClipStoreWriter(tmp_path / "store", (2, 2), {})
    video = Video("v0", None, "train", "g")
    for shard in (3, 1):
        frames = [np.zeros((shard, 2, 2, 3), np.uint8)]
        writer.write_shard(shard, [PreparedVideo(replace(video, id=f"v{shard}"), frames, {})])
    assert [record["frames"] for record in writer.committed(4)] == [1, 3]
    assert [record["frames"] for record in writer.committed(3)] == [1]


def test_where_nothing_is_usable_the_first_ten_reasons_are_told(tmp_path):
    writer = ClipStoreWriter(tmp_path / "store", (2, 2), {})
    writer.write_shard(0, [], [Skipped(f"v{n}", f"v{n}.avi", "is empty") for n in range(12)])
    with pytest.raises(InputError, match="no usable video; 12 skipped") as caught:
        writer.finish(1, [])
    lines = str(caught.value).splitlines()[1:]
    assert lines == [f"  v{n}.avi: is empty" for n in range(10)]


def test_the_plan_is_found_in_a_finished_and_in_an_unfinished_store(tmp_path):
    assert plan_of(tmp_path) is None
    folder = ShardFolder(tmp_path / "store", {"size": 1})
    assert plan_of(folder.path) == {"size": 1}
    folder.seal({"plan": {"size": 1}, "more": 2})
    assert not folder.parts.exists()
    assert plan_of(folder.path) == {"size": 1}


def test_a_shard_is_held_by_one_at_a_time(tmp_path):
    folder = ShardFolder(tmp_path / "store", {})
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with folder.locked(2):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with folder.locked(2), folder.locked(3):
        inside.set()
        other.join(0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("damaged", [b" ", b"}", b""])
def test_white_space_counts_as_damage_of_a_sealed_file(tmp_path, damaged):
    path = tmp_path / "sealed.json"
    write_sealed(path, {"a": 1})
    assert sealed_damage(path) is None
    path.write_bytes(path.read_bytes() + damaged if damaged else b"")
    assert sealed_damage(path) is not None
    assert "no such file" in str(sealed_damage(tmp_path / "nothing"))


def test_differences_beyond_a_dozen_are_not_shown(tmp_path):
    ShardFolder(tmp_path / "store", {f"{n:02d}": 0 for n in range(20)})
    with pytest.raises(InputError, match="11: 0 -> 1") as caught:
        ShardFolder(tmp_path / "store", {f"{n:02d}": 1 for n in range(20)})
    assert "12: 0 -> 1" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "total", "limit", "stops"),
    [
        (0, 10, 0.0, False),
        (1, 10, 0.0, True),
        (1, 10, 0.01, False),
        (2, 10, 0.01, True),
        (2, 10, 0.2, False),
        (3, 10, 0.2, True),
        (10, 10, 1.0, False),
    ],
)
def test_above_no_share_at_all_one_video_may_be_skipped(number, total, limit, stops):
    skipped = [{"path": f"{n}.avi", "reason": "is empty"} for n in range(number)]
    if not stops:
        require_few_skipped(skipped, total, limit)
        return
    with pytest.raises(InputError, match=f"{number} of {total} videos cannot be used") as caught:
        require_few_skipped(skipped, total, limit)
    assert "0.avi: is empty" in str(caught.value)


def test_reasons_are_counted_and_the_rest_is_summed_up():
    entries = [{"path": f"{n % 4}.avi", "reason": "is empty"} for n in range(6)]
    assert reasons(entries, most=4).splitlines() == [
        "  0.avi: is empty (2 videos)",
        "  1.avi: is empty (2 videos)",
        "  2.avi: is empty",
        "  3.avi: is empty",
    ]
    assert reasons(entries, most=1).splitlines()[1:] == ["  and 4 more"]


def test_the_commonest_rate_is_the_first_of_equals_and_unknown_ones_do_not_count():
    def rate(*values: float | None) -> float | None:
        return commonest_fps(Video(str(n), None, "train", "", fps=v) for n, v in enumerate(values))

    assert rate(None, None, 10.0) == 10.0
    assert rate(5.0, 10.0, 10.0, 5.0) == 5.0
    assert rate(None) is rate() is None


def test_a_skipped_video_is_named_by_its_file_if_it_has_one():
    video = Video("v", None, "train", "g")
    assert skipped_entry(video, "is empty").path == "v"
    assert skipped_entry(replace(video, origin={"name": "x.avi"}), "is empty").path == "x.avi"


# In a process of its own: in this one the type checks of the tests would come first.
READ = """
import json
import sys
from video_vq.stores.videos import video_from_json

entry = {"id": "v", "label": "a", "split": "train", "group": "g", "fps": 10, "origin": {}}
assert video_from_json(entry).fps == 10
assert video_from_json({**entry, "label": None, "fps": None, "origin": None}).label is None
for changes in json.loads(sys.argv[1]):
    try:
        video_from_json({**entry, **changes})
    except TypeError as error:
        assert "has a field of the wrong type" in str(error), error
    else:
        sys.exit(f"{changes} was read")
"""


def test_a_field_of_the_wrong_type_is_refused():
    wrong = [{"num_frames": 1.0}, {"shard": "0"}, {"offset": True}, {"id": 1}, {"split": None}]
    wrong += [{"group": 2}, {"label": 3}, {"fps": "10"}, {"origin": []}]
    command = [sys.executable, "-c", READ, json.dumps(wrong)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
