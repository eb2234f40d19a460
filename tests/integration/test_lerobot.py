"""Tests of `data-prep lerobot`, with valid and damaged data sets."""

import hashlib
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra [lerobot]")

from robot_sets import CAMERAS, FPS, TOP, WRIST, RobotSet, write_robot_set

from data_prep.cli import main
from video_vq.media.decode import FrameStream
from video_vq.media.probe import UnreadableVideoError, probe
from video_vq.media.ranges import FrameRanges
from video_vq.media.resize import resize
from video_vq.stores.clips import ClipStore


def prepare(made: RobotSet, out: Path, *options: str, camera: str = "top") -> int:
    return main(
        ["lerobot", str(made.root), "--out", str(out), "--size", "32", "--camera", camera, *options]
    )


def refusal(made: RobotSet, out: Path, capsys, *options: str) -> str:
    assert prepare(made, out, "--workers", "1", *options) == 1
    return capsys.readouterr().err


def reasons(store: Path) -> dict[str, str]:
    lines = (store / "skipped.jsonl").read_text().splitlines()
    return {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}


def whole(path: Path) -> np.ndarray:
    return np.stack(list(FrameStream(probe(path))))


def episodes_of(made: RobotSet, camera: str) -> list[np.ndarray]:
    """Return the expected frames: each file decoded from its start, then cut by episode lengths."""
    videos = {file: whole(made.video(camera, file)) for file in dict.fromkeys(made.files)}
    starts = dict.fromkeys(videos, 0)
    cut = []
    for length, file in zip(made.lengths, made.files, strict=True):
        cut.append(videos[file][starts[file] : starts[file] + length])
        starts[file] += length
    return cut


def hashes(store: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.iterdir()
        if path.is_file() and path.name != "provenance.json"
    }


@pytest.fixture(scope="module")
def robot_set(tmp_path_factory) -> RobotSet:
    return write_robot_set(tmp_path_factory.mktemp("robot"))


@pytest.mark.parametrize("camera", CAMERAS)
def test_episodes_are_cut_where_the_index_says_and_keep_their_actions(robot_set, tmp_path, camera):
    assert prepare(robot_set, tmp_path / "store", "--workers", "1", camera=camera) == 0
    store = ClipStore(tmp_path / "store")
    assert [video.num_frames for video in store.videos] == robot_set.lengths
    assert store.arrays == {"actions": (3,), "states": (2,)}
    assert {video.split for video in store.videos} == {"train", "val", "test"}
    assert store.classes == ("lift", "push")
    for index, frames in enumerate(episodes_of(robot_set, camera)):
        assert np.array_equal(store.read(index), resize(frames, (32, 32)))
        assert np.array_equal(store.read_array("actions", index), robot_set.actions[index])
        assert np.array_equal(store.read_array("states", index), robot_set.states[index])
        assert store.videos[index].fps == FPS


def test_bytes_do_not_depend_on_workers_but_only_on_the_data(robot_set, tmp_path):
    for name, workers in (("one", "1"), ("three", "3")):
        options = ("--workers", workers, "--videos-per-shard", "2")
        assert prepare(robot_set, tmp_path / name, *options) == 0
    assert hashes(tmp_path / "one") == hashes(tmp_path / "three")


def test_a_stride_keeps_every_nth_frame_with_its_row(robot_set, tmp_path):
    assert prepare(robot_set, tmp_path / "store", "--stride", "3", "--workers", "1") == 0
    store = ClipStore(tmp_path / "store")
    for index, frames in enumerate(episodes_of(robot_set, TOP)):
        assert np.array_equal(store.read(index), resize(frames[::3], (32, 32)))
        assert np.array_equal(store.read_array("actions", index), robot_set.actions[index][::3])
    assert store.videos[0].fps == pytest.approx(FPS / 3)


