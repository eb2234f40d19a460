"""Lists a LeRobot v3 data set, whose episodes are joined in mp4 files with a Parquet index.

For the format, see huggingface.co/docs/lerobot, LeRobotDataset v3.0. meta/info.json names features,
cameras and path templates. meta/episodes/*/*.parquet has a row per episode with its tasks, its rows
in data/*/*.parquet, and for every camera the mp4 file and the seconds at which the episode starts
and ends in it.
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
# Our names for the arrays with a row per frame, and the features that they hold.
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
    """The camera to read, and the split of the episodes.

    Attributes:
        camera: name of a video feature, or the end of its name; None if there is only one.
        val, test: shares of the episodes, for the splits that info.json does not name.
    """

    camera: str | None = None
    val: float = 0.1
    test: float = 0.1


@dataclass(frozen=True)
class Info:
    """The checked contents of info.json.

    Attributes:
        fps: frames per second.
        camera: the video feature that is used.
        arrays: feature and number of values in a row, by our name.
        data_path, video_path: templates of paths.
        splits: the first episode, and the one after the last, by split.
        totals: total_episodes and total_frames, if they are given.
    """

    fps: float
    camera: str
    arrays: dict[str, tuple[str, int]]
    data_path: str
    video_path: str
    splits: dict[str, tuple[int, int]]
    totals: dict[str, int]


def list_lerobot(root: Path, settings: LerobotSettings) -> Listing:
    """List the episodes of one camera, in the order of the index.

    An episode's label is its task, if every episode has one task and tasks are shared.

    Raises:
        InputError: the folder is not a LeRobot v3 data set, pyarrow is missing, a path leads out of
            the folder, or the index contradicts itself.
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
    """Read and check meta/info.json.

    Raises:
        InputError: the file cannot be used; the message says why, or lists the cameras.
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
            f"{path}: data_path or video_path is not a text; a data set whose cameras are pictures "
            "in its tables cannot be read, only one with videos"
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
    """Return the features to keep for each frame, with the number of values in a row."""
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
    """Return a path template that has only known fields and stays below the folder."""
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
    """Return the path for a template's three fields, without replacing anything else."""
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
    """Refuse an index that lacks episodes, as nothing else reveals a missing file."""
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
    """Return the ranges of episodes that info.json names; unknown names are an error."""
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
    """Return each episode's split from info.json; missing splits are taken from its train side."""
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
    """Return each episode's task as its label; empty if tasks are not classes.

    They are classes if every episode has exactly one, and there are at least two tasks with at
    least two episodes each on average.
    """
    tasks = Counter(task for row in rows for task in row.tasks)
    shared = 2 <= len(tasks) <= min(len(rows) // 2, MAX_CLASSES)
    if not shared or any(len(row.tasks) != 1 for row in rows):
        return {}
    return {row.episode: row.tasks[0] for row in rows}


def _contradiction(row: IndexRow, fps: float) -> str | None:
    """Return the contradiction between an episode's seconds and its rows; None if there is none."""
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
