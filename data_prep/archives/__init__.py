"""Reader of untrusted video archives, with limits on sizes and counts.

No library or tool unpacks files to disk: external programs may only print to a pipe, and `unpack`
names each file by a hash. An archive is rejected as a whole if it exceeds a limit or contains a
link, a device or a name that points outside the target folder.
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
    """The checked listing of an archive, which has not been unpacked.

    Attributes:
        path: path of the archive.
        kind: archive format, detected from the first bytes and not from the file name.
        members: regular files in the archive, in archive order.
    """

    path: Path
    kind: Kind
    members: tuple[Member, ...]

    def contents(self, wanted: Collection[Member]) -> Contents:
        """Yield each wanted member with its bytes in chunks, in archive order.

        The chunks of a member must be read before the next member is requested.

        Raises:
            ArchiveError: the archive cannot be read or is damaged, or a member's size differs from
                the listing.
        """
        read = {"tar": tar_contents, "zip": zip_contents, "rar": rar_contents}[self.kind]
        return read(self.path, self.members, frozenset(wanted))


def read_archive(path: Path) -> Archive:
    """Return the listing of an archive's regular files.

    Raises:
        ArchiveError: the file cannot be read, is not a supported archive, is malicious or damaged,
            or is a rar archive and no program that reads rar is installed.
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
    """Write members of an archive to a folder, at the paths that `unpacked_path` returns.

    Each file is written atomically, and existing files are kept, so a repeated call resumes.

    Args:
        archive: archive to read.
        wanted: members to write.
        folder: output folder, created if missing.
        on_file: function that is called for each wanted member once its file exists.

    Raises:
        ArchiveError: as for `Archive.contents`.
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
    """Return the path to which `unpack` writes a member: a hash of the name plus the extension.

    An extension that is long or contains unusual characters is dropped.
    """
    suffix = Path(name).suffix.lower()
    plain = suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) < 8 else ""
    return folder / (hashlib.sha256(name.encode()).hexdigest() + plain)
