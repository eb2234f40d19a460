"""Finds and memory-maps arrays in .npy, .npz and .safetensors files; nothing is unpickled.

Headers are not trusted: shapes and types are checked against the actual file size.
"""

import functools
import io
import json
import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from video_vq.errors import InputError
from video_vq.media.probe import UnreadableVideoError
from video_vq.media.zip_limits import (
    LOCAL_BYTES,
    MAX_CONTENT_BYTES,
    MAX_DIRECTORY_BYTES,
    MAX_EXPANSION,
    MAX_MEMBERS,
    overlap,
)

AS_ARRAY = (
    'save the frames as an array of uint8: numpy.save("videos.npy", videos), or '
    'safetensors.numpy.save_file({"videos": videos}, "videos.safetensors")'
)
PICKLED = f"is a pickle, which may run any code when it is read, and is not opened; {AS_ARRAY}"
MAX_NPY_HEADER = 10_000  # bytes, NumPy's own limit
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes, the library's own limit
_SAFETENSORS_TYPES = {"U8": "u1", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_ZIP_LOCAL = struct.Struct("<4s22x2H")  # signature, then the lengths of name and extra field


class ArrayHeader(NamedTuple):
    """The header of an array in a file.

    Attributes:
        member: name of the array; "" in a .npy file.
        dtype: stored type of the values; bfloat16 is stored as uint16.
        shape: shape of the array, with at least one axis; no axis has length 0.
        fortran: whether the values are in Fortran order, with the first axis innermost.
        offset: offset of the values in bytes, within the file or within a compressed member.
        packed: whether the zip member that contains the array is compressed.
        type_name: name of the type, which tells bfloat16 from uint16.
    """

    member: str
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    packed: bool
    type_name: str

    @property
    def num_bytes(self) -> int:
        """Return the size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayHeaders(NamedTuple):
    """The readable arrays in a file, and the unreadable arrays as (name, reason)."""

    arrays: tuple[ArrayHeader, ...]
    unusable: tuple[tuple[str, str], ...]


class _UnusableError(ValueError):
    """Raised for an unreadable array; other arrays in the file may be readable."""


def read_headers(path: Path) -> ArrayHeaders:
    """Return the headers of the arrays in a file.

    Raises:
        UnreadableVideoError: the file cannot be read, is damaged or exceeds a limit.
    """
    return _headers(path, *signature(path))


def map_array(path: Path, header: ArrayHeader) -> np.ndarray:
    """Return the memory-mapped values of an array; a compressed member is first copied to disk.

    Raises:
        UnreadableVideoError: the file cannot be read, or the compressed member is damaged.
        InputError: the copy cannot be written, for example because the disk is full.
    """
    return _mapped(path, header, *signature(path))


def signature(path: Path) -> tuple[int, int]:
    """Return a file's size and modification time; a change of either invalidates cached headers.

    Raises:
        UnreadableVideoError: the file cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableVideoError(path, f"cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _headers(path: Path, size: int, changed: int) -> ArrayHeaders:
    read = {".npy": _of_npy, ".npz": _of_npz, ".safetensors": _of_safetensors}
    try:
        return read[path.suffix.lower()](path, size)
    except UnreadableVideoError:
        raise
    except _UnusableError as error:
        return ArrayHeaders((), (("", str(error)),))
    except MemoryError:
        raise UnreadableVideoError(path, "asks for more memory than there is") from None
    except Exception as error:  # parsers may raise any error for damaged bytes
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        suffix = path.suffix.lower().lstrip(".")
        raise UnreadableVideoError(path, f"is no readable {suffix} file ({reason})") from None


def _of_npy(path: Path, size: int) -> ArrayHeaders:
    with open(path, "rb") as file:
        return ArrayHeaders((_npy_header(file, "", size, 0, packed=False),), ())


def _npy_header(file: Any, member: str, size: int, base: int, packed: bool) -> ArrayHeader:
    """Return the header of .npy data, `size` bytes long, that begin at byte `base` of the file."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _UnusableError(f"is of the npy version {version}, which holds structures; {AS_ARRAY}")
    stated = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(stated, "little")
    if length > MAX_NPY_HEADER:  # NumPy would first read the whole header
        raise _UnusableError(
            f"states a header of {length:,} bytes, more than {MAX_NPY_HEADER:,}; {AS_ARRAY}"
        )
    text = io.BytesIO(stated + file.read(length))
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(text)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(text)
    if dtype.hasobject:
        raise _UnusableError(f"holds pickled objects, which are not read; {AS_ARRAY}")
    used = np.lib.format.MAGIC_LEN + len(stated) + length
    header = ArrayHeader(member, dtype, shape, fortran, base + used, packed, str(dtype))
    _check(header, size - used)
    return header


def _check(header: ArrayHeader, available: int) -> None:
    shape, dtype = header.shape, header.dtype
    told = f"{header.type_name} {' x '.join(map(str, shape))}"
    if not shape or min(shape) < 1:
        raise _UnusableError(f"is an array without frames ({told})")
    if dtype not in (np.uint8, np.uint16) and dtype.kind != "f":
        raise _UnusableError(f"is of {dtype}; videos are uint8, or floats: {AS_ARRAY}")
    if dtype == np.uint16 and header.type_name != "bfloat16":
        raise _UnusableError(f"is of uint16; videos are uint8, or floats: {AS_ARRAY}")
    if dtype.kind == "f" and dtype.itemsize not in (2, 4, 8):
        raise _UnusableError(f"is of {dtype}; save it as float32 or uint8")
    if header.num_bytes > available:
        raise _UnusableError(
            f"is cut off, or its header is wrong: {told} takes {header.num_bytes:,} bytes, "
            f"{max(available, 0):,} are there"
        )


class _BoundedFile(io.BufferedReader):
    """A file that refuses to read a zip directory that is too large."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return `size` bytes; raise BadZipFile if `size` exceeds the limit for a directory."""
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of more than {MAX_DIRECTORY_BYTES:,} bytes")
        return super().read(size)


def _of_npz(path: Path, size: int) -> ArrayHeaders:
    arrays, unusable = [], []
    with _BoundedFile(io.FileIO(path)) as raw, zipfile.ZipFile(raw) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise UnreadableVideoError(path, f"holds more than {MAX_MEMBERS:,} arrays")
        if (problem := overlap(members, archive.start_dir)) is not None:
            raise UnreadableVideoError(path, problem)
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(MAX_CONTENT_BYTES, MAX_EXPANSION * size):
            raise UnreadableVideoError(
                path,
                f"would unpack from {size:,} to {unpacked:,} bytes, more than {MAX_EXPANSION} "
                "times as much; save it unpacked, with numpy.savez",
            )
        for member in members:
            name = member.filename.removesuffix(".npy")
            try:
                arrays.append(_member_header(archive, member, name, raw, size))
            except _UnusableError as error:
                unusable.append((name, str(error)))
    names = [array.member for array in arrays]
    if len(set(names)) != len(names):
        raise UnreadableVideoError(path, "holds two arrays of one name")
    return ArrayHeaders(tuple(arrays), tuple(unusable))


def _member_header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, raw: BinaryIO, size: int
) -> ArrayHeader:
    if not member.filename.endswith(".npy"):
        raise _UnusableError("is no .npy")
    if member.flag_bits & 1:
        raise _UnusableError("is encrypted; save it without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _UnusableError("is packed by another method than numpy's; save it with numpy.savez")
    packed = member.compress_type == zipfile.ZIP_DEFLATED
    base = 0
    if not packed:
        raw.seek(member.header_offset)
        mark, name_bytes, extra_bytes = _ZIP_LOCAL.unpack(raw.read(LOCAL_BYTES))
        base = member.header_offset + LOCAL_BYTES + name_bytes + extra_bytes
        if mark != b"PK\3\4" or base + member.file_size > size:
            raise _UnusableError("is cut off")
    with archive.open(member) as file:
        return _npy_header(file, name, member.file_size, base, packed)


def _of_safetensors(path: Path, size: int) -> ArrayHeaders:
    from safetensors import safe_open

    with safe_open(path, "numpy"):  # the library checks that tensors are contiguous
        pass
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, MAX_SAFETENSORS_HEADER):
            raise UnreadableVideoError(path, "its header lies about its length")
        listed: dict[str, Any] = json.loads(file.read(length))
    listed.pop("__metadata__", None)
    arrays, unusable = [], []
    for name, told in listed.items():
        stored = _SAFETENSORS_TYPES.get(told["dtype"])
        if stored is None:
            unusable.append((name, f"is of {told['dtype']}; videos are uint8, or floats"))
            continue
        dtype, shape = np.dtype(stored), tuple(told["shape"])
        shown = "bfloat16" if told["dtype"] == "BF16" else str(dtype)
        begin, end = told["data_offsets"]
        header = ArrayHeader(name, dtype, shape, False, 8 + length + begin, False, shown)
        try:
            _check(header, min(end, size - 8 - length) - begin)
            arrays.append(header)
        except _UnusableError as error:
            unusable.append((name, str(error)))
    return ArrayHeaders(tuple(arrays), tuple(unusable))


@functools.lru_cache(maxsize=2)  # consecutive videos are in the same array
def _mapped(path: Path, header: ArrayHeader, size: int, changed: int) -> np.ndarray:
    order = "F" if header.fortran else "C"
    try:
        if not header.packed:
            return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)
        with tempfile.TemporaryFile(prefix="video-vq-") as copy:
            _unpack(path, header, copy)
            return np.memmap(copy, header.dtype, "r", header.offset, header.shape, order)
    except UnreadableVideoError:
        raise
    except OSError as error:
        if not header.packed or error.filename == os.fspath(path):
            raise UnreadableVideoError(path, f"cannot be read ({error.strerror})") from None
        raise InputError(
            f"{path}: {header.member} cannot be unpacked ({error.strerror}); free some space, or "
            "name another folder with TMPDIR, or save it unpacked, with numpy.savez"
        ) from None


def _unpack(path: Path, header: ArrayHeader, copy: Any) -> None:
    """Write a compressed member to a file; zipfile returns no more bytes than the stated size."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{header.member}.npy") as member:
            shutil.copyfileobj(member, copy, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise UnreadableVideoError(path, f"{header.member} is damaged ({error})") from None
    copy.flush()
    if copy.tell() < header.offset + header.num_bytes:
        raise UnreadableVideoError(path, f"{header.member} is cut off")
