"""UCF-101 in its official layout, unpacked: class folders of .avi and the train and test lists."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources import Item, Listing, require_folder, split_groups
from video_vq.errors import InputError
from video_vq.stores.clips import Skipped

MAX_SKIPPED = 0.01
# Where the archives and their mirrors put the videos and the lists, from the root.
VIDEO_FOLDERS = ("UCF-101", "UCF101", ".", "UCF-101/UCF-101", "UCF101/UCF-101", "videos")
LIST_FOLDERS = (
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask",
    "UCF-101/ucfTrainTestlist",
    "../ucfTrainTestlist",
    "../UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    ".",
)
FILE_NAME = re.compile(r"v_(?P<label>\w+)_(?P<group>g\d+)_c\d+\.avi", re.IGNORECASE)


@dataclass(frozen=True)
class Ucf101Settings:
    """Which of the three official splits, and how much of its training side becomes val.

    Attributes:
        split: 1, 2 or 3.
        val: share of the training groups; the official test side chooses nothing.
        lists: folder of the lists, None to look for it.
    """

    split: int = 1
    val: float = 0.1
    lists: Path | None = None


def list_ucf101(root: Path, settings: Ucf101Settings) -> Listing:
    """List one official split of UCF-101; a video's group is its class and number gXX.

    Files are matched whatever their case: the folder HandstandPushups holds v_HandStandPushups_*.

    Raises:
        InputError: the videos or lists are not there, or a list is damaged.
    """
    require_folder(root, "UCF-101, unpacked")
    lists = _lists_folder(root, settings)
    classes = _read_classes(lists / "classInd.txt")
    videos = _videos_folder(root, classes)
    on_disk = _find_videos(videos, classes)
    sides = _read_sides(lists, settings.split)
    listed = {key: on_disk[key] for key in sides if key in on_disk}
    if not listed:
        raise InputError(
            f"{videos}: none of the {len(sides)} videos of split {settings.split} is there; "
            "unpack UCF101.rar into this folder"
        )
    canonical = {label.lower(): label for label in classes}
    found = {}
    for key, path in listed.items():
        label = canonical[key.split("/")[0]]
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path}: expected a name like v_{label}_g01_c01.avi")
        found[key] = (path, label, f"{label}_{match['group'].lower()}")
    training = {group for key, (_, _, group) in found.items() if sides[key] == "train"}
    splits = split_groups(training, settings.val, 0.0)
    items = [
        Item(
            id=f"{label}/{path.stem}",
            label=label,
            split="test" if sides[key] == "test" else splits[group],
            group=group,
            name=path.relative_to(videos).as_posix(),
            path=os.path.abspath(path),
            num_bytes=path.stat().st_size,
        )
        for key, (path, label, group) in sorted(found.items())
    ]
    missing = sorted(key for key in sides if key not in on_disk)
    unlisted = len(on_disk) - len(listed)
    return Listing(
        source="ucf101",
        settings={"split": settings.split, "val": settings.val},
        items=tuple(items),
        classes=classes,
        skipped=tuple(Skipped(key, key, "listed, but not on the disk") for key in missing),
        notes=(f"{unlisted} videos on the disk are in no list of the split",) if unlisted else (),
        max_skipped=MAX_SKIPPED,
    )


def _lists_folder(root: Path, settings: Ucf101Settings) -> Path:
    if settings.split not in (1, 2, 3):
        raise InputError(f"UCF-101 has the splits 1, 2 and 3, found {settings.split}")
    candidates = (
        [settings.lists] if settings.lists is not None else [root / name for name in LIST_FOLDERS]
    )
    needed = (
        "classInd.txt",
        f"trainlist{settings.split:02d}.txt",
        f"testlist{settings.split:02d}.txt",
    )
    for folder in candidates:
        if all((folder / name).is_file() for name in needed):
            return folder
    raise InputError(
        f"{root}: no folder with {', '.join(needed)}; looked in "
        f"{', '.join(str(folder) for folder in candidates)}. Unpack "
        "UCF101TrainTestSplits-RecognitionTask.zip there, or name its folder with --lists"
    )


def _videos_folder(root: Path, classes: tuple[str, ...]) -> Path:
    wanted = {label.lower() for label in classes}
    for name in VIDEO_FOLDERS:
        folder = root / name
        if folder.is_dir() and any(
            entry.is_dir() and entry.name.lower() in wanted for entry in folder.iterdir()
        ):
            return folder
    raise InputError(
        f"{root}: no folder of UCF-101's classes ({classes[0]}, ...); looked in "
        f"{', '.join(VIDEO_FOLDERS)}. Unpack UCF101.rar there (`unrar x UCF101.rar`)"
    )


def _find_videos(videos: Path, classes: tuple[str, ...]) -> dict[str, Path]:
    """Return class/file in small letters -> path, of the regular files in the class folders."""
    wanted = {label.lower() for label in classes}
    return {
        f"{folder.name}/{path.name}".lower(): path
        for folder in sorted(videos.iterdir())
        if folder.name.lower() in wanted and folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == ".avi" and path.is_file()
    }


def _read_lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line]


def _read_classes(path: Path) -> tuple[str, ...]:
    """Return the class names of classInd.txt in the order of their numbers."""
    classes = []
    for number, line in _read_lines(path):
        parts = line.split()
        if len(parts) != 2 or parts[0] != str(len(classes) + 1):
            raise InputError(
                f"{path}: line {number}: expected `{len(classes) + 1} ClassName`, found {line!r}"
            )
        classes.append(parts[1])
    if not classes or len({label.lower() for label in classes}) != len(classes):
        raise InputError(f"{path}: holds no classes, or one of them twice")
    return tuple(classes)


def _read_sides(lists: Path, split: int) -> dict[str, str]:
    """Return class/file in small letters -> train or test."""
    sides: dict[str, str] = {}
    for side in ("train", "test"):
        path = lists / f"{side}list{split:02d}.txt"
        for number, name in _read_names(path):
            if name.lower() in sides:
                raise InputError(f"{path}: line {number}: {name} is listed twice")
            sides[name.lower()] = side
    return sides


def _read_names(path: Path) -> list[tuple[int, str]]:
    """Return line number and Class/file.avi; the lists for training tell the class again."""
    names = []
    for number, line in _read_lines(path):
        name = line.split()[0].replace("\\", "/")
        if name.count("/") != 1 or not name.lower().endswith(".avi"):
            raise InputError(f"{path}: line {number}: expected Class/video.avi, found {line!r}")
        names.append((number, name))
    return names
