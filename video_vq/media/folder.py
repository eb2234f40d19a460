"""Lists a folder's videos: its subfolders are the labels, a hash of the group decides the split."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from video_vq.errors import InputError

# Files whose names end in these are taken for videos.
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
MAX_SKIPPED = 0.01  # share of the videos that may be unusable, unless the user says otherwise


@dataclass(frozen=True)
class FolderSettings:
    """How a tree is read.

    Attributes:
        val, test: shares of the groups that become the val and the test split.
        group_by: "video": each is its own group; "folder": those of one folder are;
            "regex": those whose ids match `group_regex` alike (its first group, or the whole).
        group_regex: the pattern for group_by "regex".
        extensions: endings of the files to take, in lower case, with the dot.
    """

    val: float = 0.1
    test: float = 0.1
    group_by: str = "video"
    group_regex: str | None = None
    extensions: tuple[str, ...] = VIDEO_SUFFIXES

    def to_json(self) -> dict[str, Any]:
        """Return what decides labels, groups and splits; the endings show in the list itself."""
        return {
            "val": self.val,
            "test": self.test,
            "group_by": self.group_by,
            "group_regex": self.group_regex,
        }


class FolderVideo(NamedTuple):
    """A video file of a folder.

    Attributes:
        name: path of the file, relative to the folder; it is also the video's id.
        label: the first folder of its name, None where it lies at the top.
        split: train, val or test.
        group: videos of one group are near-duplicates and share a split.
        num_bytes: size of the file.
    """

    name: str
    label: str | None
    split: str
    group: str
    num_bytes: int


class LeftOut(NamedTuple):
    """A file that cannot be used: its printable name, and why."""

    name: str
    reason: str


class VideoFolder(NamedTuple):
    """What a folder holds: videos and what cannot be used, each sorted by name; class names."""

    videos: tuple[FolderVideo, ...]
    left_out: tuple[LeftOut, ...]
    classes: tuple[str, ...]


def list_videos(root: Path, settings: FolderSettings) -> VideoFolder:
    """List the videos of a tree; nothing is decoded.

    Names that begin with a dot are ignored. Links are followed to files inside the tree only;
    those that lead out of it, and everything that is not a file, are left out.

    Raises:
        InputError: no video in the folder, or a bad setting.
    """
    group_of = grouping(settings)
    found, left_out = _find(root, settings.extensions)
    if not found:
        raise InputError(
            f"{root}: holds no video file; looked for names ending in "
            f"{', '.join(settings.extensions)}"
            + (
                f" ({len(left_out)} that cannot be read, the first: {left_out[0].name}: "
                f"{left_out[0].reason})"
                if left_out
                else ""
            )
            + "; name another folder, or other endings with --extensions"
        )
    found.sort()
    groups = {name: group_of(name) for name, _ in found}
    splits = split_groups(groups.values(), settings.val, settings.test)
    videos = tuple(
        FolderVideo(
            name=name,
            label=name.split("/")[0] if "/" in name else None,
            split=splits[groups[name]],
            group=groups[name],
            num_bytes=num_bytes,
        )
        for name, num_bytes in found
    )
    classes = sorted({video.label for video in videos if video.label is not None})
    return VideoFolder(videos, tuple(sorted(left_out)), tuple(classes))


def holds_video(root: Path, extensions: tuple[str, ...]) -> bool:
    """Whether a tree holds a name with one of these endings; stops at the first."""
    return any(path.suffix.lower() in extensions for path in _walk(root))


def _find(root: Path, extensions: tuple[str, ...]) -> tuple[list[tuple[str, int]], list[LeftOut]]:
    """Return name and size of each usable file, and what cannot be used."""
    real_root = root.resolve()
    found: list[tuple[str, int]] = []
    left_out: list[LeftOut] = []
    for path in _walk(root):
        if os.path.isdir(path) and not os.path.islink(path):
            continue
        if path.suffix.lower() not in extensions and not _is_linked_folder(path):
            continue
        name = path.relative_to(root).as_posix()
        readable = name.encode(errors="backslashreplace").decode()
        size = _size_or_problem(path, name, real_root)
        if isinstance(size, int):
            found.append((name, size))
        else:
            left_out.append(LeftOut(readable, size))
    return found, left_out


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *sorted(files)):
            if not name.startswith("."):
                yield Path(folder, name)


def _refuse(error: OSError) -> None:
    """End the walk: the videos of a folder that is silently skipped would be missed by nobody."""
    raise InputError(
        f"{error.filename}: cannot be listed ({error.strerror}); check the storage and the "
        "permissions, "
        "then run the command again"
    ) from None


def _is_linked_folder(path: Path) -> bool:
    # Unlike Path's methods, these do not raise where permissions are missing.
    return os.path.islink(path) and os.path.isdir(path)


def _size_or_problem(path: Path, name: str, real_root: Path) -> int | str:
    """Return the size of a file, or why it cannot be used."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if _is_linked_folder(path):
        return "a link to a folder is not followed; name that folder itself"
    return size_inside(path, real_root)


def size_inside(path: Path, real_root: Path) -> int | str:
    """Return the size of a file of a folder, or why it cannot be used.

    Args:
        path: path of the file; only links inside the folder are followed.
        real_root: the folder, itself without links.
    """
    try:
        real = os.path.realpath(path, strict=True)
        if not real.startswith(os.path.join(real_root, "")):
            return "a link that leads out of the folder is not followed; copy the file"
        status = path.stat()
    except OSError as error:
        loops = error.errno == errno.ELOOP
        return f"cannot be read ({'a loop of links' if loops else error.strerror})"
    return status.st_size if stat.S_ISREG(status.st_mode) else "is not a regular file"


def grouping(settings: FolderSettings) -> Callable[[str], str]:
    """Return the function from a video's id to its group.

    Raises:
        InputError: the pattern is not valid; the function raises it where a name does not match.
    """
    if settings.group_by == "video":
        return lambda name: name
    if settings.group_by == "folder":
        return lambda name: name.rpartition("/")[0] or "."
    try:
        pattern = re.compile(settings.group_regex or "")
    except re.error as error:
        raise InputError(f"--group-regex {settings.group_regex!r}: {error}") from None

    def group(name: str) -> str:
        match = pattern.search(name)
        if match is None:
            raise InputError(
                f"--group-regex {settings.group_regex!r} does not match {name!r}; "
                "every video needs a group"
            )
        return (match.group(1) if pattern.groups else match.group()) or ""

    return group


def split_groups(groups: Iterable[str], val: float, test: float) -> Mapping[str, str]:
    """Assign each group to train, val or test by its hash.

    The groups are ordered by their sha256; the first are test, the next val, the rest train, each
    share met to within one group. No split that was asked for stays empty as long as there are
    groups: train has the first, test the second, val the third.

    Args:
        groups: names of the groups; repeats are allowed.
        val: share of the groups for val; 0 for none.
        test: share of the groups for test; 0 for none.

    Raises:
        InputError: a share is negative, or nothing is left for train.
    """
    if min(val, test) < 0 or not val + test < 1:
        raise InputError(
            f"shares of val {val} and test {test}: each must be 0 or more, together below 1"
        )
    ordered = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    left = max(len(ordered) - 1, 0)  # train has one
    num_test = min(max(round(test * len(ordered)), test > 0), left)
    num_val = min(max(round(val * len(ordered)), val > 0), left - num_test)
    names = ["test"] * num_test + ["val"] * num_val
    names += ["train"] * (len(ordered) - len(names))
    return dict(zip(ordered, names, strict=True))
