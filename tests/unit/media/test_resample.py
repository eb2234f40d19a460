"""Tests that a fixed rate takes the frame nearest in time, with any decoder."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_vq.media.probe import Limits, UnreadableVideoError, VideoInfo
from video_vq.media.resample import frames_at_rate, keep

INFO = VideoInfo(
    path=Path("a.mp4"),
    file_bytes=1000,
    container="mov",
    codec="h264",
    size_hw=(32, 32),
    fps=25.0,
    num_packets=0,
    claimed_frames=None,
    duration_seconds=None,
    pixel_aspect=Fraction(1),
    upright=(),
    timestamps=None,
    time_base=Fraction(1, 1000),
)


def video(stamps: list[int] | None, num_frames: int | None = None, fps: float | None = None):
    count = num_frames if stamps is None else len(stamps)
    assert count is not None
    return replace(
        INFO, num_packets=count, fps=fps, timestamps=None if stamps is None else tuple(stamps)
    )


def test_the_videos_own_rate_takes_every_frame_once():
    for fps, stamps in (
        (25.0, [40 * k for k in range(50)]),
        (10.0, [7 + 100 * k for k in range(9)]),
    ):
        assert frames_at_rate(video(stamps), fps) == list(range(len(stamps)))


def test_ntsc_rates_do_not_drift():
    info = replace(
        video([1001 * k for k in range(30_000)]), time_base=Fraction(1, 30_000), fps=29.97
    )
    assert frames_at_rate(info, 29.97) == list(range(30_000))
    assert frames_at_rate(info, 30.0)[::1000][:3] == [0, 999, 1998]


def test_half_the_rate_takes_every_other_frame_and_twice_repeats():
    info = video([40 * k for k in range(10)])
    assert frames_at_rate(info, 12.5) == [0, 2, 4, 6, 8]
    assert frames_at_rate(info, 50.0) == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
        7,
        7,
        8,
        8,
        9,
        9,
    ]


def test_of_two_equally_near_frames_the_earlier_is_taken():
    assert frames_at_rate(video([40 * k for k in range(10)]), 10.0) == [0, 2, 5, 7]


def test_without_time_stamps_frames_are_evenly_spaced():
    assert frames_at_rate(video(None, 10, 25.0), 12.5) == [0, 2, 4, 6, 8]
    with pytest.raises(UnreadableVideoError, match="neither time stamps nor a frame rate"):
        frames_at_rate(video(None, 10), 12.5)


def test_one_frame_stays_one_frame():
    assert frames_at_rate(video([33]), 10.0) == [0]


def test_absurd_time_stamps_are_refused_before_they_cost_anything():
    with pytest.raises(UnreadableVideoError, match=r"frames at 25\.0 per second"):
        frames_at_rate(video([0, 2**62]), 25.0)
    with pytest.raises(UnreadableVideoError, match="lasts 10 s, 100 frames"):
        frames_at_rate(video([0, 5000]), 10.0, Limits(max_frames=99))


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=40).map(
        lambda gaps: np.cumsum(gaps).tolist()
    ),
    st.sampled_from([1.0, 7.0, 12.5, 24.0, 29.97, 60.0]),
)
def test_each_instant_gets_the_frame_nearest_to_it(stamps, fps):
    if stamps[0] == stamps[-1] and len(stamps) > 1:
        stamps[-1] += 1
    chosen = frames_at_rate(video(stamps), fps)
    step = 1 / Fraction(fps).limit_denominator(1001)
    times = [Fraction(stamp - stamps[0], 1000) for stamp in stamps]
    for k, index in enumerate(chosen):
        nearest = min(abs(time - k * step) for time in times)
        assert abs(times[index] - k * step) == nearest
    assert chosen == sorted(chosen)
    mean_gap = times[-1] / max(len(times) - 1, 1)
    assert (len(chosen) - 1) * step <= times[-1] + mean_gap


def test_kept_frames_are_repeated_and_left_out_as_told():
    frames = [np.full((2, 2, 3), k, np.uint8) for k in range(6)]
    kept = [int(frame[0, 0, 0]) for frame in keep(frames, [0, 0, 2, 3, 3, 5])]
    assert kept == [0, 0, 2, 3, 3, 5]
    assert [int(f[0, 0, 0]) for f in keep(frames[:4], [1, 3, 4, 9])] == [1, 3]
