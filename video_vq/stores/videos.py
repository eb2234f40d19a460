"""Clip store records of videos and of skipped sources."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_vq.errors import InputError

REPEATED = "repeated"  # field of a video's origin: number of frames repeated to reach a fixed rate


@dataclass(frozen=True)
class Video:
    """A decoded video in a store.

    Attributes:
        id: id of the video, unique in the store.
        label: class name; None for a video without a class.
        split: train, val or test.
        group: name of the video's group; near-duplicates form a group, all in the same split.
        num_frames: number of decoded frames.
        fps: frames per second of the stored frames; None if unknown.
        origin: origin of the video, such as the name and SHA-256 of its source, or a sample's seed.
        shard, offset: shard that contains the frames, and row of the first frame in the shard; set
            by the writer.
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
    """A source that could not be used, with the reason."""

    id: str
    path: str
    reason: str


class UnusableVideoError(InputError):
    """Error raised while a video's frames are read; the video is skipped, with the reason."""


@dataclass(frozen=True)
class PreparedVideo:
    """Input to a writer: a video's record, its frames in chunks, and its per-frame arrays.

    If reading the frames raises UnusableVideoError, the part already written is removed.
    """

    video: Video
    frames: Iterable[np.ndarray]  # chunks of uint8 t h w c
    arrays: dict[str, np.ndarray]  # float32 t ... for each name


def commonest_fps(videos: Iterable[Video]) -> float | None:
    """Return the most common frame rate (on a tie, the first), or None if no rate is known."""
    rates = Counter(video.fps for video in videos if video.fps is not None)
    return rates.most_common(1)[0][0] if rates else None


def num_repeated(video: Video) -> int | None:
    """Return the number of frames repeated to reach a fixed rate, or None if unknown.

    The origin records the number if a fixed rate was requested, except in older stores.
    """
    found = (video.origin or {}).get(REPEATED)
    return found if type(found) is int and 0 <= found < video.num_frames else None


def skipped_entry(video: Video, reason: str) -> Skipped:
    """Return the `skipped.jsonl` entry for a video, with the reason why it was skipped."""
    return Skipped(video.id, str((video.origin or {}).get("name", video.id)), reason)


def reasons(skipped: Sequence[dict[str, str]], most: int = 5) -> str:
    """Return a text that lists skipped files and the reasons; equal entries share a line.

    Args:
        skipped: files that were skipped (path, reason).
        most: largest number of lines; a further line counts the rest.
    """
    counts = Counter(f"  {entry['path']}: {entry['reason']}" for entry in skipped)
    lines = [
        line if count == 1 else f"{line} ({count:,} videos)"
        for line, count in list(counts.items())[:most]
    ]
    if len(counts) > most:
        lines.append(f"  and {sum(list(counts.values())[most:])} more")
    return "\n".join(lines)


def warning_of_empty_splits(missing: Sequence[str], num_skipped: int) -> str:
    """Return a warning that some splits contain no video, with advice.

    Names decide the split of a video before any file is read, so that a clip store and a token
    store from the same folder always have the same splits. A split whose videos are all skipped
    therefore stays empty.

    Args:
        missing: splits without videos.
        num_skipped: number of skipped videos.
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
    """Raise an error if too many videos were skipped.

    Args:
        skipped: videos skipped so far (path, reason).
        total: total number of videos.
        limit: largest fraction of the videos that may be skipped, from 0 to 1. Unless the limit is
            0, one video may always be skipped.

    Raises:
        InputError: too many videos were skipped; the message lists them with the reasons.
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
    """Return the video described by a manifest entry.

    Raises:
        TypeError: a field is missing, unknown or of the wrong type.
    """
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
