"""Reader and writer of TFRecord files that contain tf.train.Example messages.

A record consists of the length of the data (u64), the masked crc32c of the length, the data, and
the masked crc32c of the data, all little-endian (tensorflow/core/lib/io/record_writer.h). An
Example is a protobuf message (tensorflow/core/example/{example,feature}.proto). Field 1 of Example
is a Features message, whose field 1 maps names (field 1) to Feature messages (field 2). A Feature
contains a BytesList (field 1), FloatList (field 2) or Int64List (field 3), with values in field 1.
Files are not trusted: every length is checked before use.
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
HEADER, FOOTER = 12, 4  # number of bytes before and after a record's data
PIECE_BYTES = 1 << 20  # number of bytes searched at a time
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
Feature = list[bytes] | np.ndarray  # bytes, float32 or int64 values
Example = dict[str, Feature]
MAX_LISTS = 1000  # number of lists per feature; writers produce a single list


class RecordError(InputError):
    """Error for a damaged TFRecord file; the message gives the file and the byte offset."""

    def __init__(self, path: Path, offset: int, problem: str):
        self.reason = f"byte {offset:,}: {problem}"
        super().__init__(f"{path}: {self.reason}")


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return the masked crc32c of some bytes, as used in TFRecord files."""
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write serialized records to a TFRecord file atomically."""
    with written_aside(path) as file:
        for data in records:
            length = struct.pack("<Q", len(data))
            write(file, length + struct.pack("<I", masked_crc32c(length)))
            write(file, data)
            write(file, struct.pack("<I", masked_crc32c(data)))


class Gap(NamedTuple):
    """A part of a file in which no record can be found.

    Attributes:
        place: number of records found before the gap.
        error: problem at the first byte of the gap.
        end: offset of the end of the gap, where the next record begins or the file ends.
    """

    place: int
    error: RecordError
    end: int


class Scan(NamedTuple):
    """The records in a file, each with byte offset and data length, and the gaps."""

    records: list[tuple[int, int]]
    gaps: list[Gap]


def scan_records(path: Path, base: int = 0, num_bytes: int | None = None) -> Scan:
    """Find all records in a file without reading the data of the records.

    If a length is damaged, or its record extends beyond the file, the search continues at the next
    length with a matching checksum, so that one damaged byte does not hide all later records.

    Args:
        path: path of the TFRecord file, or of a tar file that contains the TFRecord file.
        base: offset of the TFRecord file in `path`, in bytes.
        num_bytes: size of the TFRecord file; None to read to the end of `path`.

    Returns:
        Records and gaps, with offsets relative to `base`.
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
    """Return the offset of the first record at or after `offset`, or `size` if there is none."""
    while offset + HEADER + FOOTER <= size:
        file.seek(base + offset)
        piece = file.read(min(PIECE_BYTES, size - offset))
        bytes_ = np.frombuffer(piece, np.uint8)
        starts = len(bytes_) - HEADER + 1
        if starts <= 0:
            break
        # Few positions in a file can be the start of a length: four bytes that are not all 0 (as
        # failing disks leave runs of zeros) with a value below the limit, then four zeros.
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
    """Return the data of a record, after checking both checksums.

    Args:
        path: path of the TFRecord file, or of a tar file that contains the TFRecord file.
        offset: offset of the record in the TFRecord file, in bytes.
        base: offset of the TFRecord file in `path`, in bytes.

    Raises:
        RecordError: a checksum differs, the record is too large, or the file ends inside the
            record.
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
    """Return the length of the record's data at the current file position, after checking it.

    Args:
        path: path of the file, for error messages.
        file: open file, at the start of a record.
        offset: offset of the record in the TFRecord file, in bytes.
        size: size of the TFRecord file, in bytes; None to skip the check that the record fits.

    Raises:
        RecordError: the checksum of the length differs, the record is too large, or the file ends
            inside the record.
    """
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
    """Return the features of a serialized tf.train.Example by name.

    A feature is a list of bytes, a float32 array or an int64 array. Numbers may be packed or
    unpacked; unknown fields are skipped, as in protobuf.

    Raises:
        ValueError: the data are not a valid Example; the message gives the byte offset.
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
    """Return the values of a serialized Feature; if lists differ in kind, the last kind counts."""
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
    """Yield the bytes and offset of each occurrence of a length-delimited field."""
    for found, wire, value, at in _fields(data, base):
        if found == number:
            if wire != BYTES:
                raise ValueError(f"byte {at}: field {number} has wire type {wire}")
            yield value, at


def _fields(data: memoryview, base: int) -> Iterator[tuple[int, int, memoryview, int]]:
    """Yield the number, wire type, bytes and offset of each field in a protobuf message."""
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
    """Return an unsigned 64-bit varint and the position of the byte after the varint."""
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
    """Return a serialized tf.train.Example; equal features in the same order give equal bytes.

    Args:
        example: mapping from each name to a feature: a list of bytes, or a float32 or int64 array
            with one axis.

    Raises:
        ValueError: an array has another data type or more than one axis.
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
