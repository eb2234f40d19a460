"""Listing of UCF-101, from archives or folders, according to the official train and test lists."""

import os
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_prep.archives import Archive, read_archive
from data_prep.sources import Item, Listing, require_folder
from video_vq.errors import InputError
from video_vq.media.folder import split_groups
from video_vq.media.kinds import MAX_SKIPPED
from video_vq.stores.clips import Skipped

# Folders of the videos and of the lists in various archives and mirrors, relative to the root.
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
# Names of the archives, in search order.
VIDEO_ARCHIVES = ("UCF101.rar", "UCF-101.rar", "UCF101.zip", "UCF-101.zip", "UCF101.tar")
LIST_ARCHIVES = ("UCF101TrainTestSplits-RecognitionTask.zip", "ucfTrainTestlist.zip")
MAX_LIST_BYTES = 16 << 20
FILE_NAME = re.compile(r"v_(?P<label>\w+)_(?P<group>g\d+)_c\d+\.avi", re.IGNORECASE)


@dataclass(frozen=True)
class Ucf101Settings:
    """Settings for listing the UCF-101 data set.

    Attributes:
        split: number of the official split: 1, 2 or 3.
        val: fraction of the training groups that goes to val; the official test list is unchanged.
        lists: folder or archive that contains the lists; None to search the usual locations.
    """

    split: int = 1
    val: float = 0.1
    lists: Path | None = None


class _Video(NamedTuple):
    """A video file or an archive member.

    Attributes:
        name: class folder and file name, Class/file.avi.
        path: absolute path of the file, or name of the archive member.
        num_bytes: size of the file, in bytes.
    """

    name: str  # Class/file.avi
    path: str
    num_bytes: int


def list_ucf101(root: Path, settings: Ucf101Settings) -> Listing:
    """Return the listing of an official split of UCF-101.

    A video's group consists of its class and the number gXX in its file name. Names are matched
    case-insensitively, because the folder HandstandPushups contains v_HandStandPushups_*.

    Args:
        root: UCF101.rar (or a zip or tar with the same contents), a folder that contains the
            archive, or the unpacked folder.
        settings: split, validation fraction and location of the lists.

    Raises:
        InputError: the videos or the lists are missing, a name is unexpected or listed twice, or a
            list or an archive is damaged.
    """
    if not root.is_file():
        require_folder(root, "UCF-101: its archive, or the folder that it unpacks to")
    lists = _read_lists(root, settings)
    classes = _read_classes(lists["classInd.txt"])
    videos, archive = _videos(root, classes)
    sides = _read_sides(lists, settings.split)
    listed = {key: videos[key] for key in sides if key in videos}
    if not listed:
        raise InputError(
            f"{root}: none of the {len(sides)} videos of split {settings.split} was found; it is "
            "not UCF-101, or only a part of it"
        )
    canonical = {label.lower(): label for label in classes}
    found = {}
    for key, video in listed.items():
        label = canonical[key.split("/")[0]]
        match = FILE_NAME.fullmatch(PurePosixPath(video.name).name)
        if match is None:
            raise InputError(f"{video.path}: expected a name like v_{label}_g01_c01.avi")
        found[key] = (video, label, f"{label}_{match['group'].lower()}")
    training = {group for key, (_, _, group) in found.items() if sides[key] == "train"}
    splits = split_groups(training, settings.val, 0.0)
    items = [
        Item(
            id=f"{label}/{PurePosixPath(video.name).stem}",
            label=label,
            split="test" if sides[key] == "test" else splits[group],
            group=group,
            name=video.name,
            path=video.path,
            num_bytes=video.num_bytes,
        )
        for key, (video, label, group) in sorted(found.items())
    ]
    missing = sorted(key for key in sides if key not in videos)
    unlisted = len(videos) - len(listed)
    return Listing(
        source="ucf101",
        settings={"split": settings.split, "val": settings.val},
        items=tuple(items),
        classes=classes,
        skipped=tuple(Skipped(key, key, "listed, but missing") for key in missing),
        notes=(f"{unlisted} of the videos are in no list of the split",) if unlisted else (),
        max_skipped=MAX_SKIPPED,
        archive=archive,
    )


class _Text(NamedTuple):
    """The contents of a list file, and its name in messages."""

    name: str
    text: str


def _read_lists(root: Path, settings: Ucf101Settings) -> dict[str, _Text]:
    if settings.split not in (1, 2, 3):
        raise InputError(f"UCF-101 has the splits 1, 2 and 3, found {settings.split}")
    needed = (
        "classInd.txt",
        f"trainlist{settings.split:02d}.txt",
        f"testlist{settings.split:02d}.txt",
    )
    near = root.parent if root.is_file() else root
    candidates = (
        [settings.lists]
        if settings.lists is not None
        else [near / name for name in LIST_FOLDERS]
        + [folder / name for folder in (near, near.parent) for name in LIST_ARCHIVES]
    )
    for place in candidates:
        if all((place / name).is_file() for name in needed):
            return {name: _Text(str(place / name), _decoded(place / name)) for name in needed}
        if place.is_file():
            return _lists_in_archive(place, needed)
    raise InputError(
        f"{settings.lists or near}: no folder with {', '.join(needed)}, and no "
        f"{LIST_ARCHIVES[0]}. Put that there, packed or unpacked, or name it with --lists"
    )


