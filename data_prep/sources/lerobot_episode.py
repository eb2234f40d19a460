"""Opener of LeRobot v3 episodes, which consist of frames in a long video and rows in a table.

The data are not trusted: the frames are counted, the frame times are compared with the index, and
the rows are compared with the frames.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.parquet import Kind, RowReader, TableError
from data_prep.sources import Item, Notes
from data_prep.sources.lerobot_index import TOLERANCE
from video_vq.media.prepared import FrameRecipe, Watch
from video_vq.media.probe import Limits
from video_vq.media.ranges import FrameRanges
from video_vq.media.resize import resize
from video_vq.stores.clips import PreparedVideo, UnusableVideoError

MAX_EPISODE_VALUES = 1 << 26  # number of values in all columns of an episode
MAX_STRETCHES = 1_000_000


@dataclass(frozen=True)
class Place:
    """The location of an episode in a data set; see data_prep.sources.lerobot.

    Attributes:
        episode: number of the episode.
        num_frames: number of frames, and of table rows, in the episode.
        first_row: index of the episode's first row in the whole data set.
        from_seconds: time of the episode's first frame in the video, in seconds.
        fps: frame rate of the data set.
        arrays: mapping from array name to column name and number of values in a row.
    """

    episode: int
    num_frames: int
    first_row: int
    from_seconds: float
    fps: float
    arrays: dict[str, list[Any]]


class _OpenVideo:
    """Cache of the video of the last opened episode, which usually also contains the next one."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._ranges: FrameRanges | None = None
        self._sha256 = ""

    def get(self, path: str, num_bytes: int, limits: Limits) -> tuple[FrameRanges, str]:
        """Return the reader of a video's frames, and the SHA-256 of the video file.

        Raises:
            UnusableVideoError: the file size differs from `num_bytes`.
            UnreadableVideoError: as for `FrameRanges`.
        """
        status = os.stat(path)
        if status.st_size != num_bytes:
            raise UnusableVideoError(
                f"its video has {status.st_size:,} bytes, {num_bytes:,} when it was listed; "
                "something writes to it"
            )
        key = (path, status.st_size, status.st_mtime_ns, limits)
        if self._key != key or self._ranges is None:
            self.close()
            with open(path, "rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._ranges, self._key = FrameRanges(path, limits), key
        return self._ranges, self._sha256

    def close(self) -> None:
        if self._ranges is not None:
            self._ranges.close()
        self._key = self._ranges = None


class _OpenTable:
    """Cache of the last opened episode's table, with the row ranges of all episodes in it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._reader: RowReader | None = None
        self._stretches: dict[int, list[tuple[int, int]]] = {}

    def rows(
        self, path: str, place: Place, wanted: dict[str, tuple[Kind, int]]
    ) -> dict[str, np.ndarray]:
        """Return an episode's rows, without reading the whole table into memory.

        Raises:
            UnusableVideoError: the number of rows differs from the number of frames, the rows are
                not contiguous, or there are too many values.
            TableError: the table cannot be used.
        """
        status = os.stat(path)
        key = (path, status.st_size, status.st_mtime_ns, tuple(wanted.items()))
        if self._key != key or self._reader is None:
            self.close()
            self._reader = RowReader(Path(path), wanted)
            self._stretches = _stretches(Path(path), self._reader.integers("episode_index"))
            self._key = key
        found = self._stretches.get(place.episode, [])
        total = sum(count for _, count in found)
        if total != place.num_frames:
            raise UnusableVideoError(f"its table has {total:,} rows for {place.num_frames} frames")
        if len(found) > 1:
            raise UnusableVideoError("its rows do not follow one another in their table")
        if total * sum(width for _, width in wanted.values()) > MAX_EPISODE_VALUES:
            raise UnusableVideoError(f"its rows hold more than {MAX_EPISODE_VALUES:,} numbers")
        return self._reader.read(*found[0])

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._key = self._reader = None


def _stretches(path: Path, pieces: Iterator[np.ndarray]) -> dict[int, list[tuple[int, int]]]:
    """Return the first row and length of each contiguous row range, by episode number.

    Args:
        path: path of the table, for error messages.
        pieces: chunks of the column `episode_index`.
    """
    found: list[tuple[int, int, int]] = []  # episode, first row, rows
    row = 0
    for piece in pieces:
        if not len(piece):
            continue
        starts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], len(piece)], strict=True):
            episode = int(piece[start])
            if start == 0 and found and found[-1][0] == episode:
                found[-1] = (episode, found[-1][1], found[-1][2] + end)
            else:
                found.append((episode, row + start, end - start))
        row += len(piece)
        if len(found) > MAX_STRETCHES:
            raise TableError(path, f"holds over {MAX_STRETCHES:,} episodes, or mixes their rows")
    by_episode: dict[int, list[tuple[int, int]]] = {}
    for episode, first, count in found:
        by_episode.setdefault(episode, []).append((first, count))
    return by_episode


class EpisodeOpener:
    """Opener of the episodes in a shard, with caches for this shard only; see `OpenItem`."""

    def __init__(self) -> None:
        self._video, self._table = _OpenVideo(), _OpenTable()

    def __call__(
        self, item: Item, recipe: FrameRecipe, watch: Watch, notes: Notes
    ) -> PreparedVideo:
        """Return an opened episode."""
        assert item.place is not None
        place = Place(**item.place)
        arrays = _rows(self._table, item, place)
        ranges, sha256 = self._video.get(item.path, item.num_bytes, recipe.limits)
        first = _first_frame(ranges, place)
        height, width = ranges.info.size_hw
        # A video with few keyframes may have to be decoded from the beginning.
        watch("decode", recipe.cpu_limit((first + place.num_frames) * height * width * 3))
        origin = {
            "name": item.name,
            "sha256": sha256,
            "first_frame": first,
            "packets": place.num_frames,
        }
        frames = _frames(item, ranges, first, place.num_frames, recipe, notes)
        return PreparedVideo(
            item.video(origin, place.fps / recipe.stride),
            frames,
            {name: rows[:: recipe.stride] for name, rows in arrays.items()},
        )


def _first_frame(ranges: FrameRanges, place: Place) -> int:
    """Return the index of an episode's first frame in the video.

    Raises:
        UnusableVideoError: the video is too short, or a frame time differs from the index.
    """
    total = ranges.info.num_packets
    first = ranges.nearest(place.from_seconds)
    if first + place.num_frames > total:
        raise UnusableVideoError(
            f"its {place.num_frames} frames begin at frame {first} of a video of {total}: it is "
            "shorter than the index says"
        )
    for number in range(place.num_frames):
        wanted = place.from_seconds + number / place.fps
        found = ranges.seconds(first + number)
        if abs(found - wanted) * place.fps > TOLERANCE:
            raise UnusableVideoError(
                f"its frame {number} should be shown at {wanted:.4f} s; the video's frame "
                f"{first + number} is shown at {found:.4f} s"
            )
    return first


def _frames(
    item: Item, ranges: FrameRanges, first: int, count: int, recipe: FrameRecipe, notes: Notes
) -> Iterator[UInt8[np.ndarray, "1 h w 3"]]:
    for number, frame in enumerate(ranges.frames(first, count)):
        if number % recipe.stride == 0:
            yield resize(frame[None], recipe.size_hw, ranges.info.pixel_aspect)
    if ranges.num_damaged:
        note = f"damaged frames that were mended: {ranges.num_damaged}"
        notes.append({"id": item.id, "note": note})


def _rows(opened: _OpenTable, item: Item, place: Place) -> dict[str, Float32[np.ndarray, "t _"]]:
    """Return an episode's rows for each array, after comparing them with the frames.

    Raises:
        UnusableVideoError: the table cannot be read, row numbers or times do not fit the frames, or
            a value is not finite.
    """
    wanted: dict[str, tuple[Kind, int]] = {
        "index": ("integer", 1),
        "episode_index": ("integer", 1),
        "frame_index": ("integer", 1),
        "timestamp": ("number", 1),
        **{str(column): ("vector", int(width)) for column, width in place.arrays.values()},
    }
    try:
        table = opened.rows(item.table, place, wanted)
    except TableError as error:
        raise UnusableVideoError(f"its table {error.reason}") from None
    except OSError as error:
        raise UnusableVideoError(f"its table cannot be read ({error.strerror})") from None
    numbers = np.arange(place.num_frames)
    if not (
        np.array_equal(table["frame_index"], numbers)
        and np.array_equal(table["index"], place.first_row + numbers)
    ):
        raise UnusableVideoError("the rows of its table are not numbered like its frames")
    on_time = np.abs(table["timestamp"] * place.fps - numbers) <= TOLERANCE
    if not on_time.all():
        row = int(np.argmin(on_time))
        raise UnusableVideoError(
            f"row {row} of its table is at {table['timestamp'][row]:.4f} s; at {place.fps:g} "
            f"frames per second it should be at {row / place.fps:.4f} s"
        )
    arrays = {ours: table[str(column)] for ours, (column, _) in place.arrays.items()}
    for ours, rows in arrays.items():
        if not np.isfinite(rows).all():
            raise UnusableVideoError(f"{ours}: a number is not finite")
    return arrays
