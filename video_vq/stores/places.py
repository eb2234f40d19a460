"""Checks an output path before anything is computed for it."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from video_vq.errors import InputError
from video_vq.stores.shards import MANIFEST

ENOUGH = 1 << 16  # bytes, too many for a full disk


def require_out(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Refuse an output that is one of the inputs or cannot be written.

    Nothing will be written to a finished store, so it may lie on a read-only disk.

    Args:
        out: folder to create or to fill.
        inputs: path of each input by its name in messages; None if it was not given.

    Raises:
        InputError: the output is an input, or cannot be written; the message names the input or the
            reason.
    """
    require_not_input(out, inputs)
    if not os.path.exists(out / MANIFEST):
        require_writable(out)


def require_not_input(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Refuse an output that is one of the inputs; see `require_out`."""
    for what, path in inputs.items():
        if path is not None and os.path.realpath(out) == os.path.realpath(path):
            raise InputError(f"{out}: is the {what} itself; name another place for the output")


def require_writable(out: Path) -> None:
    """Refuse a folder that cannot be made or written to, without leaving a trace.

    Raises:
        InputError: the path is a file, or no file can be created in it or in the folder above it.
    """
    folder = _nearest(out)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ENOUGH))
            file.flush()
    except OSError as error:
        raise InputError(
            f"{out}: is not a writable folder ({error.strerror or error}); free some space or "
            "name another place"
        ) from None


def require_room(out: Path, num_bytes: int) -> None:
    """Raise if the output does not fit on a folder's disk.

    Args:
        out: the folder; it need not exist yet.
        num_bytes: number of bytes that have yet to be written.

    Raises:
        InputError: the output does not fit; the message gives both sizes.
    """
    free = shutil.disk_usage(_nearest(out)).free
    if num_bytes > free:
        raise InputError(
            f"{out}: will take {num_bytes / 1e9:,.3g} GB, its disk has {free / 1e9:,.3g} GB left; "
            "free some space, or name a folder on another disk"
        )


def _nearest(path: Path) -> Path:
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path
