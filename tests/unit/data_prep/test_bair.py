"""Tests of listing and reading BAIR's records, in folders and in the tar."""

from pathlib import Path

import numpy as np
import pytest
from packed import tar_entry

from data_prep.sources.bair import BairSettings, frames_of, list_bair
from data_prep.tfrecord import encode_example, read_record, write_records
from video_vq.errors import InputError


def bair_example(seed: int, num_frames: int = 4, side: int = 8) -> dict:
    rng = np.random.default_rng(seed)
    example = {}
    for t in range(num_frames):
        example[f"{t}/image_main/encoded"] = [rng.bytes(side * side * 3)]
        example[f"{t}/image_aux1/encoded"] = [rng.bytes(side * side * 3)]
        example[f"{t}/action"] = rng.normal(size=4).astype(np.float32)
        example[f"{t}/endeffector_pos"] = rng.normal(size=3).astype(np.float32)
    return example


def bair_root(root: Path, folder: str = "softmotion30_44k") -> Path:
    for side, first, count in (
        ("train", 0, 30),
        ("train", 256, 3),
        ("train", 1024, 2),
        ("test", 0, 4),
    ):
        path = root / folder / side / f"traj_{first}_to_{first + count - 1}.tfrecords"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, [encode_example(bair_example(first + k)) for k in range(count)])
    return root


@pytest.mark.parametrize("folder", ["softmotion30_44k", "."])
def test_bair_is_listed_in_the_order_of_its_trajectories(tmp_path, folder):
    listing = list_bair(bair_root(tmp_path, folder), BairSettings(val=0.2))
    ids = [item.id for item in listing.items]
    assert ids[29:33] == [
        "train/traj_0_to_29/0029", "train/traj_256_to_258/0000",
        "train/traj_256_to_258/0001", "train/traj_256_to_258/0002",
    ]  # fmt: skip
    assert ids[-4:] == [f"test/traj_0_to_3/{k:04d}" for k in range(4)]
    splits = {item.id: item.split for item in listing.items}
    assert all((splits[name] == "test") == name.startswith("test/") for name in ids)
    assert list(splits.values()).count("val") == 7
    assert listing.arrays == {"actions": (4,), "endeffector_pos": (3,)}
    assert listing.classes == ()


@pytest.mark.parametrize("camera", ["aux1", "main"])
def test_frames_actions_and_positions_of_a_camera_come_back_exactly(tmp_path, camera):
    listing = list_bair(bair_root(tmp_path), BairSettings(camera=camera))
    for item, seed in ((listing.items[2], 2), (listing.items[31], 257)):
        frames, arrays = frames_of(read_record(Path(item.path), item.offset), camera)
        expected = bair_example(seed)
        assert frames.shape == (4, 8, 8, 3)
        for t in range(4):
            assert frames[t].tobytes() == expected[f"{t}/image_{camera}/encoded"][0]
            assert np.array_equal(arrays["actions"][t], expected[f"{t}/action"])
            assert np.array_equal(arrays["endeffector_pos"][t], expected[f"{t}/endeffector_pos"])


def drop(name):
    return lambda example: example.pop(name)


def put(name, value):
    return lambda example: example.update({name: value})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (drop("0/image_aux1/encoded"), "no feature 0/image_aux1/encoded among its 15"),
        (drop("2/action"), "2/action: expected 4 floats"),
        (put("1/action", np.zeros(3, np.float32)), "1/action: expected 4 floats"),
        (put("1/action", np.zeros(4, np.int64)), "1/action: expected 4 floats"),
        (put("1/action", np.full(4, np.nan, np.float32)), "not finite"),
        (put("1/image_aux1/encoded", [b"\xff\xd8\xff"]), "its frames differ in size"),
        (put("1/image_aux1/encoded", [b"1234"]), "4 bytes are not a raw RGB square"),
        (put("1/image_aux1/encoded", [bytes(27)]), "its frames differ in size"),
        (put("1/image_aux1/encoded", []), "expected one value"),
        (put("1/image_aux1/encoded", np.zeros(4, np.float32)), "expected one value"),
    ],
)
def test_a_record_of_another_schema_is_refused(change, problem):
    example = bair_example(0)
    change(example)
    with pytest.raises(ValueError, match=problem):
        frames_of(encode_example(example), "aux1")


def test_what_is_not_bair_is_refused_with_file_and_byte(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("x")
    with pytest.raises(
        InputError, match=r"no softmotion30_44k/train there, and no bair.*name the tar"
    ):
        list_bair(tmp_path / "a", BairSettings())
    (tmp_path / "b/train").mkdir(parents=True)
    with pytest.raises(InputError, match="no record in"):
        list_bair(tmp_path / "b", BairSettings())
    path = tmp_path / "b/train/traj_0_to_1.tfrecords"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"no record .* be read:\n  train/traj.*: byte 0: not a"):
        list_bair(tmp_path / "b", BairSettings())


