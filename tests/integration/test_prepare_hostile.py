"""Tests of folders with difficult videos: each is decoded correctly, or skipped with a reason."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import audio_only, bomb, cut, encode, scene
from test_prepare import PACKAGE, tree

from data_prep.cli import main
from data_prep.sources import table
from video_vq.media.resize import resize
from video_vq.stores.clips import ClipStore

HAS_DECORD = importlib.util.find_spec("decord") is not None
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from data_prep.cli import main
sys.exit(main(sys.argv[1:]))
"""
XVID = {"qmin": "2", "qmax": "2"}
# File, number of frames, height, width, and what `encode` is to do.
GOOD = {
    "xvid.avi": (29, 48, 64, {"options": XVID}),
    "xvid-b-frames.avi": (29, 48, 64, {"options": {**XVID, "bf": "2"}}),
    "variable-rate.mkv": (6, 48, 64, {"codec": "ffv1", "pix_fmt": "bgr0",
                                      "times": [0, 40, 80, 500, 520, 1500]}),
    "rotated.mov": (5, 48, 64, {"codec": "png", "pix_fmt": "rgb24",
                                "rotation": (90, False, False)}),
    "odd.mov": (5, 51, 67, {"codec": "png", "pix_fmt": "rgb24"}),
    "one-frame.avi": (1, 48, 64, {"options": XVID}),
}  # fmt: skip
BAD = {
    "audio.mp4": "holds no video track",
    "truncated.avi": "is cut off or damaged: packet",
    "truncated.mp4": "is not a video file that FFmpeg understands",
    "bomb.mp4": "would decode to 10,758,389,760 (380 frames of 4096x2304), more than 5,000 times",
    "endless.mkv": "lasts 2,000,000 s by its time stamps",
    "text.avi": "is not a video file that FFmpeg understands",
    "empty.webm": "is not a video file that FFmpeg understands",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    for name, (frames, height, width, how) in GOOD.items():
        encode(root / name, scene(frames, height, width), **how)
    audio_only(root / "audio.mp4")
    for name in ("truncated.avi", "truncated.mp4"):
        cut(encode(root / name, scene(40, 48, 64)), 0.7)
    assert bomb(root / "bomb.mp4", 380, (2304, 4096)).stat().st_size < 1 << 20
    times = [0, 40, 2_000_000_000]
    encode(root / "endless.mkv", scene(3, 48, 64), "ffv1", "bgr0", times=times)
    (root / "text.avi").write_text("no video\n" * 99)
    (root / "empty.webm").touch()
    return root


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_video_is_decoded_right_or_left_out_with_the_reason(raw, tmp_path, decoder):
    if decoder == "decord" and not HAS_DECORD:
        pytest.skip("decord has no wheel here")
    out = tmp_path / "store"
    arguments = ["folder", str(raw), "--out", str(out), "--size", "32", "--max-skipped", "0.6"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments, "--decoder", decoder, "--workers", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    store = ClipStore(out)
    assert {video.id: video.num_frames for video in store.videos} == {
        name: frames for name, (frames, *_) in GOOD.items()
    }
    for index, video in enumerate(store.videos):
        assert video.origin is not None
        assert video.origin["packets"] == video.num_frames
        frames, height, width, how = GOOD[video.id]
        expected = scene(frames, height, width)
        if "rotation" in how:
            expected = np.rot90(expected, axes=(1, 2))
        distance = np.abs(store.read(index).astype(int) - resize(expected, (32, 32)))
        assert distance.mean() < (0.01 if "codec" in how else 6), video.id
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert {entry["path"] for entry in skipped} == BAD.keys()
    for entry in skipped:
        assert entry["reason"].startswith(BAD[entry["path"]].split(" (")[0]) or (
            BAD[entry["path"]] in entry["reason"]
        )


def test_actions_of_a_table_go_with_the_frames_that_are_kept(tmp_path, capsys):
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    lines = ["path,split,actions"]
    for index, split in enumerate(("train", "val", "test", "train")):
        encode(tmp_path / f"{index}.avi", scene(12, 48, 64, index))
        # The last tells of another number of frames than there are.
        np.save(tmp_path / f"{index}.npy", (rows + 100 * index)[: 11 if index == 3 else 12])
        lines.append(f"{index}.avi,{split},{index}.npy")
    listed = tmp_path / "videos.csv"
    listed.write_text("\n".join(lines))
    for name, options, kept in (
        ("all", [], list(range(12))),
        ("stride", ["--stride", "5"], [0, 5, 10]),
        ("slow", ["--fps", "5"], [0, 5, 10]),
        ("fast", ["--fps", "50"], [index // 2 for index in range(24)]),
    ):
        out = tmp_path / name
        arguments = ["folder", str(listed), "--out", str(out), "--size", "16", *options]
        assert main([*arguments, "--workers", "1"]) == 0
        store = ClipStore(out)
        assert store.arrays == {"actions": (2,)}
        assert [video.split for video in store.videos] == ["train", "val", "test"]
        for index, video in enumerate(store.videos):
            # Of two frames equally near, a fixed rate takes the earlier.
            found = store.read_array("actions", index)
            if name == "fast":
                assert np.abs(found - (rows + 100 * index)[kept]).max() <= 2
                assert len(found) == video.num_frames
            else:
                assert np.array_equal(found, (rows + 100 * index)[kept])
        (entry,) = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
        assert entry["path"] == "3.avi"
        assert entry["reason"] == "its actions have 11 rows, its file 12 frames"
    capsys.readouterr()
    np.save(tmp_path / "0.npy", rows + 1)
    assert main(["folder", str(listed), "--out", str(tmp_path / "all"), "--size", "16"]) == 1
    assert "still holds 4 videos, but not the same ones as" in capsys.readouterr().err


def prepare_after(change, tmp_path, capsys, monkeypatch) -> tuple[int, str]:
    """Prepare four videos, calling `change` once they are listed; return exit status, stderr."""
    lines = ["path,split,actions"]
    for index, split in enumerate(("train", "val", "test", "train")):
        encode(tmp_path / f"{index}.avi", scene(4, 48, 64, index))
        np.save(tmp_path / f"{index}.npy", np.zeros((4, 2), np.float32))
        lines.append(f"{index}.avi,{split},{index}.npy")
    (tmp_path / "videos.csv").write_text("\n".join(lines))
    real = table.list_table

    def list_and_change(*arguments):
        listing = real(*arguments)
        change()
        return listing

    monkeypatch.setattr(table, "list_table", list_and_change)
    options = ["--out", str(tmp_path / "store"), "--size", "16", "--workers", "1"]
    code = main(["folder", str(tmp_path / "videos.csv"), *options])
    return code, capsys.readouterr().err


def test_actions_that_vanish_once_they_are_listed_are_told_by_name(tmp_path, capsys, monkeypatch):
    path = tmp_path / "2.npy"
    code, error = prepare_after(path.unlink, tmp_path, capsys, monkeypatch)
    assert code == 1
    assert error.startswith(f"data-prep: {path}: the actions of 2.avi were there when")
    assert "(No such file or directory); restore them" in error
    assert error.count("\n") == 1


def test_actions_that_become_wider_once_they_are_listed_cost_their_video(
    tmp_path, capsys, monkeypatch
):
    def widen():
        np.save(tmp_path / "3.npy", np.zeros((4, 3), np.float32))

    code, _ = prepare_after(widen, tmp_path, capsys, monkeypatch)
    assert code == 0
    (line,) = (tmp_path / "store/skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "3.avi"
    assert "its actions have rows of 3 numbers, 2 when they were listed" in line
    assert len(ClipStore(tmp_path / "store").videos) == 3


def test_lost_frames_are_counted(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    whole = encode(tmp_path / "whole.mkv", scene(24, 48, 64), "libx264", options={"g": "10"})
    # Without its first key frame, the frames up to the next cannot be decoded.
    with av.open(str(whole)) as source, av.open(str(videos / "a.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][1:]:
            packet.stream = stream
            target.mux(packet)
    out = tmp_path / "store"
    assert main(["folder", str(videos), "--out", str(out), "--size", "16"]) == 0
    (video,) = ClipStore(out).videos
    assert video.origin is not None
    assert video.num_frames < video.origin["packets"] == 23
    notes = json.loads((out / "provenance.json").read_text())["notes"]
    assert {"id": "a.mkv", "note": f"{video.num_frames} frames of 23 packets"} in notes


def test_one_bad_video_never_stops_a_small_folder_and_none_is_allowed_at_zero(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for index in range(3):
        encode(videos / f"{index}.avi", scene(4, 48, 64))
    (videos / "bad.avi").write_text("no video")
    base = ["folder", str(videos), "--size", "16", "--workers", "1"]
    assert main([*base, "--out", str(tmp_path / "one")]) == 0
    assert main([*base, "--out", str(tmp_path / "none"), "--max-skipped", "0"]) == 1
    assert "1 of 4 videos cannot be used, more than the allowed share of 0:" in (
        capsys.readouterr().err
    )
    assert main([*base, "--out", str(tmp_path / "none")]) == 0
    assert tree(tmp_path / "none") == tree(tmp_path / "one")