def test_splits_of_the_data_set_are_kept(tmp_path):
    splits = {"train": "0:3", "validation": "3:5", "test": "5:6"}
    made = write_robot_set(tmp_path / "set", splits=splits)
    assert prepare(made, tmp_path / "store", "--workers", "1") == 0
    found = [video.split for video in ClipStore(tmp_path / "store").videos]
    assert found == ["train"] * 3 + ["val"] * 2 + ["test"]


def test_instructions_that_no_episodes_share_are_no_classes(tmp_path):
    made = write_robot_set(tmp_path / "set", tasks=tuple(f"do thing {n}" for n in range(6)))
    assert prepare(made, tmp_path / "store", "--workers", "1") == 0
    assert ClipStore(tmp_path / "store").classes == ()


@pytest.mark.parametrize("camera", CAMERAS)
def test_ranges_in_any_order_are_the_frames_of_one_pass(robot_set, camera):
    path = robot_set.video(camera, (0, 0))
    frames, ranges = whole(path), FrameRanges(path)
    rng = np.random.default_rng(0)
    for _ in range(20):
        first = int(rng.integers(len(frames)))
        count = int(rng.integers(1, len(frames) - first + 1))
        assert np.array_equal(np.stack(list(ranges.frames(first, count))), frames[first:][:count])


def test_ranges_that_follow_each_other_decode_each_frame_once(robot_set):
    path = robot_set.video(TOP, (0, 0))
    ranges = FrameRanges(path)
    total = ranges.info.num_packets
    for first in range(0, total - 4, 4):
        assert len(list(ranges.frames(first, 4))) == 4
    assert ranges.num_decoded <= total


@pytest.mark.parametrize("lands", ["late", "nowhere"])
def test_a_seek_that_lands_elsewhere_costs_time_but_no_frame(robot_set, monkeypatch, lands):
    decode = FrameRanges._decode

    def elsewhere(self, first):
        frames = decode(self, 0)
        late = {"late": first + 3, "nowhere": 10**6}[lands] if first else 0
        yield from (found for found in frames if found[0] >= late)

    path = robot_set.video(TOP, (0, 0))
    frames = whole(path)
    monkeypatch.setattr(FrameRanges, "_decode", elsewhere)
    assert np.array_equal(np.stack(list(FrameRanges(path).frames(6, 5))), frames[6:11])


def test_a_lost_frame_is_no_frame_of_its_neighbour(robot_set, monkeypatch):
    decode = FrameRanges._decode

    def lossy(self, first):
        yield from (found for found in decode(self, first) if found[0] != 8)

    monkeypatch.setattr(FrameRanges, "_decode", lossy)
    with pytest.raises(UnreadableVideoError, match="frame 8 is lost"):
        list(FrameRanges(robot_set.video(TOP, (0, 0))).frames(5, 6))


def test_times_that_are_not_the_videos_leave_the_episode_out(tmp_path):
    made = write_robot_set(tmp_path / "set")
    columns = {f"videos/{TOP}/from_timestamp": [0.0, 0.75, 0.0, 0.9, 0.0, 1.1]}
    columns[f"videos/{TOP}/to_timestamp"] = [0.7, 1.95, 0.9, 1.6, 1.1, 5.9]
    made.change_rows(made.index, **columns)
    assert prepare(made, tmp_path / "store", "--workers", "1", "--max-skipped", "1") == 0
    found = reasons(tmp_path / "store")
    assert "its frame 0 should be shown at 0.7500 s" in found["episode_000001"]
    assert "7.0 frames; its table has 5 rows" in found["episode_000003"]
    assert "48.0 frames; its table has 8 rows" in found["episode_000005"]
    assert len(found) == 3