@pytest.mark.parametrize("top", ["softmotion30_44k/", "./", "", "any name/softmotion30_44k/", "b/"])
def test_a_tar_may_have_any_folder_on_top_and_what_macos_adds(tmp_path, top):
    root = bair_root(tmp_path, "softmotion30_44k")
    files = {
        path.relative_to(root / "softmotion30_44k").as_posix(): path
        for path in sorted(root.rglob("*.tfrecords"))
    }
    packed = b"".join(
        tar_entry(f"{top}{folder}/._{path.name}", b"\0\5\x16\7") + tar_entry(f"{top}{name}", data)
        for name, path in files.items()
        for folder, data in [(name.partition("/")[0], path.read_bytes())]
    )
    extra = tar_entry(f"__MACOSX/{top.removeprefix('./')}train/._traj_0_to_29.tfrecords", b"\0\5")
    (tmp_path / "bair.tar").write_bytes(packed + extra + bytes(1024))
    for path in files.values():
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    unpacked, tar = (
        list_bair(root, BairSettings()),
        list_bair(tmp_path / "bair.tar", BairSettings()),
    )
    assert [item.id for item in tar.items] == [item.id for item in unpacked.items]
    assert tar.skipped == unpacked.skipped == ()
    for item, other in ((tar.items[k], unpacked.items[k]) for k in (0, 31, 38)):
        data = read_record(Path(item.path), item.offset, item.base)
        assert data == read_record(Path(other.path), other.offset)


def test_a_tar_of_two_sets_is_refused_by_their_names(tmp_path):
    path = tmp_path / "both.tar"
    names = ("old/train/traj_0_to_1.tfrecords", "new/test/traj_0_to_1.tfrecords")
    path.write_bytes(b"".join(tar_entry(name, b"x") for name in names) + bytes(1024))
    with pytest.raises(InputError, match="in 'new' and in 'old'; unpack it, and name the folder"):
        list_bair(path, BairSettings())


def test_a_damaged_length_leaves_out_one_record_and_names_it(tmp_path):
    root = bair_root(tmp_path)
    path = root / "softmotion30_44k/train/traj_256_to_258.tfrecords"
    before = list_bair(root, BairSettings())
    lost = next(item for item in before.items if item.id == "train/traj_256_to_258/0001")
    data = bytearray(path.read_bytes())
    data[lost.offset] ^= 0x10
    path.write_bytes(data)
    listing = list_bair(root, BairSettings())
    kept = [(item.id, item.offset) for item in before.items if item.id != lost.id]
    assert [(item.id, item.offset) for item in listing.items] == kept
    (skipped,) = listing.skipped
    assert (skipped.id, skipped.path) == (lost.id, "train/traj_256_to_258.tfrecords")
    assert skipped.reason.startswith(
        f"byte {lost.offset:,}: not a TFRecord, or its length is damaged"
    )
    assert "; the next record begins at byte" in skipped.reason


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("inside its last record", "the file ends inside a record (1 bytes are missing)"),
        ("between two records", "the file ends after 2 of the 256 records that its name announces"),
        (
            "before its first record",
            "the file ends after 0 of the 256 records that its name announces",
        ),
    ],
)
def test_a_file_that_is_cut_off_has_lost_all_records_that_its_name_tells(tmp_path, ends, reason):
    root = bair_root(tmp_path)
    path = root / "softmotion30_44k/train/traj_256_to_258.tfrecords"
    first = list_bair(root, BairSettings())
    last = next(item for item in first.items if item.id == "train/traj_256_to_258/0002")
    size = {"inside its last record": path.stat().st_size - 1, "between two records": last.offset}
    data = path.read_bytes()[: size.get(ends, 0)]
    path.unlink()
    path = path.with_name("traj_256_to_511.tfrecords")
    path.write_bytes(data)
    listing = list_bair(root, BairSettings())
    kept = 2 if data else 0
    assert [entry.id for entry in listing.skipped] == [
        f"train/traj_256_to_511/{number:04d}" for number in range(kept, 256)
    ]
    assert {reason in entry.reason for entry in listing.skipped} == {True}
    assert sum(item.name == "train/traj_256_to_511.tfrecords" for item in listing.items) == kept


def test_a_file_whose_name_tells_nothing_has_lost_one_record_in_each_gap(tmp_path):
    root = bair_root(tmp_path)
    path = root / "softmotion30_44k/train/traj_256_to_258.tfrecords"
    path.write_bytes(path.read_bytes()[:-1])
    path.rename(path.with_name("pushing.tfrecords"))
    assert [entry.id for entry in list_bair(root, BairSettings()).skipped] == ["train/pushing/0002"]


def test_junk_behind_the_last_record_that_a_name_tells_costs_nothing(tmp_path):
    root = bair_root(tmp_path)
    before = list_bair(root, BairSettings())
    with open(root / "softmotion30_44k/train/traj_256_to_258.tfrecords", "ab") as file:
        file.write(b"junk")
    after = list_bair(root, BairSettings())
    assert (after.items, after.skipped) == (before.items, ())
