"""Reader of columns from untrusted Parquet files; no other module uses pyarrow."""

import importlib.util
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from video_vq.errors import InputError

MAX_FILE_BYTES = 2 << 30
MAX_VALUES = 1 << 28  # number of values per column
MAX_TEXT_BYTES = 1 << 28  # decoded size of a text column
MAX_COLUMN_BYTES = 1 << 31  # uncompressed size of any wanted column, as stated by the file
MAX_HEADER_BYTES = 1 << 28  # size of any string in the file's metadata
BUFFER_BYTES = 1 << 20  # number of bytes of a column that are read at a time
BATCH_VALUES, COLUMN_ROWS = 1 << 20, 1 << 18  # batch sizes of `RowReader.read` and `integers`

Kind = Literal["integer", "number", "vector", "texts"]
Column = np.ndarray | list[list[str]]


class TableError(InputError):
    """Error for a Parquet file that cannot be used; `reason` is the message without the path."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def require_pyarrow() -> None:
    """Raise an error unless pyarrow is installed.

    Raises:
        InputError: pyarrow is missing; the message says how to install it.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            "pyarrow, which reads LeRobot's tables, is not installed; "
            "install it with `pip install 'video-vq[lerobot]'`"
        )


def read_columns(path: Path, wanted: Mapping[str, tuple[Kind, int]]) -> dict[str, Column]:
    """Return columns of a Parquet file, all of equal length.

    Args:
        path: path of the file.
        wanted: mapping from column name to kind and width. The kinds "integer" (int64) and "number"
            (float64) give an array with one axis, "vector" gives float32 of shape rows x width, and
            "texts" gives a list of strings for each row. Only "vector" uses the width.

    Raises:
        TableError: the file cannot be read, is not a valid Parquet file, is too large, lacks a
            column, or has a column of the wrong type or width or with missing values.
    """
    with _reading(path):
        with _opened(path, wanted) as file:
            _check_sizes(path, file.metadata, wanted)
            table = file.read(columns=list(wanted), use_threads=False)
        table.validate(full=True)
        return {
            name: _convert(path, name, table.column(name).combine_chunks(), *kind_and_width)
            for name, kind_and_width in wanted.items()
        }


