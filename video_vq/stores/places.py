"""Checks of output paths, made before anything is computed."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from video_vq.errors import InputError
from video_vq.stores.shards import MANIFEST

ENOUGH = 1 << 16  # number of bytes written to test whether the disk is full


def require_out(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Raise an error if an output folder is one of the inputs or cannot be written.

    A finished store may be on a read-only disk, because nothing will be written to the store.

    Args:
        out: folder to create or to fill.
        inputs: mapping from the description of each input, for messages, to the input's path, or
            None if the input was not given.

    Raises:
        InputError: the output is one of the inputs, or cannot be written.
    """
    require_not_input(out, inputs)
    if not os.path.exists(out / MANIFEST):
        require_writable(out)


def require_not_input(out: Path, inputs: Mapping[str, Path | None]) -> None:
    """Raise an error if an output is one of the inputs; see `require_out`."""
    for what, path in inputs.items():
        if path is not None and os.path.realpath(out) == os.path.realpath(path):
            raise InputError(f"{out}: is the {what} itself; name another place for the output")


def require_writable(out: Path) -> None:
    """Raise an error if a folder cannot be created or written to; leave nothing on the disk.

    Raises:
        InputError: the path or a parent is a file, the folder (or its nearest existing parent) is
            not writable, or the disk is full.
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
    """Raise an error if the disk lacks room for the output.

    Args:
        out: output folder, which need not exist yet.
        num_bytes: number of bytes still to be written.

    Raises:
        InputError: the output does not fit; the message gives both sizes.
    """
    free = shutil.disk_usage(_nearest(out)).free
    if num_bytes > free:
        raise InputError(
            f"{out}: will take {num_bytes / 1e9:,.3g} GB, its disk has {free / 1e9:,.3g} GB left; "
            "free some space, or name a folder on another disk"
        )


def unused(path: Path) -> Path:
    """Return `path` if nothing exists there, else `path` with the first unused number from 2 on."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def beside(path: Path, name: str) -> Path:
    """Return an unused path with a given name next to `path`, which may be `.` or `..`."""
    return unused(folder_of(path) / name)


def folder_of(path: Path) -> Path:
    """Return the folder that contains a path, even for `.` and `..`, where `parent` is wrong."""
    if path.name not in ("", ".."):
        return path.parent
    folder = Path(os.path.abspath(path)).parent
    return folder if path.is_absolute() else Path(os.path.relpath(folder))


def _nearest(path: Path) -> Path:
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path
