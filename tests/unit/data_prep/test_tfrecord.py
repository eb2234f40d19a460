"""Tests that TFRecords and Examples are read as TensorFlow writes them, and damage is found."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import tfrecord
from data_prep.tfrecord import (
    RecordError,
    encode_example,
    masked_crc32c,
    parse_example,
    read_record,
    scan_records,
    write_records,
)


def read_all(path: Path) -> list[bytes]:
    """Return all records of a file; raise the error of its first gap, if any."""
    scan = scan_records(path)
    for gap in scan.gaps:
        raise gap.error
    return [read_record(path, offset) for offset, _ in scan.records]


def test_the_checksum_is_the_masked_castagnoli_crc():
    # RFC 3720, B.4: 32 bytes of zeros, of ones, and rising.
    for data, crc in (
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ):
        mask = ((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8 & 0xFFFFFFFF
        assert masked_crc32c(data) == mask


def test_the_frame_of_a_record_is_tensorflows(tmp_path):
    path = tmp_path / "a.tfrecords"
    write_records(path, [b"abc"])
    length = struct.pack("<Q", 3)
    expected = length + struct.pack("<I", masked_crc32c(length))
    expected += b"abc" + struct.pack("<I", masked_crc32c(b"abc"))
    assert path.read_bytes() == expected


def test_records_come_back_in_order(tmp_path):
    rng = np.random.default_rng(0)
    records = [rng.bytes(int(size)) for size in (0, 1, 700, 12_345)]
    path = tmp_path / "a.tfrecords"
    write_records(path, records)
    assert read_all(path) == records
    assert [length for _, length in scan_records(path).records] == [0, 1, 700, 12_345]
    write_records(path, [])
    assert read_all(path) == []


def test_every_flipped_byte_of_a_file_is_found(tmp_path):
    path = tmp_path / "a.tfrecords"
    write_records(path, [b"first record", b"", b"third"])
    intact = path.read_bytes()
    for position in range(len(intact)):
        for bit in (0x01, 0x80):
            damaged = bytearray(intact)
            damaged[position] ^= bit
            path.write_bytes(damaged)
            with pytest.raises(RecordError, match=r"a\.tfrecords: byte \d+"):
                read_all(path)


def test_every_cut_is_found_unless_it_falls_between_records(tmp_path):
    path = tmp_path / "a.tfrecords"
    write_records(path, [b"first record", b"second"])
    intact = path.read_bytes()
    between = {0, 16 + len(b"first record"), len(intact)}
    for size in range(len(intact)):
        path.write_bytes(intact[:size])
        if size in between:
            read_all(path)
            continue
        with pytest.raises(RecordError, match="the file ends inside"):
            read_all(path)


def test_a_record_longer_than_the_cap_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.tfrecords"
    length = struct.pack("<Q", 1 << 60)
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + bytes(50))
    with pytest.raises(RecordError, match="byte 0: a record of 1,152,921,504,606,846,976 bytes"):
        read_all(path)


@pytest.mark.parametrize("piece_bytes", [16, 64, 1 << 20])
def test_a_damaged_length_costs_its_record_and_no_other(tmp_path, monkeypatch, piece_bytes):
    monkeypatch.setattr(tfrecord, "PIECE_BYTES", piece_bytes)
    rng = np.random.default_rng(0)
    records = [rng.bytes(size) for size in (300, 256, 1, 700, 512)]
    path = tmp_path / "a.tfrecords"
    write_records(path, records)
    intact, whole = path.read_bytes(), scan_records(path).records
    for number, (offset, length) in enumerate(whole):
        for position in range(offset, offset + tfrecord.HEADER):
            damaged = bytearray(intact)
            damaged[position] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            scan = scan_records(path)
            assert scan.records == whole[:number] + whole[number + 1 :]
            end = offset + length + tfrecord.HEADER + tfrecord.FOOTER
            assert [(gap.place, gap.end) for gap in scan.gaps] == [(number, end)]
            assert f"byte {offset:,}: " in str(scan.gaps[0].error)


@pytest.mark.parametrize("filling", ["zeros", "noise", "nothing"])
def test_a_destroyed_stretch_costs_the_records_that_it_touches(tmp_path, filling):
    rng = np.random.default_rng(1)
    records = [rng.bytes(400) for _ in range(20)]
    path = tmp_path / "a.tfrecords"
    write_records(path, records)
    intact = path.read_bytes()
    for _ in range(50):
        start, end = sorted(int(place) for place in rng.integers(len(intact), size=2))
        between = {"zeros": bytes(end - start), "noise": rng.bytes(end - start), "nothing": b""}
        path.write_bytes(intact[:start] + between[filling] + intact[end:])
        found = []
        for offset, _ in scan_records(path).records:
            with suppress(RecordError):
                found.append(read_record(path, offset))
        # 416 bytes each; where nothing is left between, the record that goes on may hide the next.
        hidden = 2 if filling == "nothing" else 1
        assert found[: start // 416] == records[: start // 416]
        kept = records[-(-end // 416) + hidden - 1 :]
        assert not kept or found[-len(kept) :] == kept
        assert set(found) <= set(records)


def test_records_of_the_next_file_in_an_archive_are_not_found(tmp_path):
    path = tmp_path / "a.tfrecords"
    write_records(path, [b"first", b"second"])
    data = path.read_bytes()
    path.write_bytes(b"head" + bytes([data[0] ^ 1]) + data[1:] * 2)
    scan = scan_records(path, 4, len(data))
    assert scan.records == [(21, 6)]
    assert scan_records(path, 4, 21).records == []
    assert scan_records(path, 4, 30).records == []


# Written by hand from feature.proto: {"a": floats 1.0, -2.5}, {"b": "xy"}, {"c": ints 1, -1, 300}.
FLOATS = b"\x00\x00\x80\x3f\x00\x00\x20\xc0"
MINUS_ONE = b"\xff" * 9 + b"\x01"


def message(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def entry(name: bytes, feature: bytes) -> bytes:
    return message(1, message(1, name) + message(2, feature))


HAND_WRITTEN = {
    "packed": [
        entry(b"a", message(2, message(1, FLOATS))),
        entry(b"b", message(1, message(1, b"xy"))),
        entry(b"c", message(3, message(1, b"\x01" + MINUS_ONE + b"\xac\x02"))),
    ],
    "unpacked": [
        entry(b"a", message(2, b"\x0d" + FLOATS[:4] + b"\x0d" + FLOATS[4:])),
        entry(b"b", message(1, message(1, b"xy"))),
        entry(b"c", message(3, b"\x08\x01" + b"\x08" + MINUS_ONE + b"\x08\xac\x02")),
    ],
}


@pytest.mark.parametrize("form", HAND_WRITTEN)
def test_examples_of_both_wire_forms_are_read(form):
    example = parse_example(message(1, b"".join(HAND_WRITTEN[form])))
    assert list(example) == ["a", "b", "c"]
    floats, integers = example["a"], example["c"]
    assert isinstance(floats, np.ndarray)
    assert isinstance(integers, np.ndarray)
    assert (floats.dtype, floats.tolist()) == (np.float32, [1.0, -2.5])
    assert example["b"] == [b"xy"]
    assert (integers.dtype, integers.tolist()) == (np.int64, [1, -1, 300])


def test_the_encoder_writes_the_packed_form_byte_for_byte():
    example = {
        "a": np.array([1.0, -2.5], np.float32),
        "b": [b"xy"],
        "c": np.array([1, -1, 300]),
    }
    assert encode_example(example) == message(1, b"".join(HAND_WRITTEN["packed"]))


FEATURES = st.one_of(
    st.lists(st.binary(max_size=200), max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(
        lambda values: np.array(values, np.float32)
    ),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(
        lambda values: np.array(values, np.int64)
    ),
)


@given(st.dictionaries(st.text(max_size=12), FEATURES, max_size=6))
def test_any_example_comes_back_as_it_was(example):
    found = parse_example(encode_example(example))
    assert list(found) == list(example)
    for name, feature in example.items():
        back = found[name]
        if isinstance(feature, list):
            assert back == feature
        else:
            assert isinstance(back, np.ndarray)
            assert back.dtype == feature.dtype
            assert np.array_equal(back, feature)


def test_unknown_fields_are_passed_over_as_protobuf_does():
    extra = b"\x78\x05" + b"\x7d" + bytes(4) + b"\x79" + bytes(8) + message(15, b"new")
    plain = message(1, b"".join(HAND_WRITTEN["packed"]))
    assert parse_example(extra + plain + extra).keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x0a\x05\x0a", "ends 4 bytes too late"),
        (b"\x0a", "ends inside a number"),
        (b"\x0a" + b"\xff" * 11, "more than ten bytes"),
        (b"\x0b\x00", "not a protobuf field"),
        (b"\x02\x00", "not a protobuf field"),
        (b"\x08\x01", "field 1 has wire type 0"),
        (message(1, entry(b"\xff\xfe", b"")), "name is not UTF-8"),
        (message(1, message(1, b"\x10\x01")), "field 2 has wire type 0"),
        (message(1, entry(b"a", b"\x10\x01")), "a list has wire type 0"),
        (message(1, entry(b"a", message(2, message(1, b"123")))), "3 bytes of wire type 2 are not"),
        (message(1, entry(b"a", message(2, b"\x08\x01"))), "wire type 0 are not floats"),
        (message(1, entry(b"a", message(3, b"\x0d1234"))), "wire type 5 does not hold int64"),
        (message(1, entry(b"a", message(1, b"\x08\x01"))), "field 1 has wire type 0"),
    ],
)
def test_what_is_no_example_is_refused_with_the_byte(data, problem):
    with pytest.raises(ValueError, match=rf"^byte \d+: .*{problem}"):
        parse_example(data)


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_garbage_never_fails_in_another_way(data):
    for attempt in (data, message(1, data[:100]), message(1, entry(b"a", message(2, data[:100])))):
        try:
            parse_example(attempt)
        except ValueError as error:
            if not str(error).startswith("byte "):
                raise


@given(st.integers(0, 200), st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_example_is_read_or_refused(position, mask):
    data = bytearray(message(1, b"".join(HAND_WRITTEN["packed"])))
    data[position % len(data)] ^= mask
    try:
        parse_example(bytes(data))
    except ValueError as error:
        if not str(error).startswith("byte "):
            raise


def test_only_what_an_example_can_hold_is_encoded():
    with pytest.raises(ValueError, match="feature 'a': expected one axis of float32 or int64"):
        encode_example({"a": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="found float64"):
        encode_example({"a": np.zeros(2)})


def test_a_failed_write_leaves_no_file(tmp_path):
    def records():
        yield b"first"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_records(tmp_path / "a.tfrecords", records())
    assert list(tmp_path.iterdir()) == []
    assert tfrecord.MAX_RECORD_BYTES >= 10 * 30 * 2 * 12_288


def test_a_feature_of_very_many_lists_is_refused_at_once():
    feature = message(1, b"") * 100_000  # to join them one by one would take a minute
    with pytest.raises(ValueError, match="a feature of more than 1,000 lists"):
        tfrecord._feature(memoryview(feature), 0)
