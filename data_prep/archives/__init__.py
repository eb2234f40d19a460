"""Reads untrusted archives of videos: only regular files, by number instead of name, with limits.

No library or tool unpacks files: tools may only print to a pipe, and files are written under names
that we choose. An archive is refused as a whole if it holds a link, a device or a name that leads
out of its folder, or exceeds the limits.
"""

import hashlib
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.archives.members import ArchiveError, Contents, Member, open_archive
from data_prep.archives.rar import RAR_MAGICS, rar_contents, rar_members
from data_prep.archives.tar import looks_like_tar, tar_contents, tar_members
from data_prep.archives.zip import ZIP_MAGICS, zip_contents, zip_members
from video_vq.stores.files import write, written_aside

Kind = Literal["tar", "zip", "rar"]
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
HEAD_BYTES = 512


@dataclass(frozen=True)
class Archive:
    """The checked contents of an archive; nothing is unpacked.

    Attributes:
        path: path of the archive.
        kind: format according to its first bytes, regardless of its name.
        members: regular files of the archive, in order.
    """

    path: Path
    kind: Kind
    members: tuple[Member, ...]

    def contents(self, wanted: Collection[Member]) -> Contents:
        """Yield wanted members with their bytes in pieces, to be read before the next member.

        Raises:
            ArchiveError: the archive is damaged, or holds more or less than it announces.
        """
        read = {"tar": tar_contents, "zip": zip_contents, "rar": rar_contents}[self.kind]
        return read(self.path, self.members, frozenset(wanted))


def read_archive(path: Path) -> Archive:
    """List an archive's regular files.

    Raises:
        ArchiveError: the file is not an archive, is hostile or damaged, or no installed tool reads
            it.
    """
    with open_archive(path) as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(ZIP_MAGICS):
        return Archive(path, "zip", zip_members(path))
    if head.startswith(RAR_MAGICS):
        return Archive(path, "rar", rar_members(path))
    if looks_like_tar(head):
        return Archive(path, "tar", tar_members(path))
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise ArchiveError(path, f"is compressed with {name}; uncompress it first")
    if not head:
        raise ArchiveError(path, "is empty: 0 bytes; fetch it again")
    raise ArchiveError(
        path, "is not a tar, zip or rar archive; name one, or the folder that holds the files"
    )


def unpack(
    archive: Archive, wanted: Collection[Member], folder: Path, on_file: Callable[[], object]
) -> None:
    """Write members into a folder under names that we choose (see `unpacked_path`).

    Each file appears complete, after fsync, and existing ones are kept, so a second start resumes.

    Args:
        archive: the archive to read.
        wanted: the members to write.
        folder: output folder, created if missing.
        on_file: function that is called for each member that is written.

    Raises:
        ArchiveError: the archive is damaged.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for member in wanted:
        if unpacked_path(folder, member.name).exists():
            on_file()
        else:
            missing.append(member)
    if not missing:
        return
    with closing(archive.contents(missing)) as contents:
        for member, pieces in contents:
            with written_aside(unpacked_path(folder, member.name)) as file:
                for piece in pieces:
                    write(file, piece)
            on_file()


def unpacked_path(folder: Path, name: str) -> Path:
    """Return the path that `unpack` gives a member, which keeps only a plain ending of its name."""
    suffix = Path(name).suffix.lower()
    plain = suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) < 8 else ""
    return folder / (hashlib.sha256(name.encode()).hexdigest() + plain)