class RowReader:
    """Reader of row ranges of a Parquet file; keeps only one batch of rows in memory.

    Reading consecutive ranges continues from the current batch. Batches never span row groups, so
    the rows that a damaged page makes unreadable do not depend on earlier reads.

    Args:
        path: path of the file.
        wanted: columns to read, as for `read_columns`, but without the kind "texts".

    Raises:
        TableError: the file cannot be read, is not a Parquet file, is too large, or lacks a column.
    """

    def __init__(self, path: Path, wanted: Mapping[str, tuple[Kind, int]]):
        self._path = path
        self._wanted = dict(wanted)
        self._batch_rows = max(BATCH_VALUES // sum(width for _, width in wanted.values()), 1)
        with _reading(path):
            self._file = _opened(path, wanted)
            metadata = self._file.metadata
            sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        if any(size < 0 for size in sizes):
            raise TableError(path, "announces a negative number of rows")
        self._firsts = [0, *accumulate(sizes)]
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._batch: dict[str, np.ndarray] = {}
        self._batch_first = self._batch_end = 0

    def integers(self, name: str) -> Iterator[np.ndarray]:
        """Yield a column of integers in chunks.

        Raises:
            TableError: the column is damaged or has the wrong type; raised during iteration.
        """
        with _reading(self._path):
            for batch in self._file.iter_batches(COLUMN_ROWS, columns=[name], use_threads=False):
                batch.validate(full=True)
                yield np.asarray(_convert(self._path, name, batch.column(name), "integer", 1))

    def read(self, first: int, count: int) -> dict[str, np.ndarray]:
        """Return all wanted columns for a range of rows.

        Args:
            first: index of the first row in the file.
            count: number of rows, at least 1.

        Raises:
            TableError: the rows do not exist or are damaged, or a column has the wrong type.
        """
        parts: list[dict[str, np.ndarray]] = []
        row, end = first, first + count
        while row < end:
            self._seek(row)
            begin = row - self._batch_first
            parts.append(
                {name: column[begin : begin + end - row] for name, column in self._batch.items()}
            )
            row = self._batch_end
        return {name: np.concatenate([part[name] for part in parts]) for name in self._wanted}

    def close(self) -> None:
        """Close the file."""
        self._batches, self._batch = iter(()), {}
        self._file.close()

    def _seek(self, row: int) -> None:
        """Read batches until the current batch contains a given row."""
        if not 0 <= row < self._firsts[-1]:
            raise TableError(self._path, f"has no row {row:,}")
        group = bisect_right(self._firsts, row) - 1
        if group != self._group or row < self._batch_first:
            self._batches = self._file.iter_batches(
                self._batch_rows, [group], list(self._wanted), use_threads=False
            )
            self._batch_first = self._batch_end = self._firsts[group]
        while row >= self._batch_end:
            self._group = -1  # after a failure, the next read starts over
            with _reading(self._path):
                batch = next(self._batches, None)
                if batch is None:
                    raise TableError(self._path, "holds fewer rows than it announces")
                batch.validate(full=True)
                self._batch = {
                    name: np.asarray(_convert(self._path, name, batch.column(name), *kind))
                    for name, kind in self._wanted.items()
                }
            self._batch_first, self._batch_end = self._batch_end, self._batch_end + batch.num_rows
            self._group = group


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the exceptions that reading a file with pyarrow raises into a TableError."""
    import pyarrow as pa

    try:
        yield
    except TableError:
        raise
    except OSError as error:
        raise TableError(path, f"cannot be read ({_short(error)})") from None
    except (pa.ArrowException, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise TableError(path, f"is not a readable Parquet file ({_short(error)})") from None


def _opened(path: Path, wanted: Iterable[str]) -> Any:
    """Return an open Parquet file that has all wanted columns; call only inside `_reading`."""
    from pyarrow import parquet

    if path.stat().st_size > MAX_FILE_BYTES:
        raise TableError(path, f"is larger than {MAX_FILE_BYTES:,} bytes")
    file = parquet.ParquetFile(
        path,
        thrift_string_size_limit=MAX_HEADER_BYTES,
        pre_buffer=False,
        buffer_size=BUFFER_BYTES,
        page_checksum_verification=True,
    )
    missing = sorted(set(wanted) - set(file.schema_arrow.names))
    if missing:
        file.close()
        raise TableError(path, f"has no column {', '.join(missing)}")
    return file


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]


def _check_sizes(path: Path, metadata: Any, wanted: Iterable[str]) -> None:
    """Raise a TableError if the metadata declare too much data in a wanted column."""
    for number in range(metadata.num_columns):
        num_bytes = values = 0
        for group in range(metadata.num_row_groups):
            column = metadata.row_group(group).column(number)
            name = column.path_in_schema
            if not any(name == want or name.startswith(f"{want}.") for want in wanted):
                continue
            values += column.num_values
            num_bytes += column.total_uncompressed_size
            if values > MAX_VALUES:
                raise TableError(path, f"column {name} holds more than {MAX_VALUES:,} values")
            if num_bytes > MAX_COLUMN_BYTES:
                raise TableError(path, f"column {name} holds more than {MAX_COLUMN_BYTES:,} bytes")


def _convert(path: Path, name: str, array: Any, kind: Kind, width: int) -> Column:
    import pyarrow as pa

    lists = (pa.types.is_list(array.type), pa.types.is_large_list(array.type))
    is_list = any(lists) or pa.types.is_fixed_size_list(array.type)
    inner = array.type.value_type if is_list else array.type
    fits = {
        "integer": not is_list and pa.types.is_integer(inner),
        "number": not is_list and (pa.types.is_floating(inner) or pa.types.is_integer(inner)),
        "vector": pa.types.is_floating(inner) or pa.types.is_integer(inner),
        "texts": is_list and (pa.types.is_string(inner) or pa.types.is_large_string(inner)),
    }
    if not fits[kind]:
        raise TableError(path, f"column {name}: expected {kind}, found {array.type}")
    flat = array.flatten() if is_list else array
    if array.null_count or flat.null_count:
        raise TableError(path, f"column {name}: a value is missing")
    if kind == "texts":
        if flat.nbytes > MAX_TEXT_BYTES:
            raise TableError(path, f"column {name}: more than {MAX_TEXT_BYTES:,} bytes of text")
        return array.to_pylist()
    values = flat.to_numpy(zero_copy_only=False)
    if kind == "vector":
        if is_list and not pa.types.is_fixed_size_list(array.type):
            lengths = np.diff(array.offsets.to_numpy())
            if (lengths != width).any():
                raise TableError(path, f"column {name}: a row does not hold {width} numbers")
        if len(values) != len(array) * width:
            raise TableError(path, f"column {name}: a row does not hold {width} numbers")
        return values.astype(np.float32).reshape(len(array), width)
    return values.astype(np.int64 if kind == "integer" else np.float64)
