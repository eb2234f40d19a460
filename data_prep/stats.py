"""Statistics of a clip store: lengths, classes, groups, and moments of all pixels and arrays."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from video_vq.errors import InputError
from video_vq.stores.clips import SPLITS, ClipStore
from video_vq.stores.videos import Video, num_repeated

CHUNK_FRAMES = 256
SHOWN_CLASSES, SHOWN_RATES = 20, 5


@dataclass(frozen=True)
class Lengths:
    """Statistics of the number of frames in a video."""

    smallest: int
    median: float
    mean: float
    largest: int


@dataclass(frozen=True)
class SplitCounts:
    """The contents of a split.

    Attributes:
        videos, frames, groups: numbers of videos, frames and groups.
        largest_group: number of videos in the largest group.
        lengths: statistics of the number of frames in a video.
        upsampled: number of frames that were repeated to reach a fixed rate; None if the store does
            not record this number.
    """

    videos: int
    frames: int
    groups: int
    largest_group: int
    lengths: Lengths
    upsampled: int | None


@dataclass(frozen=True)
class Channels:
    """Exact pixel statistics of a split, for red, green and blue, with values from 0 to 255.

    Attributes:
        mean, variance: population mean and variance, computed from integers and rounded once.
        smallest, largest: smallest and largest values.
        at_limits: fraction of the values that are 0 or 255.
        repeated_frames: fraction of the frames, except the first of each video, that equal the
            previous frame.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    at_limits: float
    repeated_frames: float


@dataclass(frozen=True)
class ArrayRange:
    """Statistics of each column of a per-frame array, over all frames in the store.

    Attributes:
        smallest, largest: smallest and largest finite values; None for a column without any.
        mean, deviation: mean and standard deviation of the finite values, computed in float64; None
            for a column without any.
        not_finite: number of values in the array that are NaN or infinite.
    """

    smallest: tuple[float | None, ...]
    largest: tuple[float | None, ...]
    mean: tuple[float | None, ...]
    deviation: tuple[float | None, ...]
    not_finite: int


