"""Notes on the frame rates in a store: mixed rates, and frames repeated to reach a fixed rate."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from video_vq.stores.videos import Video, commonest_fps, num_repeated

MAX_RATES = 4  # number of rates to name
MAX_SLOWER = 0.01  # fraction of the total duration that may be slower than the proposed rate


def mixed_rates(videos: Sequence[Video]) -> list[str]:
    """Return a list with a note if the videos have different frame rates, else []."""
    rates = Counter("unknown" if video.fps is None else f"{video.fps:.5g} fps" for video in videos)
    common, reached = commonest_fps(videos), _rate_within_reach(videos)
    if len(rates) == 1 or common is None or reached is None:
        return []
    told = ", ".join(f"{count:,} of {rate}" for rate, count in rates.most_common(MAX_RATES))
    others = len(rates) - MAX_RATES
    more = f" and {others} other{'s' if others > 1 else ''}" if others > 0 else ""
    share = _share_repeated_at(videos, common)
    harm = (
        f" (at {common:.5g}, {share:.1%} of the frames would be repeats)"
        if common > reached
        else ""
    )
    return [
        f"mixed frame rates: {told}{more}; the same motion takes more frames in some. "
        f"`--fps {reached:g}`, with another --out, converts all to one rate{harm}"
    ]


def repeated_frames(videos: Sequence[Video], fps: float | None) -> list[str]:
    """Return a list with a warning if frames were repeated to reach a fixed rate, else [].

    Args:
        videos: videos of the store.
        fps: fixed rate of the store; None if each video keeps its own rate.
    """
    counts = [num_repeated(video) or 0 for video in videos]
    repeated, frames = sum(counts), sum(video.num_frames for video in videos)
    if not repeated or fps is None:
        return []
    slow = sum(count > 0 for count in counts)
    return [
        f"warning: {repeated:,} of the {frames:,} frames ({repeated / frames:.1%}) repeat the one "
        f"before, in {slow:,} of the {len(counts):,} videos: these have fewer than "
        f"{fps:g} frames a second. Motion stops there, and a model learns that; give a lower "
        "--fps, and another --out"
    ]


def _rate_within_reach(videos: Sequence[Video]) -> float | None:
    """Return the highest rate to which the videos can be converted with few repeated frames.

    Videos with lower rates make up at most `MAX_SLOWER` of the total duration, so at most this
    fraction of the frames is repeated. Return None if no rate is known.
    """
    seconds: dict[float, float] = defaultdict(float)
    for video in videos:
        if video.fps:
            seconds[video.fps] += video.num_frames / video.fps
    slower, reached = 0.0, None
    for fps in sorted(seconds):
        if slower > MAX_SLOWER * sum(seconds.values()):
            break
        reached = fps
        slower += seconds[fps]
    return reached


def _share_repeated_at(videos: Sequence[Video], fps: float) -> float:
    """Return the fraction of frames that would be repeats if all videos had the given rate."""
    rated = [(video.fps, video.num_frames / video.fps) for video in videos if video.fps]
    missing = sum(seconds * max(0.0, fps - own) for own, seconds in rated)
    return missing / (fps * sum(seconds for _, seconds in rated))
