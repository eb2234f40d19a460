"""Reads columns of Parquet files without trusting them; the only file that knows pyarrow."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from video_vq.errors import InputError

MAX_FILE_BYTES = 2 << 30
MAX_VALUES = 1 << 28  # of one column
MAX_TEXT_BYTES = 1 << 28  # of one column, decoded
MAX_HEADER_BYTES = 1 << 28  # of any text in the file's own description

Kind = Literal["integer", "number", "vector", "texts"]
Column = np.ndarray | list[list[str]]


class TableError(InputError):
    """A Parquet file cannot be used; `reason` says why, without the path."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def require_pyarrow() -> None:
    """Raise unless pyarrow is installed.

    Raises:
        InputError: says how to install it.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            "pyarrow, which reads LeRobot's tables, is not installed; "
            "install it with `pip install 'video-vq[lerobot]'`"
        )


def read_columns(path: Path, wanted: Mapping[str, tuple[Kind, int]]) -> dict[str, Column]:
    """Return columns of a Parquet file, all of one length.

    Args:
        path: of the file.
        wanted: name -> kind and width: "integer" (int64) and "number" (float64) give an array of
            one axis, "vector" float32 of shape rows x width, "texts" a list of texts per row
            (width is not used).

    Raises:
        TableError: the file is no Parquet file, is too large, lacks a column or holds it otherwise.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TableError(path, f"is larger than {MAX_FILE_BYTES:,} bytes")
        with parquet.ParquetFile(
            path, thrift_string_size_limit=MAX_HEADER_BYTES, pre_buffer=False
        ) as file:
            missing = sorted(set(wanted) - set(file.schema_arrow.names))
            if missing:
                raise TableError(path, f"has no column {', '.join(missing)}")
            _check_sizes(path, file.metadata, wanted)
            table = file.read(columns=list(wanted), use_threads=False)
        table.validate(full=True)
        return {
            name: _convert(path, name, table.column(name).combine_chunks(), *kind_and_width)
            for name, kind_and_width in wanted.items()
        }
    except TableError:
        raise
    except OSError as error:
        raise TableError(path, f"cannot be read ({_short(error)})") from None
    except (pa.ArrowException, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise TableError(path, f"is no Parquet file that can be read ({_short(error)})") from None


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]


def _check_sizes(path: Path, metadata: Any, wanted: Iterable[str]) -> None:
    """Refuse a file whose own description asks for too much."""
    for number in range(metadata.num_columns):
        texts = values = 0
        for group in range(metadata.num_row_groups):
            column = metadata.row_group(group).column(number)
            name = column.path_in_schema
            if not any(name == want or name.startswith(f"{want}.") for want in wanted):
                break
            values += column.num_values
            texts += column.total_uncompressed_size
            if values > MAX_VALUES or texts > MAX_TEXT_BYTES * 8:
                raise TableError(path, f"column {name} holds more than {MAX_VALUES:,} values")


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