def _decoded(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise InputError(
                f"{path}: has over {MAX_LIST_BYTES:,} bytes; this is not a list of UCF-101"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _lists_in_archive(path: Path, needed: tuple[str, ...]) -> dict[str, _Text]:
    archive = read_archive(path)
    members = {}
    for member in archive.members:
        name = PurePosixPath(member.name).name
        if name in needed and "__MACOSX" not in member.name:
            if name in members:
                raise InputError(f"{path}: holds {name} twice; unpack it and name the folder")
            members[name] = member
    if absent := [name for name in needed if name not in members]:
        raise InputError(f"{path}: holds no {' and no '.join(absent)}")
    if sum(member.num_bytes for member in members.values()) > MAX_LIST_BYTES:
        raise InputError(f"{path}: the lists in it are larger than {MAX_LIST_BYTES:,} bytes")
    texts = {}
    with closing(archive.contents(members.values())) as contents:
        for member, pieces in contents:
            name = f"{path}: {member.name}"
            try:
                texts[PurePosixPath(member.name).name] = _Text(name, b"".join(pieces).decode())
            except UnicodeDecodeError as error:
                raise InputError(f"{name}: cannot be read: {error}") from None
    return texts


def _videos(root: Path, classes: tuple[str, ...]) -> tuple[dict[str, _Video], Archive | None]:
    """Return the videos by lower-case class/file, and the archive that contains them, or None."""
    wanted = {label.lower() for label in classes}
    if root.is_file():
        return _in_archive(root, wanted)
    for name in VIDEO_FOLDERS:
        folder = root / name
        if folder.is_dir() and any(
            entry.is_dir() and entry.name.lower() in wanted for entry in folder.iterdir()
        ):
            return _in_folder(folder, wanted), None
    for name in VIDEO_ARCHIVES:
        if (root / name).is_file():
            return _in_archive(root / name, wanted)
    raise InputError(
        f"{root}: no folder of UCF-101's classes ({classes[0]}, ...) and no archive of it; looked "
        f"for {', '.join((*VIDEO_FOLDERS, *VIDEO_ARCHIVES))}. Put UCF101.rar there, or unpack it"
    )


def _in_folder(folder: Path, wanted: set[str]) -> dict[str, _Video]:
    return _by_key(
        folder,
        (
            _Video(f"{inner.name}/{path.name}", os.path.abspath(path), path.stat().st_size)
            for inner in sorted(folder.iterdir())
            if inner.name.lower() in wanted and inner.is_dir()
            for path in sorted(inner.iterdir())
            if path.suffix.lower() == ".avi" and path.is_file()
        ),
    )


def _in_archive(path: Path, wanted: set[str]) -> tuple[dict[str, _Video], Archive]:
    archive = read_archive(path)
    found = []
    for member in archive.members:
        parts = PurePosixPath(member.name).parts
        if (
            len(parts) > 1
            and parts[-2].lower() in wanted
            and parts[-1].lower().endswith(".avi")
            and not parts[-1].startswith("._")  # added by macOS
        ):
            found.append(_Video("/".join(parts[-2:]), member.name, member.num_bytes))
    return _by_key(path, found), archive


def _by_key(where: Path, videos: Iterable[_Video]) -> dict[str, _Video]:
    found: dict[str, _Video] = {}
    for video in videos:
        other = found.setdefault(video.name.lower(), video)
        if other is not video:
            raise InputError(
                f"{where}: {other.path} and {video.path} are the same video of UCF-101; remove "
                "one of them"
            )
    return found


def _lines(text: str) -> list[tuple[int, str]]:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line]


def _read_classes(source: _Text) -> tuple[str, ...]:
    classes = []
    for number, line in _lines(source.text):
        parts = line.split()
        if len(parts) != 2 or parts[0] != str(len(classes) + 1):
            raise InputError(
                f"{source.name}: line {number}: expected `{len(classes) + 1} ClassName`, "
                f"found {line!r}"
            )
        classes.append(parts[1])
    if not classes or len({label.lower() for label in classes}) != len(classes):
        raise InputError(f"{source.name}: holds no classes, or one of them twice")
    return tuple(classes)


def _read_sides(lists: dict[str, _Text], split: int) -> dict[str, str]:
    """Return train or test for each video, by lower-case class/file."""
    sides: dict[str, str] = {}
    for side in ("train", "test"):
        source = lists[f"{side}list{split:02d}.txt"]
        for number, name in _read_names(source):
            if name.lower() in sides:
                raise InputError(f"{source.name}: line {number}: {name} is listed twice")
            sides[name.lower()] = side
    return sides


def _read_names(source: _Text) -> list[tuple[int, str]]:
    """Return the line number and Class/file.avi of each line; ignore class numbers, if any."""
    names = []
    for number, line in _lines(source.text):
        name = line.split()[0].replace("\\", "/")
        if name.count("/") != 1 or not name.lower().endswith(".avi"):
            raise InputError(
                f"{source.name}: line {number}: expected Class/video.avi, found {line!r}"
            )
        names.append((number, name))
    return names
