"""Finds the axes and the value range of videos in arrays, and converts frames to uint8."""

import functools
import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import numpy as np
from jaxtyping import Num, UInt8

from video_vq.errors import InputError
from video_vq.media.array_files import ArrayHeader, map_array, read_headers, signature
from video_vq.media.kinds import ARRAY_SUFFIXES
from video_vq.media.probe import Limits, UnreadableVideoError, VideoInfo, require_size
from video_vq.media.reading import RANGES, Reading, Values

KNOWN_LAYOUTS = ("thwc", "tchw", "cthw", "bthwc", "btchw", "bcthw")
MIN_SIDE = 8  # pixels of a frame, if the layout is inferred from the shape
MAX_VIDEOS = 1_000_000  # in one array
TOLERANCE = 0.5 / 255  # as a fraction of a range: half a level of a uint8 frame
SCAN_VALUES = 1 << 22  # values scanned at a time
_ADDRESS = re.compile(
    rf"(?P<file>.*(?:{'|'.join(map(re.escape, ARRAY_SUFFIXES))}))(?:#(?P<place>[^/]*))?",
    re.IGNORECASE | re.DOTALL,
)


class Address(NamedTuple):
    """The address of all videos in an array file, of one array's videos, or of a single video."""

    file: Path
    member: str | None
    number: int | None


class ArrayVideos(NamedTuple):
    """An array that contains a video, or a batch of videos.

    Attributes:
        file, header: file that contains the array, and the array's header.
        layout: letters for the array's axes.
        num_videos: number of videos in the batch; None if there is no batch axis.
    """

    file: Path
    header: ArrayHeader
    layout: str
    num_videos: int | None

    def place(self, index: int | None) -> str:
        """Return the part of a video's address that follows the #."""
        numbered = "" if index is None else str(index)
        if not self.header.member:
            return numbered
        return quote(self.header.member, safe="") + (f":{numbered}" if numbered else "")

    @property
    def bytes_of_one(self) -> int:
        """Return the size of each video in bytes."""
        return self.header.num_bytes // (self.num_videos or 1)

    @property
    def indices(self) -> Iterable[int | None]:
        """Return the indices of the videos in the batch, or (None,) if there is no batch axis."""
        return (None,) if self.num_videos is None else range(self.num_videos)


class FileVideos(NamedTuple):
    """The arrays in a file that contain videos, and the other arrays as (name, reason)."""

    arrays: tuple[ArrayVideos, ...]
    passed_over: tuple[tuple[str, str], ...]


def is_array_file(path: Path) -> bool:
    """Return whether a path names an array file, or videos in an array file."""
    address = parse_address(path)
    return address is not None and address.file.is_file()


def parse_address(path: Path) -> Address | None:
    """Return the address of videos in an array file that a path names; None for other paths."""
    match = _ADDRESS.fullmatch(str(path))
    if match is None:
        return None
    file, place = Path(match["file"]), match["place"]
    if place is None:
        return Address(file, None, None)
    if file.suffix.lower() == ".npy":
        return Address(file, "", int(place)) if place.isdecimal() else Address(file, place, None)
    name, colon, index = place.partition(":")
    if colon and not index.isdecimal():
        return Address(file, place, None)
    return Address(file, unquote(name), int(index) if colon else None)


def videos_at(address: Address, layout: str | None) -> FileVideos:
    """Return the arrays in a file that contain videos, or only the array that an address names.

    Raises:
        UnreadableVideoError: as for `read_headers`; or there are no videos, or too many.
    """
    file = address.file
    headers = read_headers(file)
    found, passed_over = [], list(headers.unusable)
    for header in headers.arrays:
        try:
            axes = layout_of(header.shape, layout)
        except ValueError as error:
            passed_over.append((header.member, f"{header.type_name} {error}"))
            continue
        sizes = dict(zip(axes, header.shape, strict=True))
        found.append(ArrayVideos(file, header, axes, sizes.get("b")))
    if address.member is not None:
        found = [array for array in found if array.header.member == address.member]
        passed_over = [entry for entry in passed_over if entry[0] == address.member]
    if not found:
        reasons = "; ".join(f"{name} {why}".strip() for name, why in passed_over[:3])
        more = f"; and {len(passed_over) - 3:,} more" if len(passed_over) > 3 else ""
        named = "" if address.member is None else f" named {address.member!r}"
        raise UnreadableVideoError(file, f"{reasons}{more}" or f"holds no array{named}")
    for array in found:
        if (array.num_videos or 0) > MAX_VIDEOS:
            raise UnreadableVideoError(file, f"holds more than {MAX_VIDEOS:,} videos")
    return FileVideos(tuple(found), tuple(passed_over))


