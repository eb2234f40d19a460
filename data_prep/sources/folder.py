"""Any tree of video files: the first folder is the label, a hash of the group the split."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources import Item, Listing, require_folder, split_groups
from video_vq.errors import InputError
from video_vq.media.suffixes import VIDEO_SUFFIXES
from video_vq.stores.clips import Skipped

MAX_SKIPPED = 0.01


@dataclass(frozen=True)
class FolderSettings:
    """How a tree is read.

    Attributes:
        val, test: shares of the groups.
        group_by: "video": each is its own group; "folder": those of one folder are;
            "regex": those whose ids match `group_regex` alike (its first group, or the whole).
        group_regex: for group_by "regex".
        extensions: of the files to take, in small letters, with the dot.
    """

    val: float = 0.1
    test: float = 0.1
    group_by: str = "video"
    group_regex: str | None = None
    extensions: tuple[str, ...] = VIDEO_SUFFIXES


def list_folder(root: Path, settings: FolderSettings) -> Listing:
    """List the videos of a tree, sorted by name.

    Names that begin with a dot are passed over. Links are followed to files inside the tree only;
    those that lead out of it, and everything that is no file, are listed as skipped.

    Raises:
        InputError: no folder, no video in it, or a bad setting.
    """
    require_folder(root, "a folder of videos")
    group_of = grouping(settings)
    found, skipped = _find(root, settings.extensions)
    if not found:
        raise InputError(
            f"{root}: no video file there; looked for names ending in "
            f"{', '.join(settings.extensions)} ({len(skipped)} left out"
            + (f", the first: {skipped[0].path}: {skipped[0].reason}" if skipped else "")
            + "); name another folder, or other endings with --extensions"
        )
    found.sort()
    groups = {name: group_of(name) for name, _, _ in found}
    splits = split_groups(groups.values(), settings.val, settings.test)
    items = tuple(
        Item(
            id=name,
            label=name.split("/")[0] if "/" in name else None,
            split=splits[groups[name]],
            group=groups[name],
            name=name,
            path=os.path.abspath(path),
            num_bytes=num_bytes,
        )
        for name, path, num_bytes in found
    )
    return Listing(
        source="folder",
        settings={
            "val": settings.val,
            "test": settings.test,
            "group_by": settings.group_by,
            "group_regex": settings.group_regex,
        },
        items=items,
        classes=tuple(sorted({item.label for item in items if item.label is not None})),
        skipped=tuple(sorted(skipped, key=lambda entry: entry.id)),
        max_skipped=MAX_SKIPPED,
    )


def _find(
    root: Path, extensions: tuple[str, ...]
) -> tuple[list[tuple[str, Path, int]], list[Skipped]]:
    """Return name, path and size of each usable file, and what cannot be used."""
    real_root = root.resolve()
    found: list[tuple[str, Path, int]] = []
    skipped: list[Skipped] = []
    for path in _walk(root):
        if not path.is_symlink() and path.is_dir():
            continue
        if path.suffix.lower() not in extensions and not _is_linked_folder(path):
            continue
        name = path.relative_to(root).as_posix()
        readable = name.encode(errors="backslashreplace").decode()
        problem = _problem(path, name, real_root)
        if problem is None:
            found.append((name, path, path.stat().st_size))
        else:
            skipped.append(Skipped(readable, readable, problem))
    return found, skipped


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *sorted(files)):
            if not name.startswith("."):
                yield Path(folder, name)


def _is_linked_folder(path: Path) -> bool:
    return path.is_symlink() and path.is_dir()


def _problem(path: Path, name: str, real_root: Path) -> str | None:
    """Return why a file cannot be taken, None when it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    try:
        if _is_linked_folder(path):
            return "a link to a folder is not followed; name that folder itself"
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(real_root):
            return "a link that leads out of the folder is not followed; copy the file"
        mode = path.stat().st_mode
    except RuntimeError:  # until Python 3.12
        return "cannot be read (a loop of links)"
    except OSError as error:
        loops = error.errno == errno.ELOOP
        return f"cannot be read ({'a loop of links' if loops else error.strerror})"
    return None if stat.S_ISREG(mode) else "is no regular file"


def grouping(settings: FolderSettings) -> Callable[[str], str]:
    """Return the function from a video's id to its group.

    Raises:
        InputError: the pattern is none; or, by the function, it does not match.
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
