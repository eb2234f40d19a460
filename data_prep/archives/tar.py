"""Reads tar files (ustar, GNU long names, pax paths) header by header; regular files only.

Python's own tarfile is not used: its filters have been passed by links more than once
(CVE-2025-4517), and it can be made to loop (CVE-2025-8194). Layout: POSIX.1-2008, pax, ustar.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep.archives.members import (
    ArchiveError,
    Contents,
    Entries,
    Member,
    clean_name,
    open_archive,
    pieces_of,
)

BLOCK = 512
MAX_EXTENSION_BYTES = 1 << 16  # of a long name or of a pax header
REGULAR, FOLDER = (b"0", b"\0"), b"5"
LONG_NAME, PAX, PAX_GLOBAL = b"L", b"x", b"g"
REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"K": "a link",
    b"S": "a sparse file",
}


@dataclass(frozen=True)
class _Header:
    name: bytes
    kind: bytes
    size: int


def looks_like_tar(head: bytes) -> bool:
    """Whether a file's first block is a tar header."""
    return len(head) >= BLOCK and any(head[:BLOCK]) and _checksum_holds(head[:BLOCK])


def tar_members(path: Path) -> tuple[Member, ...]:
    """List a tar file's regular files by their headers alone.

    Raises:
        ArchiveError: it is cut off or damaged, or holds something else; see `Entries`.
    """
    with open_archive(path) as file:
        size = os.fstat(file.fileno()).st_size
        entries = Entries(path, size)
        for member in _walk(path, file, entries):
            if member.position + member.num_bytes > size:
                missing = member.position + member.num_bytes - size
                raise ArchiveError(path, f"is cut off: {missing:,} bytes are missing at its end")
            file.seek(member.position + member.num_bytes + -member.num_bytes % BLOCK)
        return entries.done()


def tar_contents(path: Path, members: tuple[Member, ...], wanted: frozenset[Member]) -> Contents:
    """Yield wanted members with their bytes; see `Archive.contents`."""
    with open_archive(path) as file:
        for member in members:
            if member in wanted:
                file.seek(member.position)
                cut_off = ArchiveError(path, "became shorter while it was read")
                yield member, pieces_of(file, member.num_bytes, cut_off)


def _walk(path: Path, file: BinaryIO, entries: Entries) -> Iterator[Member]:
    """Yield each regular file when its header was read; the caller goes past its bytes."""
    long_name: bytes | None = None
    long_size: int | None = None
    position = 0
    while True:
        block = file.read(BLOCK)
        position += BLOCK
        if len(block) < BLOCK:
            raise ArchiveError(path, f"is cut off: no end mark at byte {position - BLOCK:,}")
        if not any(block):
            return
        header = _header(path, block, position - BLOCK)
        if header.kind in (LONG_NAME, PAX, PAX_GLOBAL):
            data = _extension(path, file, header)
            position += len(data) + -len(data) % BLOCK
            if header.kind == LONG_NAME:
                long_name = data.rstrip(b"\0")
                continue
            records = _pax_records(path, data)
            if any(key.startswith(b"GNU.sparse") for key in records):
                raise entries.refuse(records.get(b"path", b""), "a sparse file")
            if header.kind == PAX_GLOBAL and {b"path", b"size", b"linkpath"} & records.keys():
                raise ArchiveError(path, "gives all its files one name or size")
            if header.kind == PAX:
                long_name = records.get(b"path", long_name)
                if b"size" in records:
                    long_size = _decimal(path, records[b"size"])
            continue
        name = header.name if long_name is None else long_name
        size = header.size if long_size is None else long_size
        long_name = long_size = None
        if header.kind == FOLDER or (header.kind in REGULAR and name.endswith(b"/") and not size):
            entries.add_folder(name)
            continue
        if header.kind not in REGULAR:
            raise entries.refuse(name, REFUSED.get(header.kind, f"of the kind {header.kind!r}"))
        member = Member(entries.count, clean_name(path, name), size, position)
        entries.add(member)
        yield member
        position += size + -size % BLOCK


def _header(path: Path, block: bytes, position: int) -> _Header:
    if not _checksum_holds(block):
        raise ArchiveError(path, f"byte {position:,}: no tar header, or a damaged one")
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    kind = block[156:157]
    # A folder may tell a size; nothing follows it (POSIX leaves that to the reader).
    size = 0 if kind == FOLDER else _number(path, block[124:136])
    return _Header(prefix + b"/" + name if prefix else name, kind, size)


def _checksum_holds(block: bytes) -> bool:
    digits = block[148:156].strip(b" \0")
    try:
        told = int(digits, 8) if digits.isdigit() else -1
    except ValueError:  # 8 or 9
        return False
    return told == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])


def _number(path: Path, field: bytes) -> int:
    """Read a size: octal digits, or GNU's base 256 where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() or digits.translate(None, b"01234567"):
        raise ArchiveError(path, f"tells a size of {field!r}")
    return int(digits, 8)


def _extension(path: Path, file: BinaryIO, header: _Header) -> bytes:
    if header.size > MAX_EXTENSION_BYTES:
        raise ArchiveError(path, f"holds a name or an extended header of {header.size:,} bytes")
    data = file.read(header.size + -header.size % BLOCK)
    if len(data) < header.size:
        raise ArchiveError(path, "is cut off inside a header")
    return data[: header.size]


def _pax_records(path: Path, data: bytes) -> dict[bytes, bytes]:
    """Read `length key=value` lines, where the length counts the whole line."""
    records = {}
    while data.strip(b"\0"):
        digits, space, _ = data[:20].partition(b" ")
        length = _decimal(path, digits)
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not space or not equals or length > len(data) or data[length - 1 : length] != b"\n":
            raise ArchiveError(path, "holds a damaged extended header")
        records[key] = value
        data = data[length:]
    return records


def _decimal(path: Path, digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise ArchiveError(path, f"holds an extended header with the number {digits[:20]!r}")
    return int(digits)
