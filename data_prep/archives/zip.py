"""Reads zip files by their central directory; stored and deflated regular files only.

Layout: PKWARE APPNOTE 6.3.10. Python's own zipfile is not used: it holds every entry of a huge
directory before any can be counted, and reads members that lie over one another (CVE-2024-0450).
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep.archives.members import (
    MAX_MEMBERS,
    PIECE_BYTES,
    ArchiveError,
    Contents,
    Entries,
    Member,
    clean_name,
    open_archive,
    pieces_of,
)

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
END, END64, LOCATOR64 = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), "<4sIQI"
CENTRAL, LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
MAX_COMMENT = 0xFFFF
MAX_DIRECTORY_BYTES = 256 << 20
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF8 = 0x0001 | 0x0040 | 0x2000, 0x0800
UNIX = 3


@dataclass(frozen=True)
class _Entry:
    name: str
    made_by: int
    flags: int
    method: int
    crc32: int
    packed: int
    size: int
    position: int
    attributes: int


def zip_members(path: Path) -> tuple[Member, ...]:
    """List a zip file's regular files.

    Raises:
        ArchiveError: it is cut off or damaged, holds something else, or members overlap.
    """
    with open_archive(path) as file:
        size = os.fstat(file.fileno()).st_size
        entries = Entries(path, size)
        start, directory = _directory(path, file, size)
        for entry in _entries(path, directory):
            _add(path, entry, entries)
        members = entries.done()
        _require_apart(path, members, start)
        return members


def zip_contents(path: Path, members: tuple[Member, ...], wanted: frozenset[Member]) -> Contents:
    """Yield wanted members with their bytes; see `Archive.contents`."""
    with open_archive(path) as file:
        for member in members:
            if member in wanted:
                yield member, _bytes_of(path, file, member)


def _bytes_of(path: Path, file: BinaryIO, member: Member) -> Iterator[bytes]:
    damaged = ArchiveError(path, f"{member.name!a} in it is damaged")
    file.seek(member.position)
    header = file.read(LOCAL.size)
    if len(header) < LOCAL.size or header[:4] != ZIP_MAGICS[0]:
        raise damaged
    *_, name_bytes, extra_bytes = LOCAL.unpack(header)
    file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
    packed = pieces_of(file, member.packed_bytes, damaged)
    size, crc = 0, 0
    for piece in _inflated(packed, damaged) if member.is_deflated else packed:
        size += len(piece)
        if size > member.num_bytes:
            raise ArchiveError(
                path, f"{member.name!a} in it is larger than the {member.num_bytes:,} it tells"
            )
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != member.num_bytes or crc != member.crc32:
        raise damaged


def _inflated(packed: Iterator[bytes], damaged: ArchiveError) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for data in packed:
            if inflate.eof:
                raise damaged
            while data:
                piece = inflate.decompress(data, PIECE_BYTES)
                if piece:
                    yield piece
                elif inflate.unconsumed_tail == data:
                    raise damaged
                data = inflate.unconsumed_tail
        while piece := inflate.decompress(inflate.unconsumed_tail, PIECE_BYTES):
            yield piece
    except zlib.error:
        raise damaged from None
    if not inflate.eof:
        raise damaged


def _directory(path: Path, file: BinaryIO, size: int) -> tuple[int, bytes]:
    """Return where the central directory begins, and its bytes."""
    tail_bytes = min(size, END.size + MAX_COMMENT)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        raise ArchiveError(path, "is cut off: the directory at its end is missing")
    _, disk, first, _, count, num_bytes, start, _ = END.unpack_from(tail, at)
    if 0xFFFF in (count, disk) or 0xFFFFFFFF in (num_bytes, start):
        disk, first, count, num_bytes, start = _end64(path, file, size - tail_bytes + at)
    if disk or first:
        raise ArchiveError(path, "is a part of a larger archive; join the parts")
    if count > MAX_MEMBERS:
        raise ArchiveError(path, f"holds more than {MAX_MEMBERS:,} entries")
    if num_bytes > min(MAX_DIRECTORY_BYTES, size) or start + num_bytes > size:
        raise ArchiveError(path, f"tells a directory of {num_bytes:,} bytes at byte {start:,}")
    file.seek(start)
    return start, file.read(num_bytes)


def _end64(path: Path, file: BinaryIO, end: int) -> tuple[int, int, int, int, int]:
    damaged = ArchiveError(path, "holds a damaged directory")
    locator = struct.Struct(LOCATOR64)
    if end < locator.size:
        raise damaged
    file.seek(end - locator.size)
    magic, _, position, _ = locator.unpack(file.read(locator.size))
    if magic != b"PK\x06\x07" or position + END64.size > end:
        raise damaged
    file.seek(position)
    magic, _, _, _, disk, first, _, count, num_bytes, start = END64.unpack(file.read(END64.size))
    if magic != b"PK\x06\x06":
        raise damaged
    return disk, first, count, num_bytes, start


def _entries(path: Path, directory: bytes) -> Iterator[_Entry]:
    at = 0
    while at < len(directory):
        if at + CENTRAL.size > len(directory) or directory[at : at + 4] != b"PK\x01\x02":
            raise ArchiveError(path, "holds a damaged directory")
        (_, made_by, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes, comment,
         _, _, attributes, position) = CENTRAL.unpack_from(directory, at)  # fmt: skip
        names = at + CENTRAL.size
        name = directory[names : names + name_bytes]
        extra = directory[names + name_bytes : names + name_bytes + extra_bytes]
        size, packed, position = _wide(path, extra, size, packed, position)
        text = clean_name(path, name if flags & UTF8 else _guessed(name))
        if name.endswith(b"/"):
            text += "/"
        yield _Entry(text, made_by >> 8, flags, method, crc, packed, size, position, attributes)
        at = names + name_bytes + extra_bytes + comment


def _guessed(name: bytes) -> bytes:
    """Return a name as UTF-8: many programs write that without saying so; the rest is cp437."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437").encode()
    return name