@dataclass(frozen=True)
class Statistics:
    """The statistics of a clip store.

    Attributes:
        frame_size_hw: height and width of every frame, in pixels.
        skipped: number of skipped videos.
        pixel_bytes: total size of all frames, in bytes.
        fps: number of videos by frame rate; the rate "unknown" stands for no recorded rate.
        splits: counts for each split.
        classes: number of videos by class and split; the class "" stands for no class.
        balance: entropy of the class frequencies divided by the logarithm of the number of classes,
            which is 1 if all classes are equally frequent; None for fewer than two classes.
        groups_in_two_splits: names of groups with videos in more than one split; these videos may
            be near-duplicates.
        pixels: pixel statistics for each split.
        arrays: statistics for each per-frame array.
    """

    frame_size_hw: tuple[int, int]
    skipped: int
    pixel_bytes: int
    fps: dict[str, int]
    splits: dict[str, SplitCounts]
    classes: dict[str, dict[str, int]]
    balance: float | None
    groups_in_two_splits: tuple[str, ...]
    pixels: dict[str, Channels]
    arrays: dict[str, ArrayRange]

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a JSON object."""
        return asdict(self)


def statistics_of(store: ClipStore, on_video: Callable[[], object] = lambda: None) -> Statistics:
    """Return the statistics of a clip store.

    Every frame is read once, in constant memory; each per-frame array is loaded as a whole.

    Args:
        store: clip store with at least one video.
        on_video: function that is called after the pixels of each video have been counted.

    Raises:
        InputError: a shard is missing or damaged.
    """
    members: dict[str, list[int]] = {}
    for index, video in enumerate(store.videos):
        members.setdefault(video.split, []).append(index)
    ordered = [name for name in SPLITS if name in members]
    ordered += sorted(members.keys() - set(ordered))
    height, width = store.frame_size_hw
    rates = Counter("unknown" if v.fps is None else f"{v.fps:.5g}" for v in store.videos)
    homes: dict[str, set[str]] = {}
    for video in store.videos:
        homes.setdefault(video.group, set()).add(video.split)
    return Statistics(
        frame_size_hw=store.frame_size_hw,
        skipped=store.num_skipped,
        pixel_bytes=sum(video.num_frames for video in store.videos) * height * width * 3,
        fps=dict(rates.most_common()),
        splits={
            name: _split([store.videos[i] for i in members[name]], store.plan.get("fps"))
            for name in ordered
        },
        classes=count_classes(store, ordered),
        balance=_balance(store.videos),
        groups_in_two_splits=tuple(sorted(group for group in homes if len(homes[group]) > 1)),
        pixels={name: _channels(store, members[name], on_video) for name in ordered},
        arrays={name: _array_range(store, name) for name in store.arrays},
    )


def _split(videos: Sequence[Video], fixed_fps: float | None) -> SplitCounts:
    lengths = [video.num_frames for video in videos]
    groups = Counter(video.group for video in videos)
    repeats = [num_repeated(video) if fixed_fps else 0 for video in videos]
    known = [count for count in repeats if count is not None]
    return SplitCounts(
        videos=len(videos),
        frames=sum(lengths),
        groups=len(groups),
        largest_group=max(groups.values()),
        lengths=Lengths(
            min(lengths), float(median(lengths)), sum(lengths) / len(lengths), max(lengths)
        ),
        upsampled=sum(known) if len(known) == len(repeats) else None,
    )


def _balance(videos: Sequence[Video]) -> float | None:
    counts = np.array(list(Counter(v.label for v in videos if v.label is not None).values()))
    if len(counts) < 2:
        return None
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(len(counts)))


def _channels(store: ClipStore, videos: Sequence[int], on_video: Callable[[], object]) -> Channels:
    counts = np.zeros((3, 256), np.int64)
    repeated = pairs = 0
    for index in videos:
        length = store.videos[index].num_frames
        before: UInt8[np.ndarray, "1 h w 3"] | None = None
        for first in range(0, length, CHUNK_FRAMES):
            frames = store.read(index, first, min(CHUNK_FRAMES, length - first))
            counts += _histogram(frames)
            joined = frames if before is None else np.concatenate([before, frames])
            repeated += sum(map(np.array_equal, joined[1:], joined[:-1]))
            pairs += len(joined) - 1
            before = frames[-1:]
        on_video()
    moments = [_moments(channel) for channel in counts]
    seen = [np.flatnonzero(channel) for channel in counts]
    return Channels(
        mean=tuple(mean for mean, _ in moments),
        variance=tuple(variance for _, variance in moments),
        smallest=tuple(int(values[0]) for values in seen),
        largest=tuple(int(values[-1]) for values in seen),
        at_limits=float(counts[:, [0, 255]].sum() / counts.sum()),
        repeated_frames=repeated / pairs if pairs else 0.0,
    )


def _histogram(frames: UInt8[np.ndarray, "t h w 3"]) -> Int[np.ndarray, "3 256"]:
    """Return each channel's histogram, computed by Pillow, which is four times as fast as NumPy."""
    from PIL import Image

    rows = frames.reshape(-1, frames.shape[2], 3)
    return np.array(Image.fromarray(rows).histogram(), np.int64).reshape(3, 256)


def _moments(counts: Int[np.ndarray, " 256"]) -> tuple[float, float]:
    """Return the mean and variance of a histogram, computed exactly and rounded to float64."""
    number = sum(counts.tolist())
    total = sum(value * count for value, count in enumerate(counts.tolist()))
    squares = sum(value * value * count for value, count in enumerate(counts.tolist()))
    mean = Fraction(total, number)
    return float(mean), float(Fraction(squares, number) - mean * mean)


def _array_range(store: ClipStore, name: str) -> ArrayRange:
    rows = np.concatenate(
        [
            store.read_array(name, index).reshape(video.num_frames, -1)
            for index, video in enumerate(store.videos)
        ]
    ).astype(np.float64)
    places = [column[np.isfinite(column)] for column in rows.T]

    def of(number: Callable[[Float[np.ndarray, " n"]], Any]) -> tuple[float | None, ...]:
        return tuple(float(number(place)) if len(place) else None for place in places)

    return ArrayRange(
        smallest=of(np.min),
        largest=of(np.max),
        mean=of(np.mean),
        deviation=of(np.std),
        not_finite=rows.size - sum(map(len, places)),
    )


