"""File formats, hashes and atomic writes.

An atomic write completes a temporary file first and then renames it to its final name.
"""

import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from video_vq.errors import InputError

PARTIAL = ".partial"
CACHE = "VIDEO_VQ_CACHE"  # the environment variable that may name the cache folder
HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # a sha256; the group has its first 12 digits


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value such that equal values give equal bytes; reject NaN and infinity."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )
    return text.encode()


def write(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all bytes to a file; a separate function so that tests can make any write fail."""
    file.write(data)


def fsync(descriptor: int) -> None:
    """Flush a descriptor to disk; a separate function so that tests can make any flush fail."""
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename source to target atomically; a separate function so tests can make renames fail."""
    os.replace(source, target)


def fsync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that renames inside the folder persist after a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_aside(path: Path) -> Iterator[io.BufferedRandom]:
    """Yield a temporary file that is flushed to disk and renamed to `path` on success.

    On error, the temporary file is removed and `path` is unchanged.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "w+b") as file:
            yield file
            file.flush()
            fsync(file.fileno())
        rename(partial, path)
        fsync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file atomically."""
    with written_aside(path) as file:
        write(file, data)


def write_shared(path: Path, data: bytes) -> None:
    """Write a whole file atomically, even if other processes write the same file.

    Each process writes in a temporary folder of its own and then renames the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="store-") as own:
        written = Path(own, path.name)
        write_bytes(written, data)
        rename(written, path)
        fsync_folder(path.parent)


def cache_folder() -> Path:
    """Return the cache folder: $VIDEO_VQ_CACHE, or video-vq/ in the user's cache folder."""
    if named := os.environ.get(CACHE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: relative paths are invalid and ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "video-vq"


def safetensors_parts(
    tensors: Mapping[str, tuple[str, Sequence[int], memoryview]],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in parts; the bytes do not depend on the version of any library.

    The file consists of the length of the header, the header, and the data without gaps:
    https://huggingface.co/docs/safetensors.

    Args:
        tensors: mapping from each name to the dtype as safetensors spells it, the shape, and the
            little-endian data; the tensors are written in the order of the mapping.
        metadata: strings to store in the header; None for no metadata.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        start, end = end, end + data.nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for _, _, data in tensors.values():
        yield data


def readable_json(value: Any) -> bytes:
    """Encode a JSON value with sorted keys and indentation; reject NaN and infinity."""
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; see `readable_json`."""
    write_bytes(path, readable_json(value))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the JSON file.
        what: description of the expected contents, for error messages.

    Raises:
        InputError: the file is missing, unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (expected {what})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {what} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: {what} must be a JSON object, found {type(value).__name__}")
    return value


def damage(path: Path, sha256: str) -> str | None:
    """Return a line that describes the damage to a file, or None if the file is intact.

    Args:
        path: the file to check.
        sha256: hash of the file when it was written.
    """
    try:
        found = sha256_file(path)
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror or error})"
    if found != sha256:
        return f"{path}: its bytes are not those that were written (sha256 differs)"
    return None


def write_array(path: Path, array: np.ndarray) -> str:
    """Write an array to a .npy file atomically, and return the file's SHA-256."""
    with ArrayFile(path, array.shape[1:], array.dtype) as file:
        file.append(array)
    return file.sha256


class ArrayFile:
    """Writer of a .npy file that grows along the first axis in constant memory.

    Use the writer as a context manager and `append` rows. The file appears at its path after a
    clean exit, which also sets `sha256`.

    Args:
        path: the .npy file to write.
        row_shape: shape of one row, without the first axis.
        dtype: dtype of the file.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.dtype | type):
        self.path = path
        self.row_shape = tuple(row_shape)
        self.dtype = np.dtype(dtype)
        self.num_rows = 0
        self.sha256 = ""

    def __enter__(self) -> "ArrayFile":
        self._context = written_aside(self.path)
        self._file = self._context.__enter__()
        self._write_header()
        self._header_size = self._file.tell()
        return self

    def append(self, rows: np.ndarray) -> None:
        """Append rows, which must have the row shape and dtype of the file."""
        if rows.shape[1:] != self.row_shape or rows.dtype != self.dtype:
            raise ValueError(
                f"{self.path.name} holds rows of {self.row_shape} {self.dtype}, "
                f"got {rows.shape[1:]} {rows.dtype}"
            )
        if rows.size:
            write(self._file, np.ascontiguousarray(rows).data.cast("B"))
        self.num_rows += len(rows)

    def truncate(self, num_rows: int) -> None:
        """Remove rows from the end, so that `num_rows` remain."""
        if not 0 <= num_rows <= self.num_rows:
            raise ValueError(f"{self.path.name} holds {self.num_rows} rows, not {num_rows}")
        self._file.flush()
        end = self._header_size + num_rows * math.prod(self.row_shape) * self.dtype.itemsize
        self._file.truncate(end)
        self._file.seek(end)
        self.num_rows = num_rows

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._context.__exit__(*error)
            return
        try:
            self._file.seek(0)
            self._write_header()
            self._file.flush()
            self._file.seek(0)
            self.sha256 = hashlib.file_digest(self._file, "sha256").hexdigest()
        except BaseException as failure:
            self._context.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._context.__exit__(None, None, None)

    def _write_header(self) -> None:
        # NumPy pads the header so that the first axis can grow; both headers are equally long.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *self.row_shape),
        }
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, header)
        write(self._file, buffer.getvalue())


def open_array(path: Path, row_shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Map a .npy file into memory, read-only, and check its header.

    Args:
        path: the .npy file.
        row_shape: expected shape, without the first axis.
        dtype: expected dtype.

    Raises:
        InputError: the file is missing or damaged, or its shape or dtype differs.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the store is incomplete") from None
    except Exception as error:  # NumPy's header parser may raise any error
        raise InputError(f"{path}: not a readable .npy array: {error}") from None
    same_rows = array.ndim == 1 + len(row_shape) and array.shape[1:] == tuple(row_shape)
    if not same_rows or array.dtype != np.dtype(dtype):
        raise InputError(
            f"{path}: expected rows of {tuple(row_shape)} {np.dtype(dtype)}, "
            f"found {array.shape[1:]} {array.dtype}"
        )
    return array


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """Return a line `name: old -> new` for each setting that differs between two JSON values.

    Args:
        old, new: the values to compare.
        path: dotted name of the setting that contains both values; empty for the top level.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else str(key)
            if key not in old:
                lines.append(f"{inner}: (absent) -> {new[key]!r}")
            elif key not in new:
                lines.append(f"{inner}: {old[key]!r} -> (absent)")
            else:
                lines += difference(old[key], new[key], inner)
        return lines
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def told_difference(old: Any, new: Any) -> list[str]:
    """Return the lines of `difference` that help a user.

    Lines with hashes are omitted if another setting differs, because they then add nothing.
    Otherwise, each hash is shortened.
    """
    lines = difference(old, new)
    settings = [line for line in lines if not HASH.search(line)]
    return settings or [HASH.sub(r"\1…", line) for line in lines]