def _wide(path: Path, extra: bytes, size: int, packed: int, position: int) -> tuple[int, int, int]:
    """Replace what does not fit into 32 bits by what the zip64 field tells, in its order."""
    values = [size, packed, position]
    if 0xFFFFFFFF not in values:
        return size, packed, position
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind != 1:
            continue
        for index, value in enumerate(values):
            if value == 0xFFFFFFFF and len(field) >= 8:
                values[index] = int.from_bytes(field[:8], "little")
                field = field[8:]
        return values[0], values[1], values[2]
    raise ArchiveError(path, "holds a damaged directory")


def _add(path: Path, entry: _Entry, entries: Entries) -> None:
    kind = stat.S_IFMT(entry.attributes >> 16) if entry.made_by == UNIX else 0
    if entry.name.endswith("/"):
        if entry.size or kind not in (0, stat.S_IFDIR):
            raise entries.refuse(entry.name, "which is no plain folder")
        entries.add_folder(entry.name)
        return
    if kind == stat.S_IFLNK:
        raise entries.refuse(entry.name, "a symbolic link")
    if kind not in (0, stat.S_IFREG):
        raise entries.refuse(entry.name, "which is no regular file")
    if entry.flags & ENCRYPTED:
        raise entries.refuse(entry.name, "which is encrypted")
    if entry.method not in (STORED, DEFLATED):
        raise entries.refuse(entry.name, f"packed by method {entry.method}")
    if entry.method == STORED and entry.packed != entry.size:
        raise ArchiveError(path, f"tells two sizes of {entry.name!a}")
    entries.add(
        Member(
            entries.count,
            entry.name,
            entry.size,
            entry.position,
            entry.crc32,
            entry.packed,
            entry.method == DEFLATED,
        )
    )


def _require_apart(path: Path, members: tuple[Member, ...], directory: int) -> None:
    """Refuse members that share bytes: the way by which 40 kB hold 5 GB."""
    ends = 0
    for member in sorted(members, key=lambda member: member.position):
        if member.position < ends:
            raise ArchiveError(path, f"{member.name!a} in it lies over another file")
        ends = member.position + LOCAL.size + member.packed_bytes
    if ends > directory:
        raise ArchiveError(path, "holds files that reach into its directory")
