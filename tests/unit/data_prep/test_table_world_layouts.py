"""Tests of the synthetic videos in the official layouts."""

import errno
import json

import av
import numpy as np
import pytest

from data_prep.cli import main
from data_prep.table_world import layouts
from data_prep.table_world.layouts import TableWorldSettings, write_table_world
from data_prep.table_world.motion import CLASSES
from data_prep.table_world.render import render_clip
from data_prep.tfrecord import parse_example, read_record, scan_records
from video_vq.errors import InputError
from video_vq.stores.lock import LOCK

SMALL = TableWorldSettings(layout="ucf101", num_videos=12, num_frames=5, size=32, seed=3)
BAIR = TableWorldSettings(layout="bair", num_videos=8, num_frames=30, size=64, seed=3)


def tree(folder):
    """Return the bytes of all files in a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path):
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    out = tmp_path_factory.mktemp("ucf")
    write_table_world(out, SMALL)
    return out


@pytest.fixture(scope="module")
def bair(tmp_path_factory):
    out = tmp_path_factory.mktemp("bair")
    write_table_world(out, BAIR)
    return out


def test_class_numbers_follow_the_classes_in_order(ucf):
    expected = [f"{number} {name}" for number, name in enumerate(sorted(CLASSES), 1)]
    assert lines(ucf / "ucfTrainTestlist" / "classInd.txt") == expected


@pytest.mark.parametrize(("split", "tested"), [(1, range(1, 8)), (2, range(8, 15))])
def test_each_split_has_every_video_once_on_the_side_of_its_group(ucf, split, tested):
    train = lines(ucf / "ucfTrainTestlist" / f"trainlist{split:02d}.txt")
    test = lines(ucf / "ucfTrainTestlist" / f"testlist{split:02d}.txt")
    assert train
    assert test
    names = [line.split()[0] for line in train] + test
    files = [str(path.relative_to(ucf / "UCF-101")) for path in ucf.rglob("*.avi")]
    assert sorted(names) == sorted(files)
    for line in train:
        name, number = line.split()
        assert CLASSES[int(number) - 1] == name.split("/")[0]
    for name in names:
        folder, file = name.split("/")
        assert file.startswith(f"v_{folder}_g")
        group = int(file.split("_g")[1][:2])
        assert (name in test) == (group in tested)


def test_both_sides_of_the_first_split_have_every_class(ucf):
    for name in ("trainlist01.txt", "testlist01.txt"):
        found = {line.split("/")[0] for line in lines(ucf / "ucfTrainTestlist" / name)}
        assert found == set(CLASSES)


def test_an_avi_holds_the_rendered_clip(ucf):
    path = ucf / "UCF-101" / "PushLeft" / "v_PushLeft_g08_c01.avi"  # clip 1: first group, 2nd class
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("mpeg4", 25)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    clip = render_clip(SMALL.seed, 1, SMALL.num_frames, SMALL.size)
    assert clip.label == "PushLeft"
    assert np.abs(frames.astype(int) - clip.frames).mean() < 8  # colour is stored at half size


def test_a_hundred_and_first_video_is_the_second_of_its_class_and_group(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(layouts, "_write_avi", lambda *args: written.append(args[2]))
    write_table_world(tmp_path, TableWorldSettings(num_videos=201))
    names = [place.ucf_name for place in written]
    assert names[0] == "PushAway/v_PushAway_g08_c01.avi"
    assert names[100] == "PushAway/v_PushAway_g08_c02.avi"
    assert names[200] == "PushAway/v_PushAway_g08_c03.avi"
    assert len(set(names)) == 201


def test_bair_records_hold_both_cameras_actions_and_positions(bair):
    root = bair / "softmotion30_44k"
    assert [str(path.relative_to(root)) for path in sorted(root.rglob("*.tfrecords"))] == [
        "test/traj_0_to_3.tfrecords",
        "train/traj_0_to_3.tfrecords",
    ]
    path = root / "train" / "traj_0_to_3.tfrecords"
    offsets = scan_records(path).records
    assert len(offsets) == 4
    example = parse_example(read_record(path, offsets[2][0]))
    assert len(example) == 30 * 4
    views = {name: render_clip(BAIR.seed, 2, camera=name) for name in ("aux1", "main")}
    for frame in (0, 29):
        for name, clip in views.items():
            assert example[f"{frame}/image_{name}/encoded"] == [clip.frames[frame].tobytes()]
            assert clip.frames[frame].nbytes == 12_288
        assert np.array_equal(example[f"{frame}/action"], views["aux1"].actions[frame])
        positions = views["aux1"].positions[frame]
        assert np.array_equal(example[f"{frame}/endeffector_pos"], positions)


def test_a_finished_folder_is_left_alone(ucf, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in ucf.rglob("*")}
    monkeypatch.setattr(layouts, "render_clip", None)
    write_table_world(ucf, SMALL)
    assert {path: path.stat().st_mtime_ns for path in ucf.rglob("*")} == before


def test_a_killed_run_is_continued_to_the_same_bytes(ucf, tmp_path, monkeypatch):
    render, calls = layouts.render_clip, []

    def killed_at_the_sixth(seed, index, *rest):
        calls.append(index)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return render(seed, index, *rest)

    monkeypatch.setattr(layouts, "render_clip", killed_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        write_table_world(tmp_path, SMALL)
    assert not json.loads((tmp_path / "synthetic.json").read_text())["complete"]
    write_table_world(tmp_path, SMALL)
    assert calls == [0, 1, 2, 3, 4, 5, *range(5, 12)]  # what was written is not rendered again
    assert tree(tmp_path) == tree(ucf)


def test_several_processes_write_the_same_bytes_as_one(ucf, tmp_path):
    write_table_world(tmp_path, SMALL, workers=2)
    assert tree(tmp_path) == tree(ucf)


def test_other_settings_for_the_same_folder_are_refused_with_the_difference(ucf):
    with pytest.raises(InputError, match="num_frames: 5 -> 6"):
        write_table_world(ucf, TableWorldSettings("ucf101", 12, 6, 32, 3))


def test_a_lock_that_a_killed_run_left_behind_is_in_nobodys_way(ucf, tmp_path):
    (tmp_path / LOCK).touch()
    write_table_world(tmp_path, SMALL)
    assert tree(tmp_path) == tree(ucf)


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        write_table_world(tmp_path, SMALL)
    with pytest.raises(InputError, match="is a file"):
        write_table_world(tmp_path / "thesis.txt", SMALL)
    assert tree(tmp_path) == {"thesis.txt": b"mine"}


def test_a_full_disk_is_told_in_one_sentence(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layouts, "_write_ucf101", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); nothing"):
        write_table_world(tmp_path / "raw", TableWorldSettings(layout="ucf101", num_videos=8))


def test_all_settings_out_of_range_are_named_at_once(tmp_path):
    settings = TableWorldSettings("both", num_videos=7, num_frames=1, size=33, seed=-1)
    with pytest.raises(InputError) as caught:
        write_table_world(tmp_path / "out", settings, workers=0)
    message = str(caught.value)
    for part in ("num_videos", "num_frames", "workers", "seed", "size must be even", "30 frames"):
        assert part in message
    assert not (tmp_path / "out").exists()


def test_the_command_writes_what_its_arguments_say(tmp_path):
    words = ["--videos", "8", "--frames", "2", "--size", "16", "--seed", "4", "--workers", "1"]
    assert main(["synthetic", str(tmp_path / "out"), *words]) == 0
    plan = json.loads((tmp_path / "out" / "synthetic.json").read_text())["plan"]
    del plan["renderer"]
    assert plan == {"layout": "ucf101", "num_videos": 8, "num_frames": 2, "size": 16, "seed": 4}
    assert len(list((tmp_path / "out").rglob("*.avi"))) == 8
