"""Tests of `data-prep` from raw files to a store: equal bytes with any decoder and after kills."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from holder import Holder

from data_prep import cli, run
from data_prep.cli import main
from data_prep.table_world.layouts import TableWorldSettings, write_table_world
from data_prep.tfrecord import scan_records
from video_vq.media.encode import write_video
from video_vq.media.folder import FolderSettings, list_videos
from video_vq.media.resize import resize
from video_vq.stores.clips import ClipStore

HAS_DECORD = importlib.util.find_spec("decord") is not None
PACKAGE = Path(cli.__file__).parents[2]


def clip(seed: int, num_frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """Return frames of a bright disc that moves over a dark gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    colour, speed = rng.integers(80, 256, 3), rng.uniform(0.5, 2, 2)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        disc = np.hypot(y - 15 - speed[0] * t, x - 15 - speed[1] * t) < 9
        frames[t] = np.where(disc[..., None], colour, (x + y)[..., None] // 2)
    return frames


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Return a small folder of videos in several containers and sizes, with an invalid file."""
    root = tmp_path_factory.mktemp("raw")
    for index in range(10):
        label = ("run", "walk")[index % 2]
        (root / label).mkdir(exist_ok=True)
        suffix = (".avi", ".mp4", ".mkv")[index % 3]
        frames = clip(index, 8 + index, *((48, 64), (80, 60), (64, 64))[index % 3])
        write_video(root / label / f"{index}{suffix}", frames, (25, 30, 10)[index % 3])
    (root / "walk" / "notes.mp4").write_text("not a video\n")
    return root


def tree(store: Path, without: tuple[str, ...] = ()) -> dict[str, str]:
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name not in without
    }


def folder(raw: Path, out: Path, *options: str) -> int:
    return main(["folder", str(raw), "--out", str(out), "--size", "32", *options])


@pytest.fixture(scope="module")
def reference(raw, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "store"
    assert folder(raw, out, "--workers", "1") == 0
    return out


def test_a_folder_becomes_a_store_and_what_is_no_video_a_line(raw, reference):
    store = ClipStore(reference)
    assert len(store.videos) == 10
    assert store.classes == ("run", "walk")
    assert store.frame_size_hw == (32, 32)
    assert {video.split for video in store.videos} == {"train", "val", "test"}
    line = json.loads((reference / "skipped.jsonl").read_text())
    assert line["path"] == "walk/notes.mp4"
    assert line["reason"].startswith("is not a video file that FFmpeg understands")
    for index, video in enumerate(store.videos):
        number = int(Path(video.id).stem)
        expected = resize(
            clip(number, 8 + number, *((48, 64), (80, 60), (64, 64))[number % 3]), (32, 32)
        )
        found = store.read(index)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 6  # the codec's loss
        assert video.fps == (25, 30, 10)[number % 3]
        source = (raw / video.id).read_bytes()
        assert video.origin == {
            "name": video.id,
            "sha256": hashlib.sha256(source).hexdigest(),
            "packets": 8 + number,
        }


def test_nothing_of_this_machine_is_written_into_the_store(raw, reference):
    for path in reference.glob("*.json*"):
        assert str(raw) not in path.read_text()
        assert str(reference) not in path.read_text()


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_the_bytes_depend_neither_on_the_workers_nor_on_the_decoder(
    raw, reference, tmp_path, decoder
):
    if decoder == "decord" and not HAS_DECORD:
        pytest.skip("decord has no wheel here")
    out = tmp_path / "store"
    assert folder(raw, out, "--workers", "2", "--decoder", decoder) == 0
    without = ("provenance.json",) if decoder == "decord" else ()
    assert tree(out, without) == tree(reference, without)
    made_by = json.loads((out / "provenance.json").read_text())["made_by"]
    assert [entry["decoder"] for entry in made_by] == [decoder]


COUNTED = """
import os, sys
opened, started = [], []
def count(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(sys.argv[1]):
        opened.append(os.path.relpath(arguments[0], sys.argv[1]))
    if event == "subprocess.Popen":
        started.append(arguments[0])
sys.addaudithook(count)
from data_prep.cli import main
code = main(sys.argv[2:])
print(opened, started)
sys.exit(code)
"""


def test_a_second_start_opens_the_manifest_and_nothing_else(raw, reference, tmp_path):
    """So little work cannot take long, however busy the machine is."""
    together = tmp_path / "together"
    together.mkdir()
    for name, place in (("raw", raw), ("store", reference)):
        shutil.copytree(place, together / name)
    arguments = ["folder", str(together / "raw"), "--out", str(together / "store"), "--size", "32"]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(together), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    opened, started = done.stdout.splitlines()[-1].split("] [")
    assert started == "]"
    files = {name.strip(" '") for name in opened.strip("[").split(",")}
    assert files <= {"store", "store/manifest.json"}


def test_a_second_start_does_nothing(raw, reference, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*")}
    monkeypatch.setattr(run, "Pool", None)
    assert folder(raw, reference) == 0
    assert "was complete, nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*")} == before


def test_a_stop_before_the_seal_needs_no_decoding_again(raw, reference, tmp_path, monkeypatch):
    out = tmp_path / "store"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.ClipStoreWriter, "finish", stop)
        assert folder(raw, out) == 130
    monkeypatch.setattr(run.Pool, "_prepare", stop)  # from here on no worker is needed
    assert folder(raw, out) == 0
    assert tree(out) == tree(reference)


def test_other_settings_are_refused_and_the_difference_shown(raw, reference, capsys):
    assert main(["folder", str(raw), "--out", str(reference), "--size", "48"]) == 1
    assert "size_hw: [32, 32] -> [48, 48]" in capsys.readouterr().err


def test_another_list_of_files_is_another_plan(raw, tmp_path, capsys):
    videos, out = tmp_path / "raw", tmp_path / "store"
    videos.mkdir()
    write_video(videos / "a.avi", clip(0), 25)
    assert main(["folder", str(videos), "--out", str(out)]) == 0
    write_video(videos / "b.avi", clip(1), 25)
    assert main(["folder", str(videos), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "the folder now holds 1 more video (2, not 1) than" in error
    assert "with the folder as it was, the same command resumes" in error


def test_two_runs_do_not_fill_one_store(raw, tmp_path, capsys):
    out = tmp_path / "store"
    with Holder(out) as holder:
        assert folder(raw, out) == 1
        assert f"{out}: is being written by {holder.name}" in capsys.readouterr().err


def test_too_many_unusable_videos_stop_the_run_until_more_are_allowed(tmp_path, capsys):
    videos, out = tmp_path / "raw", tmp_path / "store"
    videos.mkdir()
    write_video(videos / "a.avi", clip(0), 25)
    for name in ("b.mp4", "c\x1b[31m.mp4"):
        (videos / name).write_text("text")
    assert main(["folder", str(videos), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "2 of 3 videos cannot be used, more than the allowed share of 0.01" in error
    assert "b.mp4: is not a video file" in error
    assert "\x1b" not in error
    assert not (out / "manifest.json").exists()
    assert main(["folder", str(videos), "--out", str(out), "--max-skipped", "0.7"]) == 0
    assert len(ClipStore(out).videos) == 1
    assert "2 of 3 were left out" in capsys.readouterr().out


def test_a_split_emptied_by_a_broken_file_is_told_with_the_remedy(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    for index in range(5):
        write_video(raw / f"{index}.mp4", clip(index), 25)
    (chosen,) = (v.name for v in list_videos(raw, FolderSettings()).videos if v.split == "val")
    (raw / chosen).write_text("text")
    assert folder(raw, tmp_path / "first") == 0
    told = capsys.readouterr().out
    assert f"{chosen}: is not a video file" in told
    assert "warning: no val videos: training needs train and val" in told
    assert "move them elsewhere, and run the command with another --out" in told
    assert "train-tokenizer" not in told
    (raw / chosen).rename(tmp_path / "elsewhere.mp4")
    assert folder(raw, tmp_path / "second") == 0
    assert "warning" not in capsys.readouterr().out
    splits = sorted(video.split for video in ClipStore(tmp_path / "second").videos)
    assert splits == ["test", "train", "train", "val"]


def test_nothing_usable_is_an_error_even_when_all_may_be_skipped(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_text("text")
    options = ["--out", str(tmp_path / "store"), "--max-skipped", "1"]
    assert main(["folder", str(tmp_path / "raw"), *options]) == 1
    assert "no usable video; 1 skipped" in capsys.readouterr().err


def test_a_fixed_rate_and_a_stride_are_kept_in_the_manifest(raw, reference, tmp_path):
    whole = ClipStore(reference)
    assert folder(raw, tmp_path / "fps", "--fps", "5") == 0
    assert folder(raw, tmp_path / "stride", "--stride", "2") == 0
    slow, strided = ClipStore(tmp_path / "fps"), ClipStore(tmp_path / "stride")
    assert slow.plan["fps"] == 5.0
    assert strided.plan["stride"] == 2
    for index, video in enumerate(whole.videos):
        assert video.fps is not None
        seconds = video.num_frames / video.fps
        assert slow.videos[index].fps == 5.0
        assert slow.videos[index].num_frames == pytest.approx(5 * seconds, abs=1)
        assert strided.videos[index].fps == video.fps / 2
        assert np.array_equal(strided.read(index), whole.read(index)[::2])


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("official")
    write_table_world(root, TableWorldSettings(layout="both", num_videos=24, num_frames=30))
    return root


def test_ucf101s_layout_is_prepared_with_its_official_sides(official, tmp_path, capsys):
    out = tmp_path / "store"
    assert main(["ucf101", str(official), "--out", str(out), "--size", "32"]) == 0
    store = ClipStore(out)
    assert len(store.videos) == 24
    assert len(store.classes) == 4
    test_groups = {int(v.group[-2:]) for v in store.videos if v.split == "test"}
    assert test_groups <= set(range(1, 8))
    assert {v.split for v in store.videos} == {"train", "val", "test"}
    assert all((v.num_frames, v.fps) == (30, 25.0) for v in store.videos)
    assert "next: data-prep verify" in capsys.readouterr().out


def test_bairs_layout_keeps_pixels_actions_and_positions(official, tmp_path):
    stores = {}
    for camera in ("aux1", "main"):
        out = tmp_path / camera
        assert main(["bair", str(official), "--out", str(out), "--camera", camera]) == 0
        stores[camera] = ClipStore(out)
    aux1, other = stores["aux1"], stores["main"]
    assert len(aux1.videos) == 24
    assert aux1.frame_size_hw == (64, 64)
    assert aux1.arrays == {"actions": (4,), "endeffector_pos": (3,)}
    assert aux1.read_array("actions", 5).shape == (30, 4)
    assert np.array_equal(
        aux1.read_array("endeffector_pos", 7), other.read_array("endeffector_pos", 7)
    )
    assert not np.array_equal(aux1.read(7), other.read(7))
    assert [v.split for v in aux1.videos] == [v.split for v in other.videos]


@pytest.mark.parametrize("part", ["data", "length"])
def test_a_damaged_record_costs_one_video_and_is_named_by_its_byte(
    official, tmp_path, capsys, part
):
    root = tmp_path / "root/softmotion30_44k/train"
    root.mkdir(parents=True)
    source = next((official / "softmotion30_44k/train").glob("*.tfrecords"))
    offset, _ = scan_records(source).records[7]
    data = bytearray(source.read_bytes())
    data[offset + (0 if part == "length" else 1000)] ^= 0x04
    (root / source.name).write_bytes(data)
    out = tmp_path / "store"
    options = [str(tmp_path / "root"), "--out", str(out), "--max-skipped"]
    assert main(["bair", *options, "0"]) == 1
    refusal = capsys.readouterr().err
    assert main(["bair", *options, "0.1"]) == 0
    (line,) = (out / "skipped.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["id"] == f"train/{source.stem}/0007"
    assert entry["reason"].startswith(f"byte {offset:,}: ")
    assert "is damaged (its crc32c differs)" in entry["reason"] or part == "length"
    assert f"  train/{source.name}: {entry['reason']}" in refusal
    assert len(ClipStore(out).videos) == len(scan_records(source).records) - 1


def test_verify_names_every_damaged_file_and_draws_a_sheet(reference, tmp_path, capsys):
    from PIL import Image

    sheet = tmp_path / "sheet.png"
    assert main(["verify", str(reference), "--sheet", str(sheet)]) == 0
    shown = capsys.readouterr().out
    assert "every byte is as it was written" in shown
    assert "10; 1 left out" in shown
    with Image.open(sheet) as image:
        assert image.width > 3 * 96
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", str(reference), str(store)], check=True)
    for name in tree(store, without=("provenance.json",)):
        path = store / name
        intact = path.read_bytes()
        damaged = bytearray(intact)
        damaged[len(intact) // 2] ^= 0x01
        path.write_bytes(damaged)
        assert main(["verify", str(store)]) == 1
        assert name in capsys.readouterr().err
        path.write_bytes(intact)
    assert main(["verify", str(store)]) == 0


def test_a_folder_that_has_changed_is_said_in_words(tmp_path, capsys):
    videos, out = tmp_path / "raw", tmp_path / "store"
    videos.mkdir()
    for number in range(2):
        write_video(videos / f"{number}.avi", clip(number), 25)
    assert folder(videos, out) == 0
    before = tree(out)
    capsys.readouterr()
    for number in range(2, 6):
        write_video(videos / f"{number}.avi", clip(number), 25)
    assert folder(videos, out) == 1
    error = capsys.readouterr().err
    assert "the folder now holds 4 more videos (6, not 2) than when this store was begun" in error
    assert f"name another --out for a store of the 6 there are now, or delete {out}" in error
    assert "sha256" not in error
    for number in range(1, 6):
        (videos / f"{number}.avi").unlink()
    assert folder(videos, out) == 1
    assert "now holds 1 fewer video (1, not 2)" in capsys.readouterr().err
    write_video(videos / "other.avi", clip(1), 25)
    assert folder(videos, out) == 1
    assert "still holds 2 videos, but not the same ones as" in capsys.readouterr().err
    assert folder(videos, out, "--stride", "2") == 1
    assert "stride: 1 -> 2" in capsys.readouterr().err
    assert tree(out) == before


def test_a_training_that_would_fail_is_not_proposed(tmp_path, capsys):
    videos = tmp_path / "raw"
    videos.mkdir()
    for number in range(3):
        write_video(videos / f"{number}.avi", clip(number), 25)
        assert main(["folder", str(videos), "--out", str(tmp_path / f"store-{number}")]) == 0
        shown = capsys.readouterr().out
        assert ("train-tokenizer" in shown) == (number == 2), shown
        assert ("warning: no " in shown) == (number < 2)


def test_mixed_frame_rates_are_said_with_the_way_to_one(raw, tmp_path, capsys):
    assert folder(raw, tmp_path / "mixed") == 0
    shown = capsys.readouterr().out
    # Ten videos of 25, 30, 10 fps in turn.
    assert "mixed frame rates: 4 of 25 fps, 3 of 30 fps, 3 of 10 fps" in shown.replace(
        "3 of 10 fps, 3 of 30 fps", "3 of 30 fps, 3 of 10 fps"
    )
    # They last 2, 1.2 and 3.9 s: at 25, 15 frames would be missing in each of 3.9 of 7.1 s.
    assert "`--fps 10`" in shown
    assert "(at 25, 33.0% of the frames would be repeats)" in shown
    assert "warning: " not in shown
    assert folder(raw, tmp_path / "ten", "--fps", "10") == 0
    shown = capsys.readouterr().out
    assert "mixed frame rates" not in shown
    assert "warning: " not in shown
