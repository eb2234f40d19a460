"""Limits for untrusted zip files, and a check that their members share no bytes.

zipfile loads every entry of a directory before they can be counted, so the size of the directory is
limited; and Python 3.11 reads overlapping members (CVE-2024-0450), so these are detected here.
"""

import zipfile
from collections.abc import Iterable

MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 32 << 20  # what 200,000 names of 100 letters take
# An archive may unpack to this much, or to this many times its own size: videos are compressed
# already, so that an archive of them is about as large as they are.
MAX_CONTENT_BYTES, MAX_EXPANSION = 4 << 30, 20
LOCAL_BYTES = 30  # size of the header before a member's name and bytes


def overlap(members: Iterable[zipfile.ZipInfo], directory: int) -> str | None:
    """Return the problem if members share bytes, a trick by which 40 kB could hold 5 GB.

    Args:
        directory: offset of the archive's directory in bytes.
    """
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            return f"{member.filename!a} in it lies over another file"
        end = member.header_offset + LOCAL_BYTES + member.compress_size
    return "holds files that reach into its directory" if end > directory else None