def one_video(path: Path, address: Address, layout: str | None) -> tuple[ArrayVideos, int | None]:
    """Return the array with the video that a path names, and the video's index in the batch.

    The index is None if the array has no batch axis.

    Raises:
        UnreadableVideoError: as for `videos_at`; or the path names no video, or several.
    """
    found = videos_at(address, layout).arrays
    array, number = found[0], address.number
    if number is not None:
        if number >= (array.num_videos or 0):
            raise UnreadableVideoError(path, f"holds {array.num_videos or 1:,} videos, from 0 on")
        return array, number
    total = sum(1 if each.num_videos is None else each.num_videos for each in found)
    if total != 1:
        last = found[-1]
        example = last.place(None if last.num_videos is None else last.num_videos - 1)
        raise UnreadableVideoError(
            path, f"holds {total:,} videos; name one, for example {address.file.name}#{example}"
        )
    return array, None if array.num_videos is None else 0


def layout_of(shape: tuple[int, ...], layout: str | None) -> str:
    """Return letters for the axes of an array.

    A known layout fits if frames are at least 8x8 and have 3 channels, or 1 channel if no layout
    with 3 channels fits.

    Args:
        layout: layout named by the user; None to infer a layout from the shape.

    Raises:
        ValueError: the user's layout does not fit; or none or several of the known layouts fit.
    """
    told = " x ".join(map(str, shape))
    if layout is not None:
        if len(layout) != len(shape):
            raise ValueError(f"{told} has not the axes {' '.join(layout)} of --layout")
        if dict(zip(layout, shape, strict=True)).get("c", 1) not in (1, 3):
            raise ValueError(f"{told} has other than 1 or 3 channels as {' '.join(layout)}")
        return layout
    fitting: dict[int, list[str]] = {3: [], 1: []}
    for known in KNOWN_LAYOUTS:
        if len(known) == len(shape):
            sizes = dict(zip(known, shape, strict=True))
            if min(sizes["h"], sizes["w"]) >= MIN_SIDE and sizes["c"] in fitting:
                fitting[sizes["c"]].append(known)
    found = fitting[3] or fitting[1]
    if len(found) == 1:
        return found[0]
    if found:
        several = " or ".join(" ".join(known) for known in found)
        raise ValueError(f"{told} may be {several}: say which with --layout")
    raise ValueError(
        f"{told} is in none of the layouts {', '.join(KNOWN_LAYOUTS)} with 1 or 3 channels: if it "
        "holds videos, give its axes with --layout (thw without channels)"
    )


def find_values(arrays: Iterable[ArrayVideos]) -> tuple[Values, str] | None:
    """Return the value range that all float arrays share, and a note that explains the choice.

    Values below 0 imply the range -1 to 1. Without such values, the range is 0 to 1 if the largest
    value is at most 1, and 0 to 255 if the largest value is at least 2.

    Returns:
        The name of the range and the note; None if there are no float arrays.

    Raises:
        InputError: an array cannot be read, or values are not finite or fit none of the ranges.
    """
    edges = [
        (array, *_extremes(array.file, array.header, *signature(array.file)))
        for array in arrays
        if array.header.dtype.kind == "f" or array.header.type_name == "bfloat16"
    ]
    if not edges:
        return None
    lowest, highest = min(edges, key=lambda edge: edge[1]), max(edges, key=lambda edge: edge[2])
    low, high = lowest[1], highest[2]
    names: tuple[Values, ...] = ("signed",) if low < -TOLERANCE else ("unit", "byte")
    for name in names:
        bottom, top = RANGES[name]
        slack = TOLERANCE * (top - bottom)
        if bottom - slack <= low and high <= top + slack and not (name == "byte" and high < 2):
            return name, (
                f"float arrays hold values from {low:.4g} to {high:.4g}: read as {bottom:g} to "
                f"{top:g} (--values {name})"
            )
    furthest = lowest if low < -1 else highest
    raise InputError(
        f"{furthest[0].file}: float values from {low:.4g} to {high:.4g} are in none of the ranges "
        "0 to 1, -1 to 1 and 0 to 255; clip them (numpy.clip) before they are saved"
    )


