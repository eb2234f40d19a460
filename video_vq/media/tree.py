"""Finds files by kind in a folder tree. Frame folders are found without storing frame names."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from video_vq.errors import InputError
from video_vq.media.frame_names import FramePattern, Numbering
from video_vq.media.kinds import ARRAY_SUFFIXES, PICKLE_SUFFIXES, PICTURE_SUFFIXES, VIDEO_SUFFIXES


class LeftOut(NamedTuple):
    """The printable name of an unusable file or frame folder, and the reason."""

    name: str
    reason: str


class FoundFrames:
    """A summary of one video's frames, updated as frames are found.

    Attributes:
        num_bytes: total size of the frames in bytes.
        numbering: numbering of the frames' names.
        problem: reason why a frame is unusable; None if no unusable frame was found.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self.numbering = Numbering()
        self.problem: str | None = None


class Tree:
    """The files in a folder tree that may be videos, by kind.

    Names that begin with a dot are ignored. Links are followed only to files inside the tree; other
    links, and anything that is not a regular file, are skipped.

    Args:
        root: the top folder.
        extensions: extensions of the files to use, in lower case, with the dot; None for the
            default extensions.
        frame_names: pattern for the names of frames; see `Reading`.

    Attributes:
        files, arrays: name and size of each video file, and of each array file.
        frames: summary of each video's frames, by the video's name.
        left_out: unusable files ("files", "arrays") and links to folders ("links").
        num_pickles: number of files with a pickle extension.
        num_unmatched: number of image files whose names do not match `frame_names`.

    Raises:
        InputError: a folder cannot be listed.
    """

    def __init__(self, root: Path, extensions: tuple[str, ...] | None, frame_names: str | None):
        self._root, self._real_root = root, os.path.realpath(root)
        self._pattern = None if frame_names is None else FramePattern(frame_names)
        others = (*PICTURE_SUFFIXES, *ARRAY_SUFFIXES)
        self._videos = VIDEO_SUFFIXES
        if extensions is not None:
            self._videos = tuple(ending for ending in extensions if ending not in others)
        self._pictures, self._arrays = (
            tuple(ending for ending in kind if extensions is None or ending in extensions)
            for kind in (PICTURE_SUFFIXES, ARRAY_SUFFIXES)
        )
        self.files: list[tuple[str, int]] = []
        self.arrays: list[tuple[str, int]] = []
        self.frames: dict[str, FoundFrames] = {}
        self.left_out: dict[str, list[LeftOut]] = {"files": [], "arrays": [], "links": []}
        self.num_pickles = self.num_unmatched = 0
        for entry, folder in walk(root):
            self._add(entry, folder)

    def _add(self, entry: os.DirEntry[str], folder: str) -> None:
        ending = os.path.splitext(entry.name)[1].lower()
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_symlink() and os.path.isdir(entry.path):
            reason = "a link to a folder is not followed; name that folder itself"
            self.left_out["links"].append(LeftOut(_readable(name), reason))
        elif entry.is_dir(follow_symlinks=False):
            return
        elif ending in self._videos:
            self._add_file("files", self.files, entry, name)
        elif ending in self._pictures:
            self._add_picture(entry, folder)
        elif ending in self._arrays:
            self._add_file("arrays", self.arrays, entry, name)
        elif ending in PICKLE_SUFFIXES:
            self.num_pickles += 1

    def _add_file(
        self, kind: str, found: list[tuple[str, int]], entry: os.DirEntry[str], name: str
    ) -> None:
        size = _size_or_problem(entry, self._real_root)
        if isinstance(size, int):
            found.append((name, size))
        else:
            self.left_out[kind].append(LeftOut(_readable(name), size))

    def _add_picture(self, entry: os.DirEntry[str], folder: str) -> None:
        video, frame = folder, entry.name
        if self._pattern is not None:
            parsed = self._pattern.parse(entry.name)
            if parsed is None:
                self.num_unmatched += 1
                return
            video = "/".join(part for part in (folder, parsed[0]) if part)
            frame = parsed[1]
        frames = self.frames.setdefault(video, FoundFrames())
        frames.numbering.add(frame)
        size = _size_or_problem(entry, self._real_root)
        if isinstance(size, int):
            frames.num_bytes += size
        else:
            frames.problem = frames.problem or f"{_readable(entry.name)}: {size}"


def walk(root: Path) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield each non-hidden entry of a tree, with the path of its folder relative to the root.

    Raises:
        InputError: a folder cannot be listed; skipping the folder would silently lose videos.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{folder}/{entry.name}" if folder else entry.name)
                    yield entry, folder
        except OSError as error:
            raise InputError(
                f"{error.filename or root / folder}: cannot be listed ({error.strerror}); "
                "check the storage and the permissions, then run the command again"
            ) from None


def _readable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _size_or_problem(entry: os.DirEntry[str], real_root: str) -> int | str:
    """Return the size of a file in bytes, or the reason why the file is unusable."""
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if entry.is_symlink():
        return size_inside(Path(entry.path), real_root)
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return status.st_size if stat.S_ISREG(status.st_mode) else "is not a regular file"


def size_inside(path: Path, real_root: str | Path) -> int | str:
    """Return the size in bytes of a file in a folder, or the reason why the file is unusable.

    Args:
        path: path of the file; links are followed only inside the folder.
        real_root: real path of the folder, without links.
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
