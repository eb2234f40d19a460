"""Chooses the frames of a video by nearest timestamp, to convert the video to a fixed rate."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from video_vq.media.probe import DEFAULT_LIMITS, Limits, UnreadableVideoError, VideoInfo


def frames_at_rate(info: VideoInfo, fps: float, limits: Limits = DEFAULT_LIMITS) -> list[int]:
    """Return, for each k, the index of the source frame whose time is nearest to k / fps seconds.

    Times are exact fractions, relative to the first frame; of two equally near frames, the earlier
    frame is chosen. Without timestamps, the frames are assumed to be evenly spaced at the file's
    mean rate. The last frame is assumed to last for the mean frame interval.

    Args:
        info: properties of the video.
        fps: frames per second of the result; frames are dropped or repeated.
        limits: limits on the number of frames.

    Raises:
        UnreadableVideoError: the file has neither timestamps nor a frame rate, or the result would
            have more frames than the limits allow.
        ValueError: `fps` is not above 0.
    """
    target = Fraction(fps).limit_denominator(1001)
    if target <= 0:
        raise ValueError(f"fps {fps} is not above 0")
    times = _times(info)
    duration = times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 1 / target)
    count = max(1, math.ceil(duration * target))
    if count > limits.max_frames:
        raise UnreadableVideoError(
            info.path, f"lasts {float(duration):,.0f} s, {count:,} frames at {fps} per second"
        )
    chosen, source = [], 0
    for k in range(count):
        time = k / target
        while source + 1 < len(times) and times[source + 1] - time < time - times[source]:
            source += 1
        chosen.append(source)
    return chosen


def _times(info: VideoInfo) -> list[Fraction]:
    stamps = info.timestamps
    if stamps is not None and (len(stamps) == 1 or stamps[-1] > stamps[0]):
        return [(stamp - stamps[0]) * info.time_base for stamp in stamps]
    if info.fps is None:
        raise UnreadableVideoError(
            info.path,
            "has neither time stamps nor a frame rate; give its rate with --source-fps if "
            "it is of frames or arrays, or take it without a fixed rate",
        )
    rate = Fraction(info.fps).limit_denominator(1001)
    return [index / rate for index in range(info.num_packets)]


def keep(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]], indices: Iterable[int]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield the frames at ascending (or equal) indices; indices past the end are ignored."""
    iterator = iter(frames)
    position, frame = -1, None
    for index in indices:
        while position < index:
            frame = next(iterator, None)
            if frame is None:
                return
            position += 1
        assert frame is not None
        yield frame