def table(found: Statistics) -> str:
    """Return the statistics as text."""
    height, width = found.frame_size_hw
    rates = list(found.fps.items())
    told = ", ".join(f"{fps} ({count:,} videos)" for fps, count in rates[:SHOWN_RATES])
    more = f" and {len(rates) - SHOWN_RATES} more" if len(rates) > SHOWN_RATES else ""
    lines = [
        f"frames    {height}x{width} (height x width), {found.pixel_bytes / 1e6:,.1f} MB of pixels",
        f"fps       {told}{more}",
        *_upsampling_lines(found),
        f"left out  {found.skipped:,} sources",
        "",
        "split      videos    frames  groups  largest   shortest  median    mean  longest",
    ]
    for name, split in found.splits.items():
        lengths = split.lengths
        lines.append(
            f"{name:8} {split.videos:8,} {split.frames:9,} {split.groups:7,} "
            f"{split.largest_group:8,} {lengths.smallest:10,} {lengths.median:7g} "
            f"{lengths.mean:7.1f} {lengths.largest:8,}"
        )
    lines += ["", "pixels    mean r, g, b            deviation r, g, b       0 or 255  repeated"]
    for name, pixels in found.pixels.items():
        deviations = [math.sqrt(variance) for variance in pixels.variance]
        lines.append(
            f"{name:9} {_numbers(pixels.mean)}  {_numbers(deviations)}  "
            f"{pixels.at_limits:8.1%} {pixels.repeated_frames:9.1%}"
        )
    for name, values in found.arrays.items():
        lines += ["", f"{name:18} smallest    largest       mean  deviation"]
        columns = (values.smallest, values.largest, values.mean, values.deviation)
        for place, numbers in enumerate(zip(*columns, strict=True)):
            cells = ("-" if number is None else f"{number:.4g}" for number in numbers)
            lines.append(f"  {place:<14} " + " ".join(cell.rjust(10) for cell in cells))
        if values.not_finite:
            lines.append(f"  warning: {values.not_finite:,} values are not finite")
    lines += ["", *_class_lines(found)]
    for group in found.groups_in_two_splits[:3]:
        lines.append(f"warning: group {group!r} is in more than one split")
    return "\n".join(lines)


def _upsampling_lines(found: Statistics) -> list[str]:
    """Return a line on frames repeated to reach a fixed rate, or no line if none were repeated."""
    shares = {
        name: "unknown" if split.upsampled is None else f"{split.upsampled / split.frames:.1%}"
        for name, split in found.splits.items()
        if split.upsampled != 0
    }
    told = ", ".join(f"{share} of {name}" for name, share in shares.items())
    return [f"repeats   {told}: frames that a fixed rate repeats in slower videos"] if told else []


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:7.2f}" for value in values)


def _class_lines(found: Statistics) -> list[str]:
    if list(found.classes) in ([], [""]):
        return ["no classes"]
    lines = class_table(found.classes, list(found.splits), "; all of them: --json")
    if found.balance is not None:
        lines.append(f"balance {found.balance:.3f} (1: all classes are equally frequent)")
    return lines


def class_table(
    classes: Mapping[str, Mapping[str, int]], splits: Sequence[str], more: str = ""
) -> list[str]:
    """Return the lines of a table with the number of videos by class and split, and the totals.

    Args:
        classes: number of videos by class and split; the class "" stands for no class.
        splits: splits to show as columns.
        more: text to append if not all classes are shown.
    """
    names = {label: label or "(no class)" for label in classes}
    wide = max(map(len, (*names.values(), "class"))) + 2
    lines = ["class".ljust(wide) + "".join(split.rjust(9) for split in splits)]
    for label in list(classes)[:SHOWN_CLASSES]:
        cells = "".join(f"{classes[label][split]:9,}" for split in splits)
        lines.append(names[label].ljust(wide) + cells)
    if len(classes) > SHOWN_CLASSES:
        lines.append(f"... and {len(classes) - SHOWN_CLASSES} more classes{more}")
    sums = (sum(counts[split] for counts in classes.values()) for split in splits)
    return [*lines, "all".ljust(wide) + "".join(f"{total:9,}" for total in sums)]


def count_classes(store: ClipStore, splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the number of videos by class and split; the class "" stands for no class."""
    counts = Counter((video.label, video.split) for video in store.videos)
    labels: list[str | None] = [*store.classes]
    labels += [None] if any(video.label is None for video in store.videos) else []
    return {label or "": {name: counts[label, name] for name in splits} for label in labels}


def require_some(store: ClipStore) -> None:
    """Raise an error if a store has no videos.

    Raises:
        InputError: the store has no videos.
    """
    if not store.videos:
        raise InputError(f"{store.path}: holds no video; prepare the store again")
