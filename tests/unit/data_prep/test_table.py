"""Tests that a table of videos is read as written, or rejected with all mistakes and lines."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.sources.table import list_table
from video_vq.errors import InputError
from video_vq.media.folder import FolderSettings
from video_vq.stores.number_rows import read_rows

EVEN = FolderSettings(val=0.25, test=0.25)


def table(root: Path, text: str, videos: tuple[str, ...] = ("a.avi", "b.avi", "c/d.avi")) -> Path:
    for name in videos:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    path = root / "videos.csv"
    path.write_bytes(text.encode())
    return path


def listed(path: Path, settings: FolderSettings = EVEN):
    return list_table(path, path.parent, settings)


def test_every_column_is_kept_and_the_order_is_the_tables(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros((7, 2)))
    path = table(
        tmp_path,
        "\ufeffpath,label,split,group,actions\r\nb.avi,run,test,g2,b.npy\r\n\r\n"
        '"a.avi",,train,g1,./a.npy\r\n',
    )
    listing = listed(path)
    found = [(i.id, i.label, i.split, i.group, i.num_bytes) for i in listing.items]
    assert found == [("b.avi", "run", "test", "g2", 5), ("a.avi", None, "train", "g1", 5)]
    assert [i.actions for i in listing.items] == [str(tmp_path / f"{x}.npy") for x in "ba"]
    assert listing.arrays == {"actions": (2,)}
    assert listing.classes == ("run",)


def test_a_path_alone_is_enough_and_groups_share_a_split(tmp_path):
    names = tuple(f"day{day}/cam{cam}.mp4" for day in range(8) for cam in range(3))
    path = table(tmp_path, "path\n" + "\n".join(names), names)
    listing = listed(path, FolderSettings(0.25, 0.25, group_by="folder"))
    splits = {group: {i.split for i in listing.items if i.group == group} for group in
              {i.group for i in listing.items}}  # fmt: skip
    assert all(len(names) == 1 for names in splits.values())
    assert {name for names in splits.values() for name in names} == {"train", "val", "test"}
    rows = "\n".join(f"{name},{name[:4]}" for name in names)
    told = listed(table(tmp_path, f"path,group\n{rows}", names))
    assert [i.split for i in told.items] == [i.split for i in listing.items]


def test_paths_may_begin_in_another_folder(tmp_path):
    table(tmp_path / "videos", "")
    path = tmp_path / "list.csv"
    path.write_text("path\nc/d.avi\n")
    listing = list_table(path, tmp_path / "videos", EVEN)
    assert listing.items[0].path == str(tmp_path / "videos/c/d.avi")
    with pytest.raises(
        InputError, match=r"1 mistake:\n  line 2: 'c/d\.avi': cannot be read \(No such file"
    ):
        list_table(path, tmp_path, EVEN)


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path):
    (tmp_path / "outside").mkdir()
    np.save(tmp_path / "2.npy", np.zeros((4, 2)))
    np.save(tmp_path / "3.npy", np.zeros((4, 3)))
    np.save(tmp_path / "nan.npy", np.full((4, 2), np.nan))
    root = tmp_path / "videos"
    path = table(root, "")
    for name in ("2", "3", "nan"):
        (tmp_path / f"{name}.npy").rename(root / f"{name}.npy")
    (root / "out.avi").symlink_to(tmp_path / "outside")
    path.write_text(
        "path,label,split,group,actions\n"
        "a.avi,x,train,g1,2.npy\n"
        "b.avi,x,test,g1,2.npy\n"
        "a.avi,x,train,g1,2.npy\n"
        "../videos/a.avi,x,train,g2,2.npy\n"
        "/etc/passwd,x,train,g3,2.npy\n"
        "none.avi,x,train,g4,2.npy\n"
        "c/d.avi,x,dev,g5,2.npy\n"
        "c/d.avi,x,train\n"
        "c,x\x1b[31m,train,,2.npy\n"
        "out.avi,x,train,g6,2.txt\n"
        ",x,train,g7,gone.npy\n"
        "c/d.avi,x,train,g8,3.npy\n"
        "./b.avi,x,val,g9,nan.npy\n"
    )
    with pytest.raises(InputError) as refusal:
        listed(path)
    message = str(refusal.value)
    for line, problem in (
        (3, "group 'g1' is in test here and in train in line 2"),
        (4, "'a.avi' is already in line 2"),
        (5, "'../videos/a.avi' leads out of"),
        (6, "'/etc/passwd' leads out of"),
        (7, "'none.avi': cannot be read (No such file"),
        (8, "split: expected train, val, test, found 'dev'"),
        (9, "has 3 fields, the first line 5"),
        (10, r"label: expected at most 200 printable characters, found 'x\x1b[31m'"),
        (10, "no group; with a column `group`, every row needs one"),
        (10, "'c': is a folder without png, jpg or webp pictures"),
        (11, "'out.avi': a link that leads out of"),
        (11, "actions: expected a .npy or .csv file, found '2.txt'"),
        (12, "no path"),
        (12, "actions: 'gone.npy': cannot be read (No such file"),
    ):
        assert f"\n  line {line}: {problem}" in message
    lines = [int(line.split()[1][:-1]) for line in message.splitlines()[1:-1]]
    assert lines == sorted(lines)
    assert "\x1b" not in message
    assert message.endswith("Correct the table and run this again.")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: expected the names of the columns, `path` among them"),
        ("a.avi\nb.avi\n", "line 1: no such column: 'a.avi'; known: path, label"),
        ("path,lable\na.avi,x\n", "no such column: 'lable'; did you mean 'label'"),
        ("path,path\na.avi,x\n", "names a column twice"),
        ("path\n", "no row follows"),
        ('path\n"a.avi\n', "is not a CSV file from here on"),
        ("path,label\na.avi\nb.avi,x,y\n", "2 mistakes:\n  line 2: has 1 fields.*\n  line 3: has"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, text, problem):
    with pytest.raises(InputError, match=problem):
        listed(table(tmp_path, text))


def test_rows_of_two_widths_and_numbers_that_are_not_finite_are_mistakes(tmp_path):
    np.save(tmp_path / "2.npy", np.zeros((4, 2)))
    np.save(tmp_path / "3.npy", np.zeros((4, 3)))
    np.save(tmp_path / "nan.npy", np.array([[0.0, 0.0], [1.0, np.nan]]))
    text = "path,actions\na.avi,2.npy\nb.avi,3.npy\nc/d.avi,nan.npy\n"
    with pytest.raises(InputError) as refusal:
        listed(table(tmp_path, text))
    assert "line 3: actions: 3 numbers per frame, but 2 in line 2" in str(refusal.value)
    assert "nan.npy: row 1 (from 0) holds a number that is not finite" in str(refusal.value)


def test_a_table_that_is_no_text_or_no_file_is_refused(tmp_path):
    path = table(tmp_path, "")
    path.write_bytes(b"path\n\xff\xfe")
    with pytest.raises(InputError, match="byte 5 is not UTF-8"):
        listed(path)
    path.write_bytes(b"path\na.avi\x00\n")
    with pytest.raises(InputError, match="line 2"):
        listed(path)
    with pytest.raises(InputError, match="expected a CSV file"):
        list_table(Path("/dev/zero"), tmp_path, EVEN)
    with pytest.raises(InputError, match="cannot be read"):
        listed(tmp_path / "none.csv")


def test_actions_are_the_same_from_npy_and_csv(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows.astype(np.float64))
    lines = "\n".join(",".join(repr(float(value)) for value in row) for row in rows)
    for name, text in (("a.csv", lines), ("b.csv", f"x,y,z\r\n{lines}\r\n\r\n")):
        (tmp_path / name).write_text(text)
        assert np.array_equal(read_rows(tmp_path / name), rows)
    assert np.array_equal(read_rows(tmp_path / "a.npy"), rows)
    np.save(tmp_path / "one.npy", np.arange(4))
    assert read_rows(tmp_path / "one.npy").shape == (4, 1)


BAD = {
    "a.npy": (b"\x93NUMPY\x01\x00garbage", "is not an array of numbers"),
    "b.npy": (b"", "is not an array of numbers"),
    "a.csv": (b"1,2\n3\n", "line 2: 1 numbers, 2 before"),
    "b.csv": (b"1,2\nx,3\n", "line 2: expected numbers, found"),
    "c.csv": (b"x,y\n", "holds no numbers"),
    "d.csv": (b"\xff\xfe", "is not UTF-8"),
    "e.csv": (b"1\ninf\n", r"row 1 \(from 0\) holds a number that is not finite"),
    "f.csv": (b"1\n1e300\n", r"row 1 \(from 0\) holds a number that is not finite"),
    "a.txt": (b"1\n", r"ending in \.npy or \.csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_table_of_numbers_is_refused(tmp_path, name):
    data, problem = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=problem):
        read_rows(tmp_path / name)


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    class Canary:
        def __reduce__(self):
            return (Path(tmp_path / "executed").touch, ())

    np.save(tmp_path / "a.npy", np.array([Canary()], dtype=object))
    with pytest.raises(ValueError, match="is not an array of numbers"):
        read_rows(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=r"shape \(frames, n\), found float64 of shape"):
        read_rows(tmp_path / "b.npy")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_rows(Path("/dev/zero"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "header",
    [
        "(" * 5000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1" + "0" * 18 + ",), }",
        "\x00'",
    ],
)
def test_a_header_that_breaks_numpys_parser_is_a_reason_and_no_crash(tmp_path, header):
    data = header.encode() + b"\n"
    start = b"\x93NUMPY\x02\x00" + len(data).to_bytes(4, "little")
    (tmp_path / "a.npy").write_bytes(start + data)
    with pytest.raises(ValueError, match="is not an array of numbers"):
        read_rows(tmp_path / "a.npy")
