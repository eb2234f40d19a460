"""The records of a clip store for videos, and for those that were left out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_vq.errors import InputError

REPEATED = "repeated"  # in a video's origin: frames that a fixed rate repeats


@dataclass(frozen=True)
class Video:
    """One decoded video of a store.

    Attributes:
        id: id of the video, unique in the store.
        label: class name; None if the data have no classes.
        split: train, val or test.
        group: videos of one group are near-duplicates and share a split.
        num_frames: number of decoded frames.
        fps: frames per second of the stored frames; None if unknown.
        origin: source of the video: its name and sha256, or the model and seed.
        shard, offset: position of its first frame; set by the writer.
    """

    id: str
    label: str | None
    split: str
    group: str
    num_frames: int = 0
    fps: float | None = None
    origin: dict[str, Any] | None = None
    shard: int = -1
    offset: int = -1


@dataclass(frozen=True)
class Skipped:
    """A source that could not be used, and why."""

    id: str
    path: str
    reason: str


class UnusableVideoError(InputError):
    """Raised by a video's frames; the store leaves out this video and records the reason."""


@dataclass(frozen=True)
class PreparedVideo:
    """Input to a writer: a video's description, its frames in chunks, its per-frame arrays.

    If the frames raise UnusableVideoError, the part of the video that was written is removed.
    """

    video: Video
    frames: Iterable[np.ndarray]  # chunks of uint8 t h w c
    arrays: dict[str, np.ndarray]  # name -> float32 t ...


def commonest_fps(videos: Iterable[Video]) -> float | None:
    """Return the most common frame rate, the first of several; None if none is known."""
    rates = Counter(video.fps for video in videos if video.fps is not None)
    return rates.most_common(1)[0][0] if rates else None


def num_repeated(video: Video) -> int | None:
    """Return the number of frames repeated to reach a fixed rate; None if unknown.

    The origin records it if a fixed rate was requested, except in older stores.
    """
    found = (video.origin or {}).get(REPEATED)
    return found if type(found) is int and 0 <= found < video.num_frames else None


def skipped_entry(video: Video, reason: str) -> Skipped:
    """Return the line of `skipped.jsonl` with the reason why a video was left out."""
    return Skipped(video.id, str((video.origin or {}).get("name", video.id)), reason)


def reasons(skipped: Sequence[dict[str, str]], most: int = 5) -> str:
    """Return a line for each file that was left out, with its reason, up to `most` lines."""
    counts = Counter(f"  {entry['path']}: {entry['reason']}" for entry in skipped)
    lines = [
        line if count == 1 else f"{line} ({count:,} videos)"
        for line, count in list(counts.items())[:most]
    ]
    if len(counts) > most:
        lines.append(f"  and {sum(list(counts.values())[most:])} more")
    return "\n".join(lines)


def warning_of_empty_splits(missing: Sequence[str], num_skipped: int) -> str:
    """Return the warning that splits hold no video, and what to do about it.

    A split is decided by names, before any file is read, so that a store and the tokens of the same
    folder always agree about it; a split whose videos are all left out therefore stays empty.
    """
    remedy = "add videos"
    if num_skipped:
        remedy = (
            "repair the files that were left out, or move them elsewhere, and run the command with "
            "another --out, which splits the remaining videos again"
        )
    return (
        f"warning: no {' and no '.join(missing)} videos: training needs train and val, scores need "
        f"test; {remedy}"
    )


def require_few_skipped(skipped: Sequence[dict[str, str]], total: int, limit: float) -> None:
    """Stop a run that loses too many videos.

    Args:
        skipped: videos that were left out so far (path, reason).
        total: number of all videos.
        limit: share of the videos that may be left out; if it is above 0, a single video always
            may.

    Raises:
        InputError: more were left out; the message lists them with the reasons.
    """
    if len(skipped) > max(limit * total, limit > 0):
        raise InputError(
            f"{len(skipped)} of {total} videos cannot be used, more than the "
            f"allowed share of {limit:g}:\n{reasons(skipped)}\n"
            "There may be more among those not read yet. Allow a larger share with --max-skipped, "
            "and the same command resumes where it stopped, leaves them out, and lists all in "
            "skipped.jsonl. To repair or remove them instead, delete what was begun, as a store "
            "is made from one list of videos."
        )


def video_from_json(entry: dict[str, Any]) -> Video:
    """Read a manifest's entry; raise a TypeError for a field of the wrong type."""
    video = Video(**entry)
    whole = (video.num_frames, video.shard, video.offset)
    text = (video.id, video.split, video.group)
    if (
        not all(type(value) is int for value in whole)
        or not all(isinstance(value, str) for value in text)
        or not isinstance(video.label, str | None)
        or not isinstance(video.fps, float | int | None)
        or not isinstance(video.origin, dict | None)
    ):
        raise TypeError(f"video {str(video.id)[:80]!r} has a field of the wrong type")
    return video