@functools.lru_cache(maxsize=1024)
def _extremes(file: Path, header: ArrayHeader, size: int, changed: int) -> tuple[float, float]:
    flat = map_array(file, header).reshape(-1, order="F" if header.fortran else "C")
    low, high = math.inf, -math.inf
    for start in range(0, len(flat), SCAN_VALUES):
        piece = _floats(flat[start : start + SCAN_VALUES], header)
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        if not math.isfinite(low + high):
            named = f"{header.member} " if header.member else ""
            raise InputError(f"{file}: {named}holds values that are not finite")
    return low, high


def _floats(values: np.ndarray, header: ArrayHeader) -> np.ndarray:
    if header.type_name == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64 if header.dtype.itemsize == 8 else np.float32)


class ArrayVideo:
    """One video in an array; see `VideoSource`.

    Args:
        path: path of the video, which ends with the address.

    Raises:
        UnreadableVideoError: as for `one_video` and `map_array`.
        InputError: the value range cannot be inferred.
    """

    def __init__(self, path: Path, address: Address, reading: Reading):
        self.path, self._fps = path, reading.fps
        array, index = one_video(path, address, reading.layout)
        self._header = array.header
        self._values: Values | None = reading.values
        self._notes: tuple[str, ...] = ()
        if self._values is None and (looked := find_values([array])) is not None:
            self._values, self._notes = looked[0], (looked[1],)
        frames = map_array(address.file, array.header)
        if array.num_videos is not None:
            axis = array.layout.index("b")
            frames = frames[(slice(None),) * axis + (index,)]
        axes = array.layout.replace("b", "")
        if "c" not in axes:
            frames, axes = frames[..., None], axes + "c"
        self._frames = frames.transpose([axes.index(axis) for axis in "thwc"])

    def digest(self) -> tuple[str, int]:
        """Return the SHA-256 of type, shape and values (t h w c), and the values' size in bytes."""
        whole = hashlib.sha256(f"{self._header.type_name} {self._frames.shape} ".encode())
        for frame in self._frames:
            whole.update(np.ascontiguousarray(frame).data)
        return whole.hexdigest(), self._frames.nbytes

    def probe(self, limits: Limits) -> VideoInfo:
        """Return the video's properties, found from the array's shape.

        Raises:
            UnreadableVideoError: the frames, their number or their total size exceed the limits.
        """
        num_frames, height, width, _ = self._frames.shape
        if height * width > limits.max_pixels:
            raise UnreadableVideoError(
                self.path, f"is {width}x{height}, more than {limits.max_pixels} pixels"
            )
        if num_frames > limits.max_frames:
            raise UnreadableVideoError(
                self.path, f"has more than {limits.max_frames:,} frames; cut it into pieces"
            )
        info = VideoInfo(
            path=self.path,
            file_bytes=self._frames.nbytes,
            container="array",
            codec=self._header.type_name,
            size_hw=(height, width),
            fps=self._fps,
            num_packets=num_frames,
            claimed_frames=None,
            duration_seconds=None if self._fps is None else num_frames / self._fps,
            pixel_aspect=Fraction(1),
            upright=(),
            timestamps=None,
            time_base=Fraction(1),
            notes=self._notes,
            frames=self._pictures,
        )
        require_size(info, limits)
        return info

    def _pictures(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for number, frame in enumerate(self._frames):
            levels = self._levels(np.ascontiguousarray(frame), number)
            yield np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels

    def _levels(self, frame: Num[np.ndarray, "h w c"], number: int) -> UInt8[np.ndarray, "h w c"]:
        if self._header.dtype == np.uint8:
            return np.array(frame)
        assert self._values is not None
        bottom, top = RANGES[self._values]
        shares = (_floats(frame, self._header) - bottom) / (top - bottom)
        low, high = float(shares.min()), float(shares.max())
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails this, too
            span = top - bottom
            raise UnreadableVideoError(
                self.path,
                f"frame {number} holds values from {low * span + bottom:.4g} to "
                f"{high * span + bottom:.4g}, not {bottom:g} to {top:g}; --values says the range, "
                "and numpy.clip keeps to it",
            )
        return np.rint(shares * 255).clip(0, 255).astype(np.uint8)
