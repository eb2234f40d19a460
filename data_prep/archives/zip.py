"""Reader of zip archives through Python's zipfile, for stored and deflated regular files only."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.archives.members import (
    PIECE_BYTES,
    ArchiveError,
    Contents,
    Entries,
    LimitedFile,
    Member,
    clean_name,
)
from video_vq.media.zip_limits import MAX_DIRECTORY_BYTES, overlap

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
ENCRYPTED, UTF8 = 0x0001 | 0x0040 | 0x2000, 0x0800
UNIX = 3
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


def zip_members(path: Path) -> tuple[Member, ...]:
    """Return the regular files in a zip file.

    Raises:
        ArchiveError: the file is truncated or damaged, contains links, encrypted files or other
            unsupported entries, has overlapping members, or exceeds a limit (see `Entries`).
    """
    with _opened(path) as archive:
        listed = archive.infolist()
        entries = Entries(path, archive.start_dir)
        for info in listed:
            _add(path, info, entries)
        if (problem := overlap(listed, archive.start_dir)) is not None:
            raise ArchiveError(path, problem)
        return entries.done()


def zip_contents(path: Path, members: tuple[Member, ...], wanted: frozenset[Member]) -> Contents:
    """Yield each wanted member with its bytes; see `Archive.contents`."""
    with _opened(path) as archive:
        files = (info for info in archive.infolist() if not _is_folder(info))
        for info, member in zip(files, members, strict=True):
            if member in wanted:
                yield member, _bytes_of(path, archive, info, member)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with LimitedFile(path) as file:
        file.allow(MAX_DIRECTORY_BYTES, f"a directory of more than {MAX_DIRECTORY_BYTES:,} bytes")
        try:
            archive = zipfile.ZipFile(file)
        except ArchiveError:
            raise
        except DAMAGE as error:
            raise ArchiveError(
                path,
                f"is cut off: the directory at its end is missing, or damaged ({str(error)[:80]})",
            ) from None
        file.allow(1 << 62)
        with archive:
            yield archive


def _bytes_of(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, member: Member
) -> Iterator[bytes]:
    """Yield a member's bytes in chunks, and check the member's size and checksum."""
    size = 0
    try:
        with archive.open(info) as file:
            while piece := file.read(PIECE_BYTES):
                size += len(piece)
                yield piece
    except DAMAGE as error:
        raise ArchiveError(path, f"{member.name!a} in it is damaged ({str(error)[:80]})") from None
    if (size, info.CRC) != (member.num_bytes, member.crc32):
        raise ArchiveError(
            path,
            f"{member.name!a} in it is damaged: its {size:,} bytes are not the "
            f"{member.num_bytes:,} bytes that the archive lists",
        )


def _name_of(info: zipfile.ZipInfo) -> str | bytes:
    """Return a member's name, decoded as UTF-8 if possible, as many programs omit the flag."""
    if info.flag_bits & UTF8:
        return info.orig_filename
    written = info.orig_filename.encode("cp437")
    try:
        return written.decode()
    except UnicodeDecodeError:
        return info.orig_filename


def _add(path: Path, info: zipfile.ZipInfo, entries: Entries) -> None:
    name = _name_of(info)
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == UNIX else 0
    if _is_folder(info):
        if info.file_size or kind not in (0, stat.S_IFDIR):
            raise entries.refuse(name, "which is not a plain folder")
        entries.add_folder(name)
        return
    if kind == stat.S_IFLNK:
        raise entries.refuse(name, "a symbolic link")
    if kind not in (0, stat.S_IFREG):
        raise entries.refuse(name, "which is not a regular file")
    if info.flag_bits & ENCRYPTED:
        raise entries.refuse(name, "which is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise entries.refuse(name, f"packed by method {info.compress_type}")
    entries.add(Member(entries.count, clean_name(path, name), info.file_size, crc32=info.CRC))
