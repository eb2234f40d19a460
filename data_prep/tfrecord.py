"""Reads and writes TFRecord files of tf.train.Example messages; no other module uses the format.

A record is: length (u64) | masked crc32c of the length | data | masked crc32c of the data, all
little-endian (tensorflow/core/lib/io/record_writer.h). An Example is protobuf
(tensorflow/core/example/{example,feature}.proto): Example.features (1) → Features.feature (1), a
map of name (1) to Feature (2), which holds a BytesList (1), FloatList (2) or Int64List (3) with its
values in field 1. Files are not trusted: every length is checked before it is used.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from video_vq.errors import InputError
from video_vq.stores.files import write, written_aside

MAX_RECORD_BYTES = 64 << 20
HEADER, FOOTER = 12, 4  # bytes around a record's data
PIECE_BYTES = 1 << 20  # bytes that are searched at a time
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
Feature = list[bytes] | np.ndarray  # bytes, float32 or int64 values
Example = dict[str, Feature]
MAX_LISTS = 1000  # lists of one feature; writers make one


class RecordError(InputError):
    """Raised for a damaged TFRecord file; the message gives the file and the byte."""

    def __init__(self, path: Path, offset: int, problem: str):
        self.reason = f"byte {offset:,}: {problem}"
        super().__init__(f"{path}: {self.reason}")


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return TFRecord's checksum of some bytes."""
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a whole TFRecord file atomically."""
    with written_aside(path) as file:
        for data in records:
            length = struct.pack("<Q", len(data))
            write(file, length + struct.pack("<I", masked_crc32c(length)))
            write(file, data)
            write(file, struct.pack("<I", masked_crc32c(data)))


class Gap(NamedTuple):
    """A part of a file in which no record can be found.

    Attributes:
        place: number of records found before it.
        error: problem at the first byte.
        end: offset of its end, where the next record begins or the file ends.
    """

    place: int
    error: RecordError
    end: int


class Scan(NamedTuple):
    """The records of a file, with byte offset and data length of each, and the gaps."""

    records: list[tuple[int, int]]
    gaps: list[Gap]


def scan_records(path: Path, base: int = 0, num_bytes: int | None = None) -> Scan:
    """Find the records of a file by reading only the framing between them.

    If a length is damaged, or the file ends inside a record, the search continues at the next bytes
    that are a length with its checksum, so that a damaged byte does not lose all later records.

    Args:
        path: a TFRecord file, or a tar file that holds one.
        base: offset of the TFRecord file in bytes.
        num_bytes: size of the file; None for all bytes up to the end.

    Returns:
        Offsets from `base`.
    """
    scan = Scan([], [])
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size - base if num_bytes is None else num_bytes
        offset = 0
        while offset < size:
            file.seek(base + offset)
            try:
                length = _read_length(path, file, offset, size)
            except RecordError as error:
                end = _next_record(path, file, offset + 1, base, size)
                scan.gaps.append(Gap(len(scan.records), error, end))
                offset = end
                continue
            scan.records.append((offset, length))
            offset += HEADER + length + FOOTER
    return scan


def _next_record(path: Path, file: BinaryIO, offset: int, base: int, size: int) -> int:
    """Return the first offset at which a record begins, from this one on; else the size."""
    while offset + HEADER + FOOTER <= size:
        file.seek(base + offset)
        piece = file.read(min(PIECE_BYTES, size - offset))
        bytes_ = np.frombuffer(piece, np.uint8)
        starts = len(bytes_) - HEADER + 1
        if starts <= 0:
            break
        # Few places of a file can be a length: four bytes that are not all 0 (stretches of
        # zeros are what a failing disk leaves) and are below the cap, then four zeros.
        column = [bytes_[at : at + starts] for at in range(8)]
        small = (column[3] <= MAX_RECORD_BYTES >> 24) & (
            (column[0] | column[1] | column[2] | column[3]) > 0
        )
        small &= (column[4] | column[5] | column[6] | column[7]) == 0
        for start in np.flatnonzero(small).tolist():
            header = piece[start : start + HEADER]
            if masked_crc32c(header[:8]) == int.from_bytes(header[8:], "little"):
                file.seek(base + offset + start)
                with suppress(RecordError):
                    _read_length(path, file, offset + start, size)
                    return offset + start
        offset += starts
    return size


def read_record(path: Path, offset: int, base: int = 0) -> bytes:
    """Return the data of the record at a byte offset from `base`, after checking both checksums.

    Raises:
        RecordError: a checksum differs, or the file ends inside the record.
    """
    with open(path, "rb") as file:
        file.seek(base + offset)
        length = _read_length(path, file, offset, None)
        data = file.read(length)
        footer = file.read(FOOTER)
    if len(data) != length or len(footer) != FOOTER:
        raise RecordError(path, offset, "the file ends inside a record")
    if struct.unpack("<I", footer)[0] != masked_crc32c(data):
        raise RecordError(path, offset, "the record is damaged (its crc32c differs)")
    return data


def _read_length(path: Path, file: BinaryIO, offset: int, size: int | None) -> int:
    """Read the length of the record that begins here, which must fit into the size, if given."""
    header = file.read(HEADER)
    if len(header) != HEADER or (size is not None and offset + HEADER > size):
        raise RecordError(path, offset, "the file ends inside a record's length")
    length, crc = struct.unpack("<QI", header)
    if crc != masked_crc32c(header[:8]):
        raise RecordError(path, offset, "not a TFRecord, or its length is damaged (crc32c differs)")
    if length > MAX_RECORD_BYTES:
        raise RecordError(path, offset, f"a record of {length:,} bytes, over {MAX_RECORD_BYTES:,}")
    if size is not None and offset + HEADER + length + FOOTER > size:
        missing = offset + HEADER + length + FOOTER - size
        raise RecordError(
            path, offset, f"the file ends inside a record ({missing:,} bytes are missing)"
        )
    return length


def parse_example(data: bytes) -> Example:
    """Parse a tf.train.Example into lists of bytes, float32 arrays and int64 arrays.

    Packed and unpacked numbers are read; unknown fields are skipped, as in protobuf.

    Raises:
        ValueError: the bytes are not an Example; the message names the byte.
    """
    example: Example = {}
    for features, features_at in _messages(memoryview(data), 0, 1):
        for entry, entry_at in _messages(features, features_at, 1):
            name: str | None = None
            feature: Feature = []
            for number, wire, value, at in _fields(entry, entry_at):
                if number in (1, 2) and wire != BYTES:
                    raise ValueError(f"byte {at}: field {number} has wire type {wire}")
                if number == 1:
                    name = _text(value, at)
                elif number == 2:
                    feature = _feature(value, at)
            example[name or ""] = feature
    return example


def _feature(data: memoryview, base: int) -> Feature:
    """Read the list that a Feature holds; if there are several, the last kind counts."""
    kind = 0
    lists: list[tuple[memoryview, int]] = []
    for number, wire, value, at in _fields(data, base):
        if number not in (1, 2, 3):
            continue
        if wire != BYTES:
            raise ValueError(f"byte {at}: a list has wire type {wire}")
        if number != kind:
            lists, kind = [], number
        if len(lists) == MAX_LISTS:
            raise ValueError(f"byte {at}: a feature of more than {MAX_LISTS:,} lists")
        lists.append((value, at))
    if kind == 2:
        return np.concatenate([_floats(*item) for item in lists])
    if kind == 3:
        return np.array([number for item in lists for number in _integers(*item)], np.int64)
    return [bytes(value) for item in lists for value, _ in _messages(*item, 1)]


def _floats(data: memoryview, base: int) -> np.ndarray:
    parts = [np.empty(0, np.float32)]
    for number, wire, value, at in _fields(data, base):
        if number != 1:
            continue
        if wire not in (BYTES, FIXED32) or len(value) % 4:
            raise ValueError(f"byte {at}: {len(value)} bytes of wire type {wire} are not floats")
        parts.append(np.frombuffer(value, "<f4"))
    return np.concatenate(parts).astype(np.float32)


def _integers(data: memoryview, base: int) -> Iterator[int]:
    for number, wire, value, at in _fields(data, base):
        if number != 1:
            continue
        if wire not in (BYTES, VARINT):
            raise ValueError(f"byte {at}: wire type {wire} does not hold int64")
        end = 0
        while end < len(value):
            integer, end = _varint(value, end, at)
            yield integer - (1 << 64) if integer >> 63 else integer


def _messages(data: memoryview, base: int, number: int) -> Iterator[tuple[memoryview, int]]:
    """Yield the bytes and positions of a field that must hold bytes."""
    for found, wire, value, at in _fields(data, base):
        if found == number:
            if wire != BYTES:
                raise ValueError(f"byte {at}: field {number} has wire type {wire}")
            yield value, at


def _fields(data: memoryview, base: int) -> Iterator[tuple[int, int, memoryview, int]]:
    """Yield number, wire type, bytes and position of each field of a protobuf message."""
    at = 0
    while at < len(data):
        key, after = _varint(data, at, base)
        wire = key & 7
        if not key >> 3 or wire not in (VARINT, FIXED64, BYTES, FIXED32):
            raise ValueError(f"byte {base + at}: not a protobuf field")
        if wire == VARINT:
            start, (_, end) = after, _varint(data, after, base)
        elif wire == BYTES:
            length, start = _varint(data, after, base)
            end = start + length
        else:
            start, end = after, after + (8 if wire == FIXED64 else 4)
        if end > len(data):
            raise ValueError(f"byte {base + at}: a field ends {end - len(data)} bytes too late")
        yield key >> 3, wire, data[start:end], base + start
        at = end


def _varint(data: memoryview, at: int, base: int) -> tuple[int, int]:
    """Read an unsigned 64-bit varint; return it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError(f"byte {base + at}: the message ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError(f"byte {base + at}: a number of more than ten bytes")


def _text(data: memoryview, at: int) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        raise ValueError(f"byte {at}: a feature's name is not UTF-8") from None


def encode_example(example: Mapping[str, Feature]) -> bytes:
    """Encode a tf.train.Example; equal examples in equal order give equal bytes.

    Args:
        example: features by name: a list of bytes, a float32 array or an int64 array, with one
            axis.
    """
    entries = []
    for name, feature in example.items():
        entry = _field(1, name.encode()) + _field(2, _encode_feature(name, feature))
        entries.append(_field(1, entry))
    return _field(1, b"".join(entries))


def _encode_feature(name: str, feature: Feature) -> bytes:
    if isinstance(feature, list):
        return _field(1, b"".join(_field(1, value) for value in feature))
    if feature.ndim != 1 or feature.dtype not in (np.float32, np.int64):
        raise ValueError(
            f"feature {name!r}: expected one axis of float32 or int64, "
            f"found {feature.dtype} of shape {feature.shape}"
        )
    if feature.dtype == np.float32:
        return _field(2, _field(1, feature.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_encode_varint(int(value)) for value in feature)))


def _field(number: int, value: bytes) -> bytes:
    return _encode_varint(number << 3 | BYTES) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