def test_a_video_that_is_too_short_leaves_out_its_last_episode_only(tmp_path):
    made = write_robot_set(tmp_path / "set")
    made.video(TOP, (0, 0)).write_bytes(made.video(TOP, (0, 1)).read_bytes())  # 14 frames, not 19
    assert prepare(made, tmp_path / "store", "--workers", "1", "--max-skipped", "1") == 0
    assert reasons(tmp_path / "store").keys() == {"episode_000001"}
    assert "shorter than the index says" in reasons(tmp_path / "store")["episode_000001"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"frame_index": lambda rows: np.roll(rows, 1)}, "not numbered like its frames"),
        (
            {"episode_index": lambda rows: [9 if e == 1 else e for e in rows]},
            "0 rows for 12 frames",
        ),
        (
            {"timestamp": lambda rows: np.asarray(rows) * 2.0},
            "row 1 of its table is at 0.2000 s; at 10 frames per second it should be at 0.1000 s",
        ),
        ({"timestamp": lambda rows: [math.nan] * len(rows)}, "row 0 of its table is at nan s"),
        ({"index": lambda rows: np.asarray(rows) + 1}, "not numbered like its frames"),
        ({"episode_index": lambda rows: [0] * 6 + [1] * 13}, "6 rows for 7 frames"),
        (
            {"episode_index": lambda rows: [0] * 6 + [1, 0] + [1] * 11},
            "do not follow one another",
        ),
        (
            {"action": lambda rows: [[math.nan if a < -1 else a for a in row] for row in rows]},
            "actions: a number is not finite",
        ),
        ({"action": lambda rows: [row[: 2 + n % 2] for n, row in enumerate(rows)]}, "3 numbers"),
        ({"observation.state": lambda rows: ["x"] * len(rows)}, "expected vector"),
    ],
)
def test_rows_that_do_not_fit_leave_their_episodes_out(tmp_path, columns, reason):
    from pyarrow import parquet

    made = write_robot_set(tmp_path / "set")
    path = made.table((0, 0))
    rows = parquet.read_table(path)
    changed = {name: change(rows[name].to_pylist()) for name, change in columns.items()}
    made.change_rows(path, **changed)
    assert prepare(made, tmp_path / "store", "--workers", "1", "--max-skipped", "1") == 0
    found = reasons(tmp_path / "store")
    assert found
    assert found.keys() <= {"episode_000000", "episode_000001"}  # of this table
    assert any(reason in text for text in found.values())


@pytest.mark.parametrize(
    "template",
    [
        "../{video_key}/file-{file_index:03d}.mp4",
        "/etc/{video_key}/{chunk_index}/{file_index}",
        "videos/{video_key.__class__}/{file_index}.mp4",
        "videos/{video_key!r}/{file_index:03d}.mp4",
        "videos/{file_index:999999999d}.mp4",
        "videos/./{file_index:03d}.mp4",
        "videos\\{file_index:03d}.mp4",
        "videos/\n{file_index:03d}.mp4",
        7,
    ],
)
def test_a_path_template_cannot_leave_the_data_set(tmp_path, capsys, template):
    made = write_robot_set(tmp_path / "set")
    made.change_info(video_path=template)
    assert "path" in refusal(made, tmp_path / "store", capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v2.1"}, "expected v3.0"),
        ({"fps": math.inf}, "expected a number"),
        ({"fps": True}, "expected a number"),
        ({"features": []}, "not a table of features"),
        ({"features": {"a/../b": {"dtype": "video"}}}, "cannot be the name of a folder"),
        ({"features": {}}, "no feature is a video"),
        ({"splits": {"train": "0:3", "val": "2:6"}}, "share episodes"),
        ({"splits": {"train": "0:3"}}, "3 episodes are in none of its splits"),
        ({"splits": {"train": "0:999999999999"}}, "a range"),
        ({"splits": "all"}, "a range"),
        ({"total_episodes": 7}, "total_episodes is 7, but the index in meta/episodes holds 6"),
        ({"total_frames": 17}, "total_frames is 17, but the index in meta/episodes holds 18"),
        ({"total_frames": "18"}, "total_frames is '18', expected a whole number"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(tmp_path, capsys, changes, message):
    made = write_robot_set(tmp_path / "set", lengths=(3, 3, 3, 3, 3, 3))
    made.change_info(**changes)
    assert message in refusal(made, tmp_path / "store", capsys)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"episode_index": [0, 1, 1, 3, 4, 5]}, "is listed twice"),
        ({"length": [7, -1, 9, 5, 11, 8]}, "has -1 frames"),
        ({"dataset_from_index": [0, 3, 19, 28, 33, 44]}, "where another episode lies"),
        ({"data/chunk_index": [0, -1, 0, 0, 1, 1]}, "lies in chunk and file"),
        ({f"videos/{TOP}/from_timestamp": [0.0, 0.3, 0.0, 0.9, 0.0, 1.1]}, "inside episode 0"),
        ({f"videos/{TOP}/file_index": ["0"] * 6}, "expected integer"),
        ({"tasks": [["a\x1b[2J"]] * 6}, "unprintable"),
        ({"tasks": [[None]] * 6}, "column tasks"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path, capsys, columns, message):
    made = write_robot_set(tmp_path / "set")
    made.change_rows(made.index, **columns)
    assert message in refusal(made, tmp_path / "store", capsys)


