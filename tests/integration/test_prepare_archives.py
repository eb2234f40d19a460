"""Tests that an archive and its unpacked folder give the same store, byte for byte."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packed import rar_of, tar_of, zip_of
from test_prepare import PACKAGE, tree

from data_prep import run
from data_prep.archives import rar
from data_prep.cli import main
from data_prep.table_world.layouts import TableWorldSettings, write_table_world
from video_vq.stores.clips import ClipStore

LISTS = "UCF101TrainTestSplits-RecognitionTask.zip"


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("official")
    write_table_world(root, TableWorldSettings(layout="both", num_videos=16))
    path = root / "softmotion30_44k/train"
    damaged = max(path.glob("*.tfrecords"))
    data = bytearray(damaged.read_bytes())
    data[len(data) * 2 // 5] ^= 0x04  # inside a record
    damaged.write_bytes(data)
    return root


def files_of(root: Path, folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


def ucf101(place: Path, out: Path, *options: str) -> int:
    return main(["ucf101", str(place), "--out", str(out), "--size", "16", *options])


def bair(place: Path, out: Path) -> int:
    return main(["bair", str(place), "--out", str(out), "--max-skipped", "0.2"])


@pytest.fixture(scope="module")
def unpacked(official, tmp_path_factory) -> Path:
    """Return the folder of the stores that are made from unpacked folders."""
    out = tmp_path_factory.mktemp("unpacked")
    assert ucf101(official, out / "ucf101") == 0
    assert bair(official, out / "bair") == 0
    return out


def test_bairs_tar_is_read_where_it_lies_and_gives_the_same_store(official, unpacked, tmp_path):
    tar = tmp_path / "bair_robot_pushing_dataset_v0.tar"
    tar.write_bytes(tar_of(files_of(official, "softmotion30_44k")))
    for number, place in enumerate((tar, tmp_path)):
        out = tmp_path / f"store-{number}"
        assert bair(place, out) == 0
        assert tree(out) == tree(unpacked / "bair")
    store = ClipStore(tmp_path / "store-0")
    assert store.num_skipped == 1  # the damaged record, by its place in its own file
    assert store.arrays == {"actions": (4,), "endeffector_pos": (3,)}


PACKERS = {"UCF101.rar": rar_of, "UCF101.zip": zip_of, "UCF101.tar": tar_of}


@pytest.fixture(params=PACKERS)
def packed(request, official, tmp_path, monkeypatch) -> Path:
    """Return a UCF-101 archive beside its zipped lists; a stub replaces a missing rar program."""
    path = tmp_path / request.param
    path.write_bytes(PACKERS[request.param](files_of(official, "UCF-101")))
    (tmp_path / LISTS).write_bytes(zip_of(files_of(official, "ucfTrainTestlist")))
    if path.suffix == ".rar" and not (shutil.which("unar") or shutil.which("unrar")):
        unpacker_of_stored_rar(tmp_path / "bin")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return path


# What lsar and unar print for a rar of files that are stored as they are.
UNPACKER = """
import json, struct, sys
data, at = open(sys.argv[-1], "rb").read(), 7
contents, bodies = [], []
while at < len(data):
    kind, flags, size = struct.unpack_from("<BHH", data, at + 2)
    if kind == 0x74:
        packed, length, _, crc = struct.unpack_from("<2IBI", data, at + 7)
        name_length, = struct.unpack_from("<H", data, at + 26)
        name = data[at + 32 : at + 32 + name_length].decode()
        contents.append({"XADFileName": name, "XADFileSize": length, "RARCRC32": crc})
        bodies.append(data[at + size : at + size + packed])
        at += packed
    at += size
if sys.argv[0].endswith("lsar"):
    print(json.dumps({"lsarContents": contents}))
else:
    sys.stdout.buffer.write(b"".join(bodies))
