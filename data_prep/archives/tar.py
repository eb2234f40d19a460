"""Reader of regular files in tar archives; Python's tarfile parses only the headers.

tarfile never extracts anything, because links have repeatedly bypassed its filters (CVE-2025-4517).
The number of header bytes that tarfile may read is limited (CVE-2025-8194). tarfile also mistakes a
damaged header for the end of the archive, so this module checks the end.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.archives.members import (
    ArchiveError,
    Contents,
    Entries,
    LimitedFile,
    Member,
    clean_name,
    open_archive,
    pieces_of,
)

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER_BYTES = 1 << 16  # per entry, including a long name and an extended header
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
REFUSED = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def looks_like_tar(head: bytes) -> bool:
    """Return whether a file's first block is a tar header."""
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except ArchiveError:
        raise
    except (tarfile.TarError, ValueError):
        return False
    return True


def tar_members(path: Path) -> tuple[Member, ...]:
    """Return the regular files that a tar file's headers list.

    Raises:
        ArchiveError: the file is truncated or damaged, contains links or devices, or exceeds a
            limit (see `Entries`).
    """
    with LimitedFile(path) as file:
        entries = Entries(path, file.size)
        for header in _headers(path, file):
            _add(path, header, entries)
            missing = header.offset_data + header.size - file.size
            if header.isreg() and missing > 0:
                raise ArchiveError(path, f"is cut off: {missing:,} bytes are missing at its end")
        return entries.done()


def tar_contents(path: Path, members: tuple[Member, ...], wanted: frozenset[Member]) -> Contents:
    """Yield each wanted member with its bytes; see `Archive.contents`."""
    with open_archive(path) as file:
        for member in members:
            if member in wanted:
                file.seek(member.position)
                cut_off = ArchiveError(path, "became shorter while it was read")
                yield member, pieces_of(file.read, member.num_bytes, cut_off)


def _headers(path: Path, file: LimitedFile) -> Iterator[tarfile.TarInfo]:
    """Yield the header of every entry, and check that the archive ends with an end mark."""
    what = f"a name or an extended header of more than {MAX_HEADER_BYTES:,} bytes"
    try:
        file.allow(MAX_HEADER_BYTES, what)
        tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
        while (header := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # all would be held
            if {"path", "size", "linkpath"} & tar.pax_headers.keys():
                raise ArchiveError(path, "gives all its files the same name or size")
            yield header
            file.allow(MAX_HEADER_BYTES, what)
        file.seek(tar.offset)
        end = file.read(BLOCK)
    except ArchiveError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise ArchiveError(path, f"holds a damaged header ({str(error)[:80]})") from None
    if len(end) < BLOCK:
        raise ArchiveError(path, f"is cut off: no end mark at byte {tar.offset:,}")
    if any(end):
        raise ArchiveError(path, f"byte {tar.offset:,}: no tar header, or a damaged one")


def _add(path: Path, header: tarfile.TarInfo, entries: Entries) -> None:
    if header.issparse() or any(key.startswith("GNU.sparse") for key in header.pax_headers):
        raise entries.refuse(header.name, "a sparse file")
    is_regular = header.type in REGULAR
    if header.isdir() or (is_regular and header.name.endswith("/") and not header.size):
        entries.add_folder(header.name)
        return
    if not is_regular:
        raise entries.refuse(header.name, REFUSED.get(header.type, f"of the kind {header.type!r}"))
    if not header.pax_headers.get("size", "0").isdecimal():  # tarfile would read such a size as 0
        raise ArchiveError(path, "holds a damaged extended header")
    name = clean_name(path, header.name)
    entries.add(Member(entries.count, name, header.size, header.offset_data))
