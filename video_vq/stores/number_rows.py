"""Reader of tables of numbers, with one row per video frame, in .npy or .csv files."""

import csv
import os
import stat
from pathlib import Path

import numpy as np
from jaxtyping import Float32

MAX_BYTES, MAX_CSV_BYTES = 256 << 20, 16 << 20  # a CSV file takes about 60 times its size in memory
SUFFIXES = (".npy", ".csv")


def read_rows(path: Path, axes: tuple[int, ...] = (1, 2)) -> Float32[np.ndarray, "*s t n"]:
    """Return an array with one row of numbers per frame.

    A .npy array has one axis (one number per frame, returned as t 1), two axes (t n), or three axes
    (s t n) for s sequences. A .csv file has a row of comma-separated numbers per frame, and may
    begin with a row of column names.

    Args:
        path: the .npy or .csv file.
        axes: allowed numbers of axes in a .npy array.

    Raises:
        ValueError: the file cannot be read, is too large or is not such a table, or a value is not
            a finite float32; the message does not name the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        is_csv = path.suffix.lower() == ".csv"
        most = MAX_CSV_BYTES if is_csv else MAX_BYTES
        if status.st_size > most:
            raise ValueError(f"has {status.st_size:,} bytes, more than {most:,}")
        data = file.read(most) if is_csv else b""
    if is_csv:
        rows = _from_csv(data)
    elif path.suffix.lower() == ".npy":
        rows = _from_npy(path, axes)
    else:
        raise ValueError(f"expected a name ending in {' or '.join(SUFFIXES)}")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    finite = np.isfinite(rows).all(axis=-1)
    if not finite.all():
        *sequence, row = np.argwhere(~finite)[0].tolist()
        where = f"of sequence {sequence[0]} " if sequence else ""
        raise ValueError(f"row {row} {where}(from 0) holds a number that is not finite")
    return rows


def _from_npy(path: Path, axes: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # never unpickles
    except Exception as error:  # NumPy's header parser may raise any error
        raise ValueError(f"is not an array of numbers ({type(error).__name__}: {error})") from None
    if array.dtype.kind not in "fiu" or array.ndim not in axes or not array.size:
        wanted = "(frames, n)" + (" or (sequences, frames, n)" if 3 in axes else "")
        raise ValueError(
            f"expected numbers of shape {wanted}, found {array.dtype} of shape {array.shape}"
        )
    return array[:, None] if array.ndim == 1 else array


def _from_csv(data: bytes) -> np.ndarray:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    rows: list[list[float]] = []
    try:
        for number, cells in enumerate(csv.reader(lines, strict=True), 1):
            if not any(cell.strip() for cell in cells):
                continue
            try:
                row = [float(cell) for cell in cells]
            except ValueError:
                if number == 1:
                    continue  # the names of the columns
                raise ValueError(f"line {number}: expected numbers, found {cells!r:.80}") from None
            if rows and len(row) != len(rows[0]):
                raise ValueError(f"line {number}: {len(row)} numbers, {len(rows[0])} before")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"is not a CSV file ({error})") from None
    if not rows:
        raise ValueError("holds no numbers")
    return np.array(rows, np.float64)
