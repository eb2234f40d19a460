"""Listing of a LeRobot v3 data set, whose mp4 files contain several episodes each.

The format is described at huggingface.co/docs/lerobot, LeRobotDataset v3.0. meta/info.json names
features, cameras and path templates. meta/episodes/*/*.parquet is the index, with one row per
episode: the tasks, the location of the episode's rows in data/*/*.parquet and, for each camera, the
mp4 file and the episode's start and end times.
"""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_prep.parquet import require_pyarrow
from data_prep.sources import Item, Listing, require_folder
from data_prep.sources.lerobot_index import TOLERANCE, IndexRow, read_index
from video_vq.errors import InputError
from video_vq.media.folder import split_groups
from video_vq.media.kinds import MAX_SKIPPED
from video_vq.media.tree import size_inside
from video_vq.stores.clips import Skipped
from video_vq.stores.files import read_json

VERSION = re.compile(r"v?3\.\d+(\.\d+)?")
# Names of the per-frame arrays in a store, with the LeRobot features that they contain.
ARRAYS = {"actions": "action", "states": "observation.state"}
TOTALS = ("total_episodes", "total_frames")
MAX_WIDTH = 4096
MAX_CLASSES = 1000
SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "eval": "test",
}
CAMERA = re.compile(r"\w[\w.-]{0,199}")
FIELD = re.compile(r"\{(video_key|chunk_index|file_index)(?::0(\d)d)?\}")


@dataclass(frozen=True)
class LerobotSettings:
    """Settings for listing a LeRobot data set.

    Attributes:
        camera: name of a video feature, or the part of the name after a dot; None for the only
            camera of the data set.
        val, test: fractions of the train episodes that go to val and test; unused for a split that
            info.json defines.
    """

    camera: str | None = None
    val: float = 0.1
    test: float = 0.1


@dataclass(frozen=True)
class Info:
    """The checked contents of info.json.

    Attributes:
        fps: frames per second.
        camera: name of the video feature to read.
        arrays: mapping from array name to feature name and number of values in a row.
        data_path, video_path: path templates.
        splits: range of episode numbers of each split: the first number, and the end (exclusive).
        totals: total_episodes and total_frames, if given.
    """

    fps: float
    camera: str
    arrays: dict[str, tuple[str, int]]
    data_path: str
    video_path: str
    splits: dict[str, tuple[int, int]]
    totals: dict[str, int]


def list_lerobot(root: Path, settings: LerobotSettings) -> Listing:
    """Return the listing of all episodes from one camera, in the order of their numbers.

    The tasks become labels if episodes share them; see `_labels`.

    Args:
        root: folder of the data set.
        settings: camera and split fractions.

    Raises:
        InputError: the folder is not a LeRobot v3 data set, pyarrow is not installed, the camera is
            unknown or ambiguous, a path template points outside the folder, or the index is damaged
            or inconsistent.
    """
    require_folder(root, "a LeRobot v3 data set")
    require_pyarrow()
    info = read_info(root, settings.camera)
    rows = read_index(root, info.camera)
    _require_all(root, info, rows)
    splits = _splits(root, info, rows, settings)
    labels = _labels(rows)
    size_of = cache(lambda name: size_inside(root / name, root.resolve()))
    items, skipped = [], []
    for row in rows:
        video = f"episode_{row.episode:06d}"
        name = fill(info.video_path, info.camera, *row.video_file)
        table = fill(info.data_path, info.camera, *row.data_file)
        sizes = {file: size_of(file) for file in (name, table)}
        lost = [f"{file}: {size}" for file, size in sizes.items() if isinstance(size, str)]
        problem = lost[0] if lost else _contradiction(row, info.fps)
        if problem is not None:
            skipped.append(Skipped(video, name, problem))
            continue
        items.append(
            Item(
                id=video,
                label=labels.get(row.episode),
                split=splits[row.episode],
                group=video,
                name=name,
                path=os.path.abspath(root / name),
                num_bytes=int(sizes[name]),
                kind="episode",
                table=os.path.abspath(root / table),
                place={
                    "episode": row.episode,
                    "num_frames": row.length,
                    "first_row": row.first_row,
                    "from_seconds": row.from_seconds,
                    "fps": info.fps,
                    "arrays": {ours: list(of) for ours, of in info.arrays.items()},
                },
            )
        )
    return Listing(
        source="lerobot",
        settings={"camera": info.camera, "val": settings.val, "test": settings.test},
        items=tuple(items),
        classes=tuple(sorted(set(labels.values()))),
        skipped=tuple(skipped),
        arrays={ours: (width,) for ours, (_, width) in info.arrays.items()},
        max_skipped=MAX_SKIPPED,
    )


