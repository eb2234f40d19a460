"""Parses the names of a video's frames to find the numbering, gaps and natural order."""

import functools
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np

from video_vq.errors import printable
from video_vq.media.kinds import PICTURE_SUFFIXES
from video_vq.media.probe import UnreadableVideoError
from video_vq.media.reading import EXAMPLE_PATTERN

NUMBERS = re.compile("([0-9]+)")
MAX_DIGITS = 18  # any number of 18 digits fits in 64 bits


class Numbering:
    """The numbering of file names, updated name by name in constant memory.

    Attributes:
        count: number of names added so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = ""
        self._odd_one: str | None = None
        self._texts: list[str] = []
        self._begin: list[int] = []
        self._low: list[int] = []
        self._high: list[int] = []
        self._step: list[int] = []

    def add(self, name: str) -> None:
        """Update the numbering with one name."""
        parts = NUMBERS.split(name)
        texts, numbers = parts[::2], [int(digits) for digits in parts[1::2]]
        self.count += 1
        if self.count == 1:
            self._first, self._texts, self._begin = name, texts, numbers
            self._low, self._high = numbers[:], numbers[:]
            self._step = [0] * len(numbers)
        elif texts != self._texts:
            self._odd_one = self._odd_one or name
        else:
            self._low = list(map(min, self._low, numbers))
            self._high = list(map(max, self._high, numbers))
            apart = (now - begin for now, begin in zip(numbers, self._begin, strict=True))
            self._step = list(map(math.gcd, self._step, apart))

    @property
    def changing(self) -> list[int]:
        """Return the indices of the numbers in a name that differ between names."""
        return [place for place, step in enumerate(self._step) if step]

    def problem(self) -> str | None:
        """Return the reason why the names may not belong to frames of one video, or None."""
        if self._odd_one is not None:
            return (
                f"its pictures are not named alike ({printable(self._first)}, "
                f"{printable(self._odd_one)}): give it one video's frames of one kind, numbered, "
                f"or say with --frame-names how they are named, for example '{EXAMPLE_PATTERN}'"
            )
        if self.count > 1 and len(self.changing) != 1:
            return (
                f"the names of its pictures, such as {printable(self._first)}, differ in "
                f"{len(self.changing)} numbers, so they may be of several videos: say with "
                f"--frame-names which part is the frame, for example '{EXAMPLE_PATTERN}'"
            )
        return None

    def gaps(self) -> str | None:
        """Return a note on missing numbers; None if there are none or they cannot be determined."""
        if self._odd_one is not None or len(self.changing) != 1:
            return None
        (place,) = self.changing
        low, high, step = self._low[place], self._high[place], self._step[place]
        missing = (high - low) // step + 1 - self.count
        if missing <= 0:
            return None
        every = f" by {step}" if step > 1 else ""
        return (
            f"{self.count:,} frames are numbered from {low} to {high}{every}, so {missing:,} "
            f"{'is' if missing == 1 else 'are'} missing; those that are there follow each other"
        )


class NumberedNames(Sequence[str]):
    """A sequence of names that differ in one number, sorted by the number.

    Each name takes 9 bytes of memory.

    Args:
        names: the names, in any order.
        place: index of the differing number among the numbers in a name.

    Raises:
        ValueError: a number occurs twice, or has more than 18 digits.
    """

    def __init__(self, names: Iterable[str], place: int):
        self._before, self._after = "", ""

        def digits() -> Iterator[tuple[int, int]]:
            for name in names:
                parts = NUMBERS.split(name)
                found = parts[2 * place + 1]
                if len(found) > MAX_DIGITS:
                    raise ValueError(f"{name} is numbered with more than {MAX_DIGITS} digits")
                self._before = "".join(parts[: 2 * place + 1])
                self._after = "".join(parts[2 * place + 2 :])
                yield int(found), len(found)

        rows = np.fromiter(digits(), np.dtype([("number", np.int64), ("width", np.uint8)]))
        self._rows = rows[np.argsort(rows["number"], kind="stable")]
        twice = np.flatnonzero(np.diff(self._rows["number"]) == 0)
        if len(twice):
            raise ValueError(f"{self[int(twice[0])]} and {self[int(twice[0]) + 1]} are one frame")

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number, width = self._rows[index].item()
        return f"{self._before}{number:0{width}d}{self._after}"


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a key that sorts strings by the numbers they contain: frame 9 before frame 10."""
    parts: list[str | int] = list(NUMBERS.split(text))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, text


