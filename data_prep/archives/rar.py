"""Reader of rar archives through unar or unrar, which may only print to a pipe.

The programs run without permission to write files, and with limits on memory and on the time
without output. Names are used only in the list of members; the output is split into members by
their order and sizes, and each member's checksum is verified. bsdtar is not used, because it
silently returns damaged files from rar 4 archives.
"""

import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.archives.members import (
    PIECE_BYTES,
    ArchiveError,
    Contents,
    Entries,
    Member,
    clean_name,
    open_archive,
    pieces_of,
)

RAR_MAGICS = (b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00")
# Allow no files, no core dump and 2 GiB of memory; then the program replaces the shell.
CONFINED = 'ulimit -f 0 && ulimit -c 0 && ulimit -v 2097152 && exec "$0" "$@"'
SILENCE_SECONDS = 600.0  # longest wait for output, as solid archives may be decompressed silently
END_BYTES = 64
MAX_LISTING_BYTES = 512 << 20
INSTALL = (
    "is a rar archive, and none of the programs that read them is installed. Install one "
    "(unrar, or `apt-get install unar`), or unpack it elsewhere and name the folder"
)


def rar_members(path: Path) -> tuple[Member, ...]:
    """Return the regular files in a rar file, listed by unrar if installed, or else by lsar.

    Raises:
        ArchiveError: no suitable program is installed, the program cannot read the archive, or the
            archive is truncated, contains links or encrypted files, or exceeds a limit (see
            `Entries`).
    """
    _require_end(path)
    return {"unar": _list_by_lsar, "unrar": _list_by_unrar}[_program(path)](path)


def rar_contents(path: Path, members: tuple[Member, ...], wanted: frozenset[Member]) -> Contents:
    """Yield each wanted member with its bytes; see `Archive.contents`."""
    program = _program(path)
    source = str(path.absolute())
    command = {
        "unar": ["unar", "-q", "-nr", "-p", "", "-o", "-", source],
        "unrar": ["unrar", "p", "-inul", "-cfg-", "-p-", source],
    }[program]
    with _printed(path, command) as stream:
        for member in members:
            pieces = _checked(path, stream, member)
            if member in wanted:
                yield member, pieces
            for _ in pieces:  # skip bytes that are not wanted or were not read
                pass
        if stream.read(1):
            raise ArchiveError(path, f"{program} gives more bytes than it announced")


def _require_end(path: Path) -> None:
    """Raise an error if an archive has no end block.

    The programs would accept an archive that is truncated between two files.

    Raises:
        ArchiveError: the last bytes contain no end block, as defined in RARLAB's technotes on RAR 4
            and 5.
    """
    with open_archive(path) as file:
        is_rar5 = file.read(len(RAR_MAGICS[1])) == RAR_MAGICS[1]
        file.seek(-min(END_BYTES, path.stat().st_size), os.SEEK_END)
        tail = file.read(END_BYTES)
    is_end = _is_end_of_rar5 if is_rar5 else _is_end_of_rar4
    if not any(is_end(tail[at:]) for at in range(len(tail))):
        raise ArchiveError(
            path,
            "has no end: it is cut off, or one of several parts. Fetch it again; or unpack it, "
            "and name the folder",
        )


def _is_end_of_rar4(block: bytes) -> bool:
    size = int.from_bytes(block[5:7], "little")
    crc = int.from_bytes(block[:2], "little")
    return block[2:3] == b"\x7b" and size >= 7 and crc == zlib.crc32(block[2:size]) & 0xFFFF


def _is_end_of_rar5(block: bytes) -> bool:
    size = block[4] if len(block) > 5 else 0
    crc = int.from_bytes(block[:4], "little")
    return size > 0 and block[5] == 5 and crc == zlib.crc32(block[4 : 5 + size])


def _checked(path: Path, stream: "_Pipe", member: Member) -> Iterator[bytes]:
    crc = 0
    damaged = ArchiveError(
        path,
        f"{member.name!a} in it is damaged, or too new for the program that reads it (unrar knows "
        "more than unar)",
    )
    for piece in pieces_of(stream.read, member.num_bytes, damaged):
        crc = zlib.crc32(piece, crc)
        yield piece
    if member.crc32 is not None and crc != member.crc32:
        raise damaged


def _program(path: Path) -> str:
    if shutil.which("unrar") and _is_real_unrar():
        return "unrar"
    if shutil.which("unar") and shutil.which("lsar"):
        return "unar"
    raise ArchiveError(path, INSTALL)


def _is_real_unrar() -> bool:
    """Return whether `unrar` is RARLAB's program; another program has the same name."""
    try:
        done = subprocess.run(["unrar"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"Roshal" in done.stdout


def _list_by_lsar(path: Path) -> tuple[Member, ...]:
    text = _listing(path, ["lsar", "-j", "-p", "", str(path.absolute())])
    unreadable = ArchiveError(path, "cannot be listed by lsar; it is damaged, or not a rar archive")
    try:
        listed = json.loads(text)
        contents = listed["lsarContents"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise unreadable from None
    if not isinstance(contents, list) or not all(isinstance(entry, dict) for entry in contents):
        raise unreadable
    if listed.get("lsarError"):
        raise unreadable
    entries = Entries(path, path.stat().st_size)
    for entry in contents:
        name, size = entry.get("XADFileName"), entry.get("XADFileSize")
        if not isinstance(name, str) or type(entry.get("XADFileSize", 0)) is not int:
            raise unreadable
        if entry.get("XADIsDirectory"):
            entries.add_folder(name)
            continue
        if entry.get("XADIsEncrypted"):
            raise entries.refuse(name, "which is encrypted")
        kind = _unix_kind(entry)
        if entry.get("XADIsLink") or entry.get("RAR5RedirectionType") or kind not in (0, 0o100000):
            raise entries.refuse(name, "which is not a regular file")
        crc = entry.get("RAR5CRC32", entry.get("RARCRC32"))
        if size is None or not isinstance(crc, int | None):
            raise unreadable
        entries.add(Member(entries.count, clean_name(path, name), size, crc32=crc))
    return entries.done()


def _unix_kind(entry: dict[str, Any]) -> int:
    """Return the type bits of an entry's Unix file mode: 0 without a mode, -1 if it is invalid."""
    mode = entry.get("XADPosixPermissions", 0)
    if entry.get("RAR5OS") == 1:
        mode = entry.get("RAR5Attributes", 0)
    return mode & 0o170000 if isinstance(mode, int) else -1


def _list_by_unrar(path: Path) -> tuple[Member, ...]:
    text = _listing(path, ["unrar", "lt", "-cfg-", "-p-", str(path.absolute())])
    entries = Entries(path, path.stat().st_size)
    # An entry is a block of `key: value` lines; a name with a line break is rejected below.
    for block in re.split(r"\n[ \t]*\n", text.decode(errors="surrogateescape")):
        lines = [line.strip() for line in block.split("\n") if ": " in line]
        fields = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
        if "Name" not in fields:
            continue
        if len(fields) != len(lines):
            raise ArchiveError(path, "holds a name with a line break")
        name, kind = fields["Name"], fields.get("Type")
        if kind == "Directory":
            entries.add_folder(name)
            continue
        if kind != "File":
            raise entries.refuse(name, f"of the kind {kind}")
        if "encrypted" in fields.get("Flags", ""):
            raise entries.refuse(name, "which is encrypted")
        size, crc = fields.get("Size", ""), fields.get("CRC32")
        if not size.isdecimal() or (crc and not re.fullmatch("[0-9A-F]{8}", crc)):
            raise ArchiveError(path, "cannot be listed by unrar")
        number = int(crc, 16) if crc else None
        entries.add(Member(entries.count, clean_name(path, name), int(size), crc32=number))
    return entries.done()


def _listing(path: Path, command: Sequence[str]) -> bytes:
    with _printed(path, command) as stream:
        text = stream.read(MAX_LISTING_BYTES)
        if stream.read(1):
            raise ArchiveError(path, "lists more files than are accepted")
        return text


class _Pipe:
    """The output of a program, which is read like a file but with a time limit."""

    def __init__(self, path: Path, program: str, descriptor: int):
        self._path, self._program, self._descriptor = path, program, descriptor

    def read(self, num_bytes: int) -> bytes:
        """Return the requested number of bytes, or fewer at the end of the output."""
        found = bytearray()
        while len(found) < num_bytes:
            if not select.select([self._descriptor], [], [], SILENCE_SECONDS)[0]:
                raise ArchiveError(
                    self._path, f"{self._program} printed nothing for {SILENCE_SECONDS:.0f} s"
                )
            piece = os.read(self._descriptor, min(num_bytes - len(found), PIECE_BYTES))
            if not piece:
                break
            found += piece
        return bytes(found)


@contextmanager
def _printed(path: Path, command: Sequence[str]) -> Iterator[_Pipe]:
    """Run a program that may only print, and yield its output; raise an error if it fails."""
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            ["/bin/sh", "-c", CONFINED, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": empty, "LC_ALL": "C.UTF-8"}
            | {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        )
        assert process.stdout is not None
        try:
            with process.stdout:
                yield _Pipe(path, command[0], process.stdout.fileno())
            code = process.wait(SILENCE_SECONDS)
        except subprocess.TimeoutExpired:
            code = "does not end"
        finally:
            process.kill()
            process.wait()
    if code:
        raise ArchiveError(
            path,
            f"cannot be read by {command[0]} (exit {code}): it is damaged, encrypted, or too new "
            "for that program",
        )