def read_info(root: Path, camera: str | None) -> Info:
    """Return the checked contents of meta/info.json.

    Args:
        root: folder of the data set.
        camera: see `LerobotSettings`.

    Raises:
        InputError: the file cannot be used, or the camera is unknown or ambiguous; for such a
            camera, the message lists the cameras.
    """
    path = root / "meta" / "info.json"
    info = read_json(path, "the description of a LeRobot v3 data set")
    version = info.get("codebase_version")
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        raise InputError(
            f"{path}: codebase_version is {version!r}, expected v3.0; convert the data set with "
            "LeRobot's own script for v3.0"
        )
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000:
        raise InputError(f"{path}: fps is {fps!r}, expected a number from 0 to 1000")
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
        raise InputError(f"{path}: features is not a table of features")
    templates = [info.get(name) for name in ("data_path", "video_path")]
    if not all(isinstance(template, str) for template in templates):
        raise InputError(
            f"{path}: data_path or video_path is not a string; a data set whose cameras are "
            "pictures in its tables cannot be read, only one with videos"
        )
    data_path, video_path = (str(template) for template in templates)
    return Info(
        fps=float(fps),
        camera=_camera(path, features, camera),
        arrays=_arrays(path, features),
        data_path=_checked(path, data_path),
        video_path=_checked(path, video_path),
        splits=_named_splits(path, info.get("splits")),
        totals=_totals(path, info),
    )


def _camera(path: Path, features: dict[str, Any], wanted: str | None) -> str:
    cameras = sorted(str(name) for name, of in features.items() if of.get("dtype") == "video")
    if odd := [name for name in cameras if not CAMERA.fullmatch(name)]:
        raise InputError(
            f"{path}: a camera is called {odd[0]!r}, which cannot be the name of a folder"
        )
    if not cameras:
        raise InputError(f"{path}: no feature is a video")
    known = ", ".join(cameras)
    if wanted is None:
        if len(cameras) > 1:
            raise InputError(f"{path}: has the cameras {known}; choose one with --camera")
        return cameras[0]
    if wanted in cameras:
        return wanted
    found = [name for name in cameras if name.endswith(f".{wanted}")]
    if len(found) != 1:
        raise InputError(f"{path}: has no camera {wanted!r}; it has {known}")
    return found[0]


