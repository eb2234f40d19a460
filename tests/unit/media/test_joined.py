"""Tests that joined recordings, whose timestamps restart or jump, keep every frame."""

import importlib.util
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from made_videos import encode, joined, scene

from video_vq.evaluation.scored_clip import Cut, clip_of_file
from video_vq.media.decode import Decoder, FirstFrames, FrameStream
from video_vq.media.prepared import FrameRecipe, open_file
from video_vq.media.probe import (
    CONTAINERS,
    DEFAULT_LIMITS,
    CountedPackets,
    UnreadableVideoError,
    probe,
)
from video_vq.media.ranges import FrameRanges
from video_vq.media.resample import frames_at_rate
from video_vq.media.resize import METHOD

HAS_DECORD = importlib.util.find_spec("decord") is not None
DECODERS: list[Decoder] = ["pyav", "decord"] if HAS_DECORD else ["pyav"]
NUM_FRAMES, HOUR = 30, 25 * 3600  # of frames
MPEG2 = {"qmin": "2", "qmax": "2", "threads": "2"}  # the same bytes on any number of cores
BROADCASTS = {
    "mpeg2 with B-frames in a transport stream": ("a.ts", "mpeg2video", {**MPEG2, "bf": "2"}),
    "h264 of a camcorder": ("a.mts", "libx264", {"crf": "12", "bf": "3"}),
    "mpeg2 in a program stream": ("a.mpg", "mpeg2video", MPEG2),
    "mpeg2 with B-frames of a disc": ("a.vob", "mpeg2video", {**MPEG2, "bf": "2"}),
}
OTHERS = {
    "h264 in matroska": ("a.mkv", "libx264", {"crf": "12"}),
    "vp8 in webm": ("a.webm", "libvpx", {"crf": "4", "b": "2M"}),
}
# First frame of each part -> the number at which its time stamps begin.
RESTARTS = {
    "restart in the middle": {0: 0, 12: 0},
    "back by an hour in the middle": {0: HOUR, 12: 0},
    "back by an hour at the end": {0: HOUR, 29: 0},
}
LEAPS = {
    "ahead by an hour in the middle": {0: 0, 12: HOUR},
    "ahead by an hour at the end": {0: 0, 29: HOUR},
    "ahead and back again": {0: 0, 12: HOUR, 21: 5},
    "restart after one frame": {0: 0, 1: 0},
    "restart after each of the first frames": {0: 0, 1: 0, 2: 0, 3: 0},
}


def join(root: Path, kind: tuple[str, str, dict[str, str]], starts: dict[int, int]) -> Path:
    name, codec, options = kind
    frames = scene(NUM_FRAMES, 32, 96)
    ends = [*list(starts)[1:], NUM_FRAMES]
    parts = [
        (frames[first:end], start) for (first, start), end in zip(starts.items(), ends, strict=True)
    ]
    return joined(root / name, parts, codec, "yuv420p", options)


def require_every_frame(path: Path) -> None:
    info = probe(path)
    assert info.num_packets == NUM_FRAMES
    assert info.timestamps is not None
    gaps = np.diff(np.array(info.timestamps)) * info.time_base
    assert set(gaps) == {Fraction(1, 25)}
    assert frames_at_rate(info, 25.0) == list(range(NUM_FRAMES))
    assert frames_at_rate(info, 12.5) == list(range(0, NUM_FRAMES, 2))
    expected = scene(NUM_FRAMES, 32, 96).astype(np.int16)
    first = FirstFrames(path, NUM_FRAMES)
    for reader in (*(FrameStream(info, decoder) for decoder in DECODERS), first):
        distance = np.abs(np.stack(list(reader))[:, None] - expected).mean(axis=(2, 3, 4))
        assert distance.argmin(axis=1).tolist() == list(range(NUM_FRAMES))
    assert first.info == info
    # What `fvd --fps` scores: the same frames of the same file have the same name.
    own = clip_of_file(path, Cut(NUM_FRAMES))
    assert clip_of_file(path, Cut(NUM_FRAMES, fps=25.0)).data_hash == own.data_hash


@pytest.mark.parametrize("starts", {**RESTARTS, **LEAPS}.values(), ids={**RESTARTS, **LEAPS})
@pytest.mark.parametrize("kind", BROADCASTS.values(), ids=BROADCASTS)
def test_a_broadcast_keeps_every_frame_wherever_its_time_stamps_go(tmp_path, kind, starts):
    require_every_frame(join(tmp_path, kind, starts))


@pytest.mark.parametrize("starts", RESTARTS.values(), ids=RESTARTS)
@pytest.mark.parametrize("kind", OTHERS.values(), ids=OTHERS)
def test_other_containers_keep_every_frame_where_time_stamps_go_back(tmp_path, kind, starts):
    require_every_frame(join(tmp_path, kind, starts))