def is_picture(name: str) -> bool:
    """Return whether a file name has an image extension and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(PICTURE_SUFFIXES)


def pictures_in(folder: Path) -> Iterator[str]:
    """Yield the names of the images in a folder, in no particular order.

    Raises:
        UnreadableVideoError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if is_picture(entry.name))
    except OSError as error:
        raise UnreadableVideoError(folder, f"cannot be listed ({error.strerror})") from None


def names_in(folder: Path) -> tuple[Sequence[str], Numbering]:
    """Return the frame names of a folder that contains one video, in order, and the numbering.

    Raises:
        UnreadableVideoError: the folder cannot be listed or contains no images, or the images are
            not numbered like the frames of one video.
    """
    numbering = Numbering()
    for name in pictures_in(folder):
        numbering.add(name)
    if not numbering.count:
        raise UnreadableVideoError(folder, "is a folder without png, jpg or webp pictures")
    problem = numbering.problem()
    if problem is not None:
        raise UnreadableVideoError(folder, problem)
    if numbering.count == 1:
        return list(pictures_in(folder)), numbering
    try:
        return NumberedNames(pictures_in(folder), numbering.changing[0]), numbering
    except (ValueError, IndexError) as error:  # IndexError: a new name has appeared
        raise UnreadableVideoError(folder, f"its frames have no order: {error}") from None


class FramePattern:
    """A regular expression that separates a folder's videos and orders each video's frames."""

    def __init__(self, pattern: str):
        self._pattern = re.compile(pattern)
        self.has_video = "video" in self._pattern.groupindex

    def parse(self, name: str) -> tuple[str, str] | None:
        """Return the video and the frame that a name states; None if the name does not match.

        Without a group `video`, the video is "", which stands for the folder itself; with a group
        `video`, the video is never "".
        """
        match = self._pattern.fullmatch(name)
        if match is None or (self.has_video and not match["video"]):
            return None
        return match["video"] if self.has_video else "", match["frame"] or ""


def names_by_pattern(folder: Path, pattern: str, video: str) -> tuple[Sequence[str], Numbering]:
    """Return the frame names of one video in a folder, in natural order, and the numbering.

    Raises:
        UnreadableVideoError: the folder cannot be listed, no name matches, or two names state the
            same frame.
    """
    try:
        changed = folder.stat().st_mtime_ns
    except OSError as error:
        raise UnreadableVideoError(folder, f"cannot be listed ({error.strerror})") from None
    frames = _by_video(folder, changed, pattern).get(video)
    if not frames:
        raise UnreadableVideoError(folder / video, "no picture's name matches --frame-names")
    numbering = Numbering()
    for frame, _ in frames:
        numbering.add(frame)
    for (frame, name), (later, other) in pairwise(frames):
        if natural_key(frame)[0] == natural_key(later)[0]:
            raise UnreadableVideoError(folder / video, f"{name} and {other} are one frame")
    return [name for _, name in frames], numbering


@functools.lru_cache(maxsize=1)  # consecutive videos are in the same folder
def _by_video(folder: Path, changed: int, pattern: str) -> dict[str, list[tuple[str, str]]]:
    """Return each video's (frame, name) pairs, in order; `changed` is the modification time."""
    names = FramePattern(pattern)
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in pictures_in(folder):
        parsed = names.parse(name)
        if parsed is not None:
            found[parsed[0]].append((parsed[1], name))
    for frames in found.values():
        frames.sort(key=lambda frame: natural_key(frame[0] + "\0" + frame[1]))
    return dict(found)
