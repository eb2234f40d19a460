"""Limits for untrusted zip files, and a check that their members share no bytes.

zipfile loads all entries of a directory before the entries can be counted, so the directory's size
is limited. Python 3.11 reads overlapping members (CVE-2024-0450), so overlaps are detected here.
"""

import zipfile
from collections.abc import Iterable

MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 32 << 20  # enough for 200,000 names of 100 characters
# An archive may unpack to this many bytes, or to this many times the archive's size: videos are
# already compressed, so an archive is about as large as the videos in it.
MAX_CONTENT_BYTES, MAX_EXPANSION = 4 << 30, 20
LOCAL_BYTES = 30  # size of the header before a member's name and bytes


def overlap(members: Iterable[zipfile.ZipInfo], directory: int) -> str | None:
    """Return the problem if members overlap, as in a zip bomb, or reach the directory; else None.

    Args:
        directory: offset of the archive's directory in bytes.
    """
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            return f"{member.filename!a} in it lies over another file"
        end = member.header_offset + LOCAL_BYTES + member.compress_size
    return "holds files that reach into its directory" if end > directory else None