def test_links_out_of_the_data_set_are_not_followed(tmp_path):
    made = write_robot_set(tmp_path / "set")
    video = made.video(TOP, (1, 0))
    video.rename(tmp_path / "elsewhere.mp4")
    video.symlink_to(tmp_path / "elsewhere.mp4")
    assert prepare(made, tmp_path / "store", "--workers", "1", "--max-skipped", "1") == 0
    found = reasons(tmp_path / "store")
    assert found.keys() == {"episode_000004", "episode_000005"}
    assert all("a link that leads out" in text for text in found.values())


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """Return the data with random bytes replaced, its end cut off, or a part repeated."""
    changed = bytearray(data)
    kind = rng.integers(3)
    if kind == 0:
        for _ in range(int(rng.integers(1, 30))):
            changed[rng.integers(len(changed))] = rng.integers(256)
    elif kind == 1:
        del changed[rng.integers(len(changed)) :]
    else:
        at = int(rng.integers(len(changed)))
        changed[at:at] = changed[at : at + int(rng.integers(1, 200))]
    return bytes(changed)


@pytest.mark.parametrize(
    "rounds", [3, pytest.param(100, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_mutated_tables_end_in_a_reason_or_a_sound_store(tmp_path, capsys, rounds):
    made = write_robot_set(tmp_path / "set", lengths=(4, 5, 3, 4))
    rng = np.random.default_rng(rounds)
    for number in range(rounds):
        for path in (made.index, made.table((0, 0))):
            sound = path.read_bytes()
            path.write_bytes(mutate(rng, sound))
            out = tmp_path / f"{number}_{path.parts[-4]}"
            code = prepare(made, out, "--workers", "1", "--max-skipped", "1")
            path.write_bytes(sound)
            message = capsys.readouterr().err
            assert "Traceback" not in message
            if code:
                assert "data-prep: " in message
            else:
                assert main(["verify", str(out)]) == 0


def test_several_cameras_are_named_and_an_unknown_one_too(robot_set, tmp_path, capsys):
    command = ["lerobot", str(robot_set.root), "--out", str(tmp_path / "store")]
    assert main(command) == 1
    assert f"{TOP}, {WRIST}; choose one with --camera" in capsys.readouterr().err
    assert main([*command, "--camera", "left"]) == 1
    assert "no camera 'left'" in capsys.readouterr().err


def test_without_pyarrow_the_message_says_what_to_install(robot_set, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    assert "pip install 'video-vq[lerobot]'" in refusal(robot_set, tmp_path / "store", capsys)


def test_a_video_of_an_unknown_codec_is_left_out(tmp_path):
    made = write_robot_set(tmp_path / "set")
    path = made.video(TOP, (1, 0))
    sound = path.read_bytes()
    assert sound.count(b"avc1") >= 2  # the file's brand and its track's coding
    path.write_bytes(sound.replace(b"avc1", b"zzzz"))
    assert prepare(made, tmp_path / "store", "--workers", "1", "--max-skipped", "1") == 0
    found = reasons(tmp_path / "store")
    assert found.keys() == {"episode_000004", "episode_000005"}
    assert all("uses a codec that FFmpeg does not know" in text for text in found.values())
