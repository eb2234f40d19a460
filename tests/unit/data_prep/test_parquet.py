"""Tests of reading row ranges of Parquet files in little memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra [lerobot]")

import pyarrow as pa
from pyarrow import parquet

from data_prep import parquet as reader
from data_prep.parquet import Kind, RowReader, TableError

WANTED: dict[str, tuple[Kind, int]] = {
    "episode": ("integer", 1),
    "time": ("number", 1),
    "action": ("vector", 3),
}


def write_table(path: Path, rows: int, row_group: int, **options) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    columns = {
        "episode": np.arange(rows) // 7,
        "time": rng.normal(size=rows),
        "action": rng.normal(size=(rows, 3)).astype(np.float32),
    }
    table = pa.table(
        {**columns, "action": pa.array(columns["action"].tolist(), pa.list_(pa.float32()))}
    )
    parquet.write_table(table, path, row_group_size=row_group, **options)
    return columns


@pytest.mark.parametrize("row_group", [5, 64, 1000])
@pytest.mark.parametrize("batch_values", [1, 40, 1 << 20])
def test_stretches_in_any_order_are_the_rows_of_the_table(
    tmp_path, monkeypatch, row_group, batch_values
):
    monkeypatch.setattr(reader, "BATCH_VALUES", batch_values)
    columns = write_table(tmp_path / "a.parquet", 200, row_group)
    rows = RowReader(tmp_path / "a.parquet", WANTED)
    assert np.array_equal(np.concatenate(list(rows.integers("episode"))), columns["episode"])
    rng = np.random.default_rng(0)
    for _ in range(30):
        first = int(rng.integers(200))
        count = int(rng.integers(1, 201 - first))
        found = rows.read(first, count)
        for name, column in columns.items():
            assert np.array_equal(found[name], column[first : first + count])
    with pytest.raises(TableError, match="has no row 200"):
        rows.read(190, 11)
    rows.close()


def test_what_a_damaged_page_costs_does_not_depend_on_what_was_read_before(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BATCH_VALUES", 40)  # 8 rows
    path = tmp_path / "a.parquet"
    write_table(path, 400, 50, write_page_checksum=True, use_dictionary=False)
    data = bytearray(path.read_bytes())
    column = parquet.ParquetFile(path).metadata.row_group(3).column(2)  # rows 150 to 199
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 0x10
    path.write_bytes(data)

    def lost(stretches: list[int]) -> set[int]:
        rows, bad = RowReader(path, WANTED), set()
        for first in stretches:
            try:
                rows.read(first, 10)
            except TableError:
                bad.add(first)
        return bad

    stretches = list(range(0, 400, 10))
    expected = {150, 160, 170, 180, 190}
    assert lost(stretches) == lost(stretches[::-1]) == expected
    assert set().union(*(lost([first]) for first in stretches)) == expected


# 300,000 rows of 64 numbers: 77 MB as float32, twice that while pyarrow turns all at once.
PEAK = """
import sys
from pathlib import Path
import pyarrow as pa
from data_prep.parquet import RowReader
rows = RowReader(Path(sys.argv[1]), {"episode": ("integer", 1), "action": ("vector", 64)})
assert sum(map(len, rows.integers("episode"))) == 300_000
for first in range(0, 300_000, 10_000):
    assert rows.read(first, 300)["action"].shape == (300, 64)
print(pa.default_memory_pool().max_memory())
"""


def test_a_table_is_read_in_less_memory_than_it_takes(tmp_path):
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    values = pa.array(rng.normal(size=300_000 * 64).astype(np.float32))
    table = pa.table(
        {
            "episode": np.arange(300_000) // 300,
            "action": pa.FixedSizeListArray.from_arrays(values, 64),
        }
    )
    parquet.write_table(table, path, row_group_size=300_000)
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40_000_000


@pytest.mark.parametrize(
    ("limit", "message"),
    [("MAX_VALUES", "column episode holds more than 99 values"), ("MAX_COLUMN_BYTES", "99 bytes")],
)
def test_columns_that_state_too_much_data_are_refused_with_the_limit(
    tmp_path, monkeypatch, limit, message
):
    write_table(tmp_path / "a.parquet", 100, 64)
    assert len(reader.read_columns(tmp_path / "a.parquet", WANTED)["action"]) == 100
    monkeypatch.setattr(reader, limit, 99)
    with pytest.raises(TableError, match=message):
        reader.read_columns(tmp_path / "a.parquet", WANTED)