def test_a_still_of_some_seconds_is_time_that_passed(tmp_path):
    path = join(tmp_path, BROADCASTS["mpeg2 in a program stream"], {0: 0, 12: 112})
    info = probe(path)
    chosen = frames_at_rate(info, 25.0)
    assert sorted(set(chosen)) == list(range(NUM_FRAMES))
    assert len(chosen) > 100
    times = [0, 40, 20_000, 20_040]
    still = probe(encode(tmp_path / "a.mkv", scene(4, 32, 48), "ffv1", "bgr0", times=times))
    assert still.num_parts == 1
    assert frames_at_rate(still, 0.1) == [0, 1, 2]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_joined_recording_is_noted_and_its_frames_are_not_repeated(tmp_path, decoder):
    path = join(tmp_path, BROADCASTS["h264 of a camcorder"], {0: 0, 12: 0, 20: 0})
    recipe = FrameRecipe((32, 96), 25.0, decoder=decoder)
    opened = open_file(path, path.stat().st_size, recipe, lambda *_: None)
    assert len(list(opened.frames)) == NUM_FRAMES
    note = "its time stamps restart or leap 2 times; its parts follow each other"
    assert note in opened.oddities()
    with pytest.raises(UnreadableVideoError, match="its time stamps restart or leap"):
        FrameRanges(path)


@pytest.mark.parametrize("fps", [None, 25.0])
def test_half_a_store_of_other_frames_does_not_go_on_and_one_without_a_rate_does(fps):
    before = {"resize": METHOD, "frames_version": 2}  # of the plans of before
    assert (before.items() <= FrameRecipe((32, 96), fps).plan().items()) == (fps is None)


def known_of(times: list[tuple[int | None, int | None, str]], container_name: str) -> Any:
    """Return facts counted from packets, given as (pts in ms, dts in ms, "K" if a keyframe)."""
    packets = [
        SimpleNamespace(
            pts=shown, dts=decoded, is_keyframe=kind == "K", size=1, is_discard=False,
            is_corrupt=False,
        )
        for shown, decoded, kind in times
    ]  # fmt: skip
    stream: Any = SimpleNamespace(
        time_base=Fraction(1, 1000), average_rate=Fraction(25), frames=0, duration=None,
        sample_aspect_ratio=None, codec_context=SimpleNamespace(name="made"),
    )  # fmt: skip
    container: Any = SimpleNamespace(
        format=av.ContainerFormat(container_name, "r"),
        demux=lambda _: packets, duration=None,
    )  # fmt: skip
    counted = CountedPackets(Path(__file__), container, stream, DEFAULT_LIMITS)
    assert list(counted) == packets
    frame: Any = SimpleNamespace(width=8, height=8, side_data=())
    return counted.info(frame)


K, P = "K", ""
TIMES = {
    # B-frames of a muxer that left decoding times out step back a little.
    "small steps": ([(0, 0, K), (80, 80, P), (40, 40, P)], True, (0, 40, 80), 1),
    "100 ms": ([(0, 0, K), (200, 200, P), (100, 100, P)], True, (0, 100, 200), 1),
    "more": ([(0, 0, K), (201, 201, P), (100, 100, P)], True, (0, 201, 402), 2),
    "no broadcast": ([(0, 0, K), (900, 900, P), (40, 40, P)], False, (0, 40, 900), 1),
    "10 s": ([(0, 0, K), (10_000, 10_000, P)], True, (0, 10_000), 1),
    "over 10 s": ([(0, 0, K), (10_001, 10_001, P)], True, (0, 40), 2),
    "a still": ([(0, 0, K), (10_001, 10_001, P)], False, (0, 10_001), 1),
    "same time": ([(0, 0, K), (0, 0, K), (40, 40, P)], False, (0, 40, 80), 2),
    "same time, no keyframe": ([(0, 0, K), (0, 0, P)], False, (0, 0), 1),
    "unknown between": ([(0, 0, K), (40, None, P), (0, 0, K)], False, (0, 40, 80), 2),
    "shown far off": ([(0, 0, K), (99_000, 40, P)], True, (0, 40), 1),
    "shown in time": ([(100, 0, K), (10_040, 40, P)], True, (100, 10_040), 1),
    "as it is elsewhere": ([(0, 0, K), (99_000, 40, P)], False, (0, 99_000), 1),
    "no time": ([(0, 0, K), (None, 40, P)], False, None, 1),
    "no time to decode": ([(0, 0, K), (40, None, P), (0, 0, K)], True, None, 2),
    "rates": ([(0, 0, K), (20, 20, P), (0, 0, K), (50, 50, P)], True, (0, 20, 40, 90), 2),
}  # fmt: skip


@pytest.mark.parametrize(("times", "broadcast", "expected", "num_parts"), TIMES.values(), ids=TIMES)
def test_parts_begin_where_decoding_times_do_not_go_on(times, broadcast, expected, num_parts):
    info = known_of(times, "mpegts" if broadcast else "matroska")
    assert (info.timestamps, info.num_parts, info.num_packets) == (expected, num_parts, len(times))


@pytest.mark.parametrize("container", CONTAINERS.split(","))
def test_a_long_still_is_a_leap_in_transport_and_program_streams_alone(container):
    info = known_of([(0, 0, K), (40, 40, P), (20_040, 20_040, P)], container)
    assert info.num_parts == (2 if container in ("mpegts", "mpeg") else 1)
