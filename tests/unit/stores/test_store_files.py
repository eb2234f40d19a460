"""Tests that files are written whole or not at all, and that hostile files are rejected."""

import hashlib
import json
import os

import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.stores import files
from video_vq.stores.files import (
    ArrayFile,
    canonical_json,
    difference,
    open_array,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
)


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_a_failed_write_leaves_the_old_file_and_no_partial(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


WRITERS = {
    "bytes": lambda path: write_bytes(path, b"[1]"),
    "json": lambda path: write_json(path, [1]),
    "array": lambda path: files.write_array(path, np.arange(3)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_bytes_are_on_the_disk_before_they_take_the_name_and_the_name_before_it_is_said(
    tmp_path, monkeypatch, kind
):
    events: list[tuple[str, str, bool]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        size = os.fstat(descriptor).st_size
        events.append(("fsync", os.path.relpath(path, tmp_path), size == whole_size))
        fsync(descriptor)

    def noted_replace(source, target) -> None:
        events.append(("rename", os.path.relpath(source, tmp_path), True))
        replace(source, target)

    (tmp_path / "in").mkdir()
    WRITERS[kind](tmp_path / "elsewhere")
    whole_size = (tmp_path / "elsewhere").stat().st_size
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    WRITERS[kind](tmp_path / "in" / "file")
    (in_file, renamed, in_folder) = events
    assert in_file == ("fsync", "in/file.partial", True)
    assert renamed == ("rename", "in/file.partial", True)
    assert in_folder[:2] == ("fsync", "in")


def test_a_name_that_may_not_last_is_an_error(tmp_path, monkeypatch):
    calls, opened = [], len(os.listdir("/proc/self/fd"))

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_a_failed_array_leaves_nothing(tmp_path, monkeypatch, failing):
    def fail(*_):
        raise OSError(5, "Input/output error")

    file = ArrayFile(tmp_path / "a.npy", (2,), np.float32).__enter__()
    file.append(np.ones((3, 2), np.float32))
    monkeypatch.setattr(files, failing, fail)
    with pytest.raises(OSError, match="Input/output"):
        file.__exit__(None, None, None)
    assert os.listdir(tmp_path) == []


def test_an_array_grows_row_by_row_into_an_ordinary_npy_file(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (1000, 3, 5), dtype=np.uint8)
    path = tmp_path / "a.npy"
    with ArrayFile(path, (3, 5), np.uint8) as file:
        for start in range(0, 1000, 7):
            file.append(rows[start : start + 7])
    assert np.array_equal(np.load(path), rows)
    assert np.array_equal(open_array(path, (3, 5), np.uint8), rows)
    assert file.num_rows == 1000
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_file(path)


def test_rows_that_were_taken_back_leave_no_trace(tmp_path):
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    with ArrayFile(tmp_path / "a.npy", (3,), np.float32) as file:
        file.append(rows[:5])
        file.append(rows[11:18])
        file.truncate(5)
        file.append(rows[5:])
    with ArrayFile(tmp_path / "b.npy", (3,), np.float32) as other:
        other.append(rows)
    assert file.sha256 == other.sha256
    with pytest.raises(ValueError, match="holds 20 rows, not 21"):
        file.truncate(21)


def test_an_array_refuses_rows_of_another_kind(tmp_path):
    with (
        pytest.raises(ValueError, match=r"holds rows of \(3,\) float32, got \(2,\) float32"),
        ArrayFile(tmp_path / "a.npy", (3,), np.float32) as file,
    ):
        file.append(np.ones((1, 2), np.float32))
    with (
        pytest.raises(ValueError, match=r"got .* float64"),
        ArrayFile(tmp_path / "a.npy", (3,), np.float32) as file,
    ):
        file.append(np.ones((1, 3), np.float64))


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def zipped() -> bytes:
    return b"PK\x03\x04" + bytes(200)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"no array at all",
        zipped(),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 3)}", bytes(100)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 3)}", bytes(12)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}", bytes(12)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': 'x'}", bytes(12)),
        npy("__import__('os').abort()", bytes(12)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 3)}", bytes(24)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(12)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", bytes(4)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4)}", bytes(16)),
    ],
)
def test_hostile_arrays_are_refused_by_name(tmp_path, data):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.npy"):
        open_array(path, (3,), np.float32)


def test_a_missing_array_says_that_the_store_is_incomplete(tmp_path):
    with pytest.raises(InputError, match="incomplete"):
        open_array(tmp_path / "a.npy", (3,), np.float32)


@pytest.mark.parametrize(
    "data", [b"{", b"[1]", b"\xff\xfe", b"1" * 5000, b"[" * 100_000, b'{"a": 1} x']
)
def test_hostile_json_is_refused_by_name(tmp_path, data):
    path = tmp_path / "plan.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"plan\.json"):
        read_json(path, "a plan")


def test_json_comes_back_and_equal_values_give_equal_bytes(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": {"é": "ü"}, "c": 0.1 + 0.2}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", "x") == value
    assert canonical_json(value) == canonical_json(json.loads(json.dumps(value)))
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": float("nan")})


def test_differences_are_named_by_their_path():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert difference(old, new) == ["a.c: 2 -> 4", "d: 3 -> (absent)", "e: (absent) -> 5"]
    assert difference(old, old) == []
