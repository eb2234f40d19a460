"""Code shared by all archive formats: members, name checks, limits and errors."""

import io
import os
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from video_vq.errors import InputError
from video_vq.media.zip_limits import MAX_CONTENT_BYTES, MAX_EXPANSION, MAX_MEMBERS

MAX_NAME_BYTES, MAX_PART_BYTES, MAX_PARTS = 1024, 255, 16
PIECE_BYTES = 1 << 20


class ArchiveError(InputError):
    """Error for an archive that cannot be used."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True)
class Member:
    """A regular file in an archive.

    Attributes:
        number: index among all entries of the archive, including folders.
        name: relative path with / as separator and without parts such as `..`.
        num_bytes: size of the file, in bytes.
        position: offset of the file's data in a tar file, in bytes; 0 for other formats.
        crc32: checksum of the file; None if the archive contains no checksum.
    """

    number: int
    name: str
    num_bytes: int
    position: int = 0
    crc32: int | None = None


Contents = Generator[tuple[Member, Iterator[bytes]], None, None]
"""Members with their bytes in chunks; read a member's chunks before requesting the next member."""


class LimitedFile(io.BufferedReader):
    """An archive file from which no more bytes can be read than `allow` permits.

    The standard library's readers allocate any length that a header claims, so the bytes that they
    read for headers are limited. The data of members is read in chunks, which need little memory.
    """

    def __init__(self, path: Path):
        super().__init__(io.FileIO(open_descriptor(path)))
        self.size = os.fstat(self.fileno()).st_size
        self._path, self._what, self._allowed = path, "", 0

    def allow(self, num_bytes: int, what: str = "") -> None:
        """Set the number of bytes that may still be read.

        Args:
            num_bytes: number of bytes.
            what: description of what exceeds the limit, for the error message.
        """
        self._allowed, self._what = num_bytes, what

    def read(self, size: int | None = -1, /) -> bytes:
        """Return `size` bytes, or fewer at the end of the file; all remaining bytes without a size.

        Raises:
            ArchiveError: the read exceeds the allowed number of bytes.
        """
        left = max(self.size - self.tell(), 0)
        wanted = left if size is None or size < 0 else min(size, left)
        self._allowed -= wanted
        if self._allowed < 0:
            raise ArchiveError(self._path, f"holds {self._what}")
        return super().read(wanted)


def open_archive(path: Path) -> BinaryIO:
    """Open an archive for reading.

    Raises:
        ArchiveError: the path is not a readable file.
    """
    return open(open_descriptor(path), "rb")


def open_descriptor(path: Path) -> int:
    """Return a descriptor of a regular file; reject pipes and devices, which could block forever.

    Raises:
        ArchiveError: the path is not a readable file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ArchiveError(path, f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArchiveError(path, "is not a regular file")
    return descriptor


def clean_name(path: Path, name: str | bytes) -> str:
    """Return a member's normalized name.

    Args:
        path: path of the archive, for error messages.
        name: name in the archive.

    Raises:
        ArchiveError: the name is empty, too long or too deep, is not UTF-8 or not printable,
            contains a backslash, or points outside the target folder.
    """
    raw = name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
    shown = ascii(raw[:80].decode(errors="replace"))
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ArchiveError(path, f"the name {shown} in it is not UTF-8") from None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in parts or (parts and parts[0][1:2] == ":"):
        raise ArchiveError(path, f"the name {shown} in it leads out of its folder")
    if not parts or not text.isprintable() or "\\" in text:
        raise ArchiveError(path, f"{shown} in it is not the name of a file")
    longest = max(len(part.encode()) for part in parts)
    if len(raw) > MAX_NAME_BYTES or longest > MAX_PART_BYTES or len(parts) > MAX_PARTS:
        raise ArchiveError(path, f"the name {shown}... in it is too long or too deep")
    return "/".join(parts)


class Entries:
    """Collector of an archive's members; raises an error if a limit is exceeded.

    Args:
        path: path of the archive.
        archive_bytes: size of the archive, in bytes.
    """

    def __init__(self, path: Path, archive_bytes: int):
        self._path = path
        self._allowed = max(MAX_CONTENT_BYTES, MAX_EXPANSION * archive_bytes)
        self.count = 0  # number of entries added, including folders
        self._bytes = 0
        self._members: dict[str, Member] = {}
        self._folders: set[str] = set()

    def add_folder(self, name: str | bytes) -> None:
        """Check and record the name of a folder entry.

        Raises:
            ArchiveError: the name is not allowed or is already used for a file, or a limit is
                exceeded.
        """
        self._next()
        if name not in (".", "./", b".", b"./"):
            self._note_folder(clean_name(self._path, name))

    def add(self, member: Member) -> None:
        """Add a regular file.

        Raises:
            ArchiveError: the name conflicts with an earlier entry, or a limit is exceeded.
        """
        self._next()
        self._bytes += member.num_bytes
        if member.num_bytes < 0 or self._bytes > self._allowed:
            raise ArchiveError(
                self._path, f"would unpack to more than {self._allowed:,} bytes; it is refused"
            )
        if member.name in self._members or member.name in self._folders:
            raise ArchiveError(self._path, f"holds {member.name!a} twice")
        self._note_folder(str(PurePosixPath(member.name).parent))
        self._members[member.name] = member

    def refuse(self, name: str | bytes, kind: str) -> ArchiveError:
        """Return the error for an entry that is not an accepted file or folder.

        Args:
            name: name of the entry.
            kind: description of the entry, such as "a symbolic link".
        """
        shown = ascii(name if isinstance(name, str) else name.decode(errors="replace"))
        return ArchiveError(
            self._path,
            f"holds {shown[:200]}, {kind}; only regular files are accepted. Unpack the files that "
            "you trust, and name the folder",
        )

    def done(self) -> tuple[Member, ...]:
        """Return all members.

        Raises:
            ArchiveError: the archive contains no files.
        """
        if not self._members:
            raise ArchiveError(self._path, "holds no file")
        return tuple(self._members.values())

    def _next(self) -> None:
        self.count += 1
        if self.count > MAX_MEMBERS:
            raise ArchiveError(self._path, f"holds more than {MAX_MEMBERS:,} entries")

    def _note_folder(self, name: str) -> None:
        while name != "." and name not in self._folders:
            if name in self._members:
                raise ArchiveError(self._path, f"holds {name!a} as a file and as a folder")
            self._folders.add(name)
            if len(self._folders) > MAX_MEMBERS:
                raise ArchiveError(self._path, f"holds more than {MAX_MEMBERS:,} folders")
            name = str(PurePosixPath(name).parent)


def pieces_of(
    read: Callable[[int], bytes], num_bytes: int, cut_off: ArchiveError
) -> Iterator[bytes]:
    """Yield the next bytes of a file, or of a program's output, in chunks.

    Args:
        read: function that returns at most the given number of bytes.
        num_bytes: total number of bytes to yield.
        cut_off: error to raise if the data end early.

    Raises:
        ArchiveError: the data end before `num_bytes` bytes have been read.
    """
    while num_bytes:
        piece = read(min(num_bytes, PIECE_BYTES))
        if not piece:
            raise cut_off
        num_bytes -= len(piece)
        yield piece