"""


def unpacker_of_stored_rar(folder: Path) -> None:
    folder.mkdir()
    for name in ("lsar", "unar"):
        (folder / name).write_text(f"#!{sys.executable}\n{UNPACKER}")
        (folder / name).chmod(0o755)


def test_an_archive_of_ucf101_gives_the_same_store_and_leaves_nothing_else(
    packed, unpacked, tmp_path, monkeypatch
):
    assert ucf101(packed, tmp_path / "by-name") == 0
    assert tree(tmp_path / "by-name") == tree(unpacked / "ucf101")
    with monkeypatch.context() as patch:  # a finished store needs nothing unpacked
        patch.setattr(run, "unpack", None)
        assert ucf101(packed, tmp_path / "by-name") == 0
    if packed.suffix != ".zip":
        assert ucf101(tmp_path, tmp_path / "beside") == 0
        assert tree(tmp_path / "beside") == tree(unpacked / "ucf101")


@pytest.mark.parametrize("packed", ["UCF101.zip"], indirect=True)
def test_kill_9_while_an_archive_is_unpacked_leaves_what_an_uninterrupted_run_leaves(
    packed, unpacked, tmp_path
):
    # Dies in the middle of the n-th file that is unpacked, then in that of a shard.
    code = """
import os, signal, sys
from data_prep import archives, run
from data_prep.cli import main
left = [int(sys.argv[1])]
def write(file, data, write=archives.write):
    write(file, data[: len(data) // 2])
    left[0] -= 1
    if not left[0]:
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    file.write(data[len(data) // 2 :])
archives.write = write
sys.exit(main(sys.argv[2:]))
"""
    out = tmp_path / "store"
    arguments = ["ucf101", str(packed), "--out", str(out), "--size", "16", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path])}
    for file in (3, 9):
        done = subprocess.run(
            [sys.executable, "-c", code, str(file), *arguments],
            env=environment,
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL
        assert len(list((out / "parts/unpacked").glob("*.partial"))) == 1
    assert len(list((out / "parts/unpacked").glob("*.avi"))) == 2 + 8
    assert ucf101(packed, out) == 0
    assert tree(out) == tree(unpacked / "ucf101")


def test_a_wrong_archive_is_refused_in_one_line(official, tmp_path, capsys, monkeypatch):
    notes = tmp_path / "notes.tar"
    notes.write_bytes(tar_of({"readme.txt": b"hello"}))
    hostile = tmp_path / "hostile.tar"
    hostile.write_bytes(tar_of({"../../train/a.tfrecords": b"hello"}))
    zipped = tmp_path / "bair.zip"
    zipped.write_bytes(zip_of({"softmotion30_44k/train/traj_0_to_1.tfrecords": b"x"}))
    (tmp_path / "UCF101.rar").write_bytes(rar_of({"UCF-101/a.avi": b"x"}))
    lists = ("--lists", str(official / "ucfTrainTestlist"))
    monkeypatch.setattr(rar.shutil, "which", lambda _: None)
    for command, place, options, problem in (
        ("bair", notes, (), "holds no softmotion30_44k/train/*.tfrecords; the first file is"),
        ("bair", hostile, (), "leads out of its folder"),
        ("bair", zipped, (), "BAIR comes as bair_robot_pushing_dataset_v0.tar, this is a zip"),
        ("ucf101", notes, lists, "none of the 16 videos of split 1 was found"),
        ("ucf101", tmp_path / "UCF101.rar", lists, "apt-get install unar"),
        ("ucf101", notes, ("--lists", str(zipped)), "holds no classInd.txt and no trainlist01.txt"),
        ("ucf101", notes, (), "no folder with classInd.txt, trainlist01.txt, testlist01.txt"),
    ):
        out = tmp_path / "store"
        assert main([command, str(place), "--out", str(out), *options]) == 1
        error = capsys.readouterr().err
        assert problem in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_two_files_for_one_video_are_refused_and_not_chosen_from(official, tmp_path, capsys):
    files = files_of(official, "UCF-101")
    first = next(iter(files))
    twice = tmp_path / "UCF101.zip"
    twice.write_bytes(zip_of({**files, first.replace("/v_", "/V_"): b"another"}))
    options = ("--lists", str(official / "ucfTrainTestlist"))
    assert ucf101(twice, tmp_path / "store", *options) == 1
    assert "are the same video of UCF-101; remove one of them" in capsys.readouterr().err