def _arrays(path: Path, features: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Return the name and row width of each feature to store, by array name."""
    found = {}
    for ours, name in ARRAYS.items():
        if name in features:
            shape = features[name].get("shape")
            if not isinstance(shape, list) or len(shape) != 1 or not _is_count(shape[0], MAX_WIDTH):
                raise InputError(f"{path}: {name} has the shape {shape!r}, expected [N]")
            found[ours] = (name, int(shape[0]))
    return found


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _checked(path: Path, template: str) -> str:
    """Return a path template after checking that the fields are known and the path is safe."""
    plain = FIELD.sub("x", template)
    parts = plain.split("/")
    if "{" in plain or "}" in plain or "\\" in plain or not plain.isprintable():
        raise InputError(
            f"{path}: the path {template!r} holds more than {{video_key}}, {{chunk_index:03d}} "
            "and {file_index:03d}"
        )
    if plain.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"{path}: the path {template!r} leads out of the data set")
    return template


def fill(template: str, camera: str, chunk: int, file: int) -> str:
    """Return the path that a template gives for a camera, a chunk number and a file number."""
    values = {"chunk_index": chunk, "file_index": file}

    def value(match: re.Match[str]) -> str:
        if match[1] == "video_key":
            return camera
        return f"{values[match[1]]:0{match[2] or 1}d}"

    return FIELD.sub(value, template)


def _totals(path: Path, info: dict[str, Any]) -> dict[str, int]:
    found = {name: info[name] for name in TOTALS if info.get(name) is not None}
    for name, value in found.items():
        if not _is_count(value, 10**12):
            raise InputError(f"{path}: {name} is {value!r}, expected a whole number of at least 1")
    return found


def _require_all(root: Path, info: Info, rows: list[IndexRow]) -> None:
    """Raise an error if the totals in info.json and the index differ, as when a file is missing."""
    held: dict[str, int] = {
        "total_episodes": len(rows),
        "total_frames": sum(row.length for row in rows),
    }
    for name, told in info.totals.items():
        if held[name] != told:
            raise InputError(
                f"{root / 'meta' / 'info.json'}: {name} is {told:,}, but the index in "
                f"meta/episodes holds {held[name]:,}; a file is missing or left over there; fetch "
                "the data set again"
            )


def _named_splits(path: Path, splits: Any) -> dict[str, tuple[int, int]]:
    """Return the episode range of each split in info.json.

    Raises:
        InputError: a split has an unknown name or an invalid range, or splits overlap.
    """
    if splits is None:
        return {}
    found: dict[str, tuple[int, int]] = {}
    for name, text in splits.items() if isinstance(splits, dict) else [("splits", splits)]:
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text) if isinstance(text, str) else None
        side = SPLIT_NAMES.get(name)
        if match is None or side is None or side in found or int(match[1]) > int(match[2]):
            raise InputError(
                f"{path}: the split {name!r} is {text!r}, expected train, val or test and a range "
                "of episodes like '0:100'"
            )
        found[side] = (int(match[1]), int(match[2]))
    ranges = sorted(found.values())
    if any(after[0] < before[1] for before, after in pairwise(ranges)):
        raise InputError(f"{path}: two splits share episodes: {splits}")
    return found


def _splits(
    root: Path, info: Info, rows: list[IndexRow], settings: LerobotSettings
) -> dict[int, str]:
    """Return the split of each episode; splits missing in info.json are taken from its train split.

    Raises:
        InputError: an episode is in none of the splits in info.json.
    """
    sides = {
        row.episode: side
        for row in rows
        for side, (first, end) in (info.splits or {"train": (0, 10**9)}).items()
        if first <= row.episode < end
    }
    outside = [row.episode for row in rows if row.episode not in sides]
    if outside:
        raise InputError(
            f"{root / 'meta' / 'info.json'}: {len(outside)} episodes are in none of its splits, "
            f"the first is {outside[0]}"
        )
    names = {
        f"episode_{episode:06d}": episode for episode, side in sides.items() if side == "train"
    }
    carved = split_groups(
        names,
        0.0 if "val" in info.splits else settings.val,
        0.0 if "test" in info.splits else settings.test,
    )
    return {**sides, **{names[name]: side for name, side in carved.items()}}


def _labels(rows: list[IndexRow]) -> dict[int, str]:
    """Return the label of each episode, or an empty dict if tasks cannot serve as labels.

    Tasks serve as labels if every episode has exactly one task, and there are at least two tasks
    with, on average, at least two episodes each.
    """
    tasks = Counter(task for row in rows for task in row.tasks)
    shared = 2 <= len(tasks) <= min(len(rows) // 2, MAX_CLASSES)
    if not shared or any(len(row.tasks) != 1 for row in rows):
        return {}
    return {row.episode: row.tasks[0] for row in rows}


def _contradiction(row: IndexRow, fps: float) -> str | None:
    """Return the problem if an episode's times do not fit its number of rows, or None."""
    seconds = row.to_seconds - row.from_seconds
    if (
        not math.isfinite(seconds)
        or row.from_seconds < 0
        or abs(seconds * fps - row.length) > TOLERANCE
    ):
        return (
            f"lies at {row.from_seconds:g} to {row.to_seconds:g} s of the video, "
            f"{seconds * fps:.1f} frames; its table has {row.length} rows"
        )
    return None
