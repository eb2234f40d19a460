"""Tests of `data-prep simulate`: equal bytes with any workers, and labeled records."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep import cli, world_files
from data_prep.bin_world import graphics, tfrecords
from data_prep.bin_world.episode import HIGH, LOW, MAX_STEP, MAX_TURN, REACH, draw_actions
from data_prep.bin_world.scene import BIN_HALF, KINDS, MAX_OBJECTS, MIN_OBJECTS, draw_bin, mjcf
from data_prep.bin_world.tfrecords import LABEL, BinWorldSettings, write_bin_world
from data_prep.cli import main
from data_prep.sources.bair import BairSettings, list_bair
from data_prep.tfrecord import encode_example, parse_example, read_record, write_records
from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore

PACKAGE = Path(cli.__file__).parents[2]


def _missing() -> str | None:
    try:
        graphics.find_graphics()
    except InputError as error:
        return str(error).splitlines()[0]
    return None


MISSING = _missing()
renders = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    if MISSING is not None:
        pytest.skip(MISSING)
    folder = tmp_path_factory.mktemp("simulated") / "out"
    write_bin_world(folder, BinWorldSettings(num_train=5, num_test=2), workers=1)
    return folder


def test_objects_lie_apart_inside_the_bin():
    counts = set()
    for seed in range(200):
        scene = draw_bin(np.random.default_rng(seed))
        counts.add(len(scene.bodies))
        for number, body in enumerate(scene.bodies):
            assert max(abs(x) for x in body.position) + body.half < BIN_HALF
            for other in scene.bodies[:number]:
                assert np.hypot(*np.subtract(body.position, other.position)) > body.half
    assert counts <= set(range(MIN_OBJECTS, MAX_OBJECTS + 1))
    assert {MIN_OBJECTS, MAX_OBJECTS} <= counts


def test_commands_stay_in_the_bin_and_persist():
    rng = np.random.default_rng(0)
    start = (0.05, -0.05, 0.04, 0.3)
    actions = draw_actions(rng, start, 3000)
    places = np.array(start) + np.cumsum(actions, axis=0)
    assert np.abs(places[:, :2]).max() <= REACH + 1e-9
    assert places[:, 2].min() >= LOW - 1e-9
    assert places[:, 2].max() <= HIGH + 1e-9
    assert np.abs(actions[:, 3]).max() <= MAX_TURN
    # A heading that is kept makes a step resemble the one before it; a fresh one would not.
    alike = (actions[1:, :2] * actions[:-1, :2]).sum(axis=1)
    assert alike.mean() > 0.4 * (actions[:, :2] ** 2).sum(axis=1).mean()
    assert (places[:, 2] < 0.02).mean() > 0.5  # most of the time where the objects are


def test_an_episode_is_a_pure_function_of_its_numbers():
    texts = [mjcf(draw_bin(np.random.default_rng([0, 0, n])), 128) for n in (3, 4, 3)]
    assert texts[0] == texts[2] != texts[1]
    drawn = {body.kind for n in range(50) for body in draw_bin(np.random.default_rng(n)).bodies}
    assert drawn == set(KINDS)


def test_the_bytes_do_not_depend_on_the_number_of_workers(simulated, tmp_path):
    write_bin_world(tmp_path / "two", BinWorldSettings(num_train=5, num_test=2), workers=2)
    assert tree(tmp_path / "two") == tree(simulated)


def test_a_longer_set_begins_like_a_shorter_one(simulated, tmp_path):
    write_bin_world(tmp_path / "short", BinWorldSettings(num_train=2, num_test=1), workers=1)
    short = tmp_path / "short/softmotion30_44k/train/traj_0_to_1.tfrecords"
    long = simulated / "softmotion30_44k/train/traj_0_to_4.tfrecords"
    assert read_record(short, 0) == read_record(long, 0)


def test_a_second_start_does_nothing_and_another_seed_is_refused(simulated, monkeypatch):
    before = tree(simulated)
    monkeypatch.setattr(tfrecords, "_write_all", None)
    write_bin_world(simulated, BinWorldSettings(num_train=5, num_test=2))
    with pytest.raises(InputError, match=r"seed: 0 -> 1"):
        write_bin_world(simulated, BinWorldSettings(num_train=5, num_test=2, seed=1))
    assert tree(simulated) == before


def test_the_store_holds_the_records_of_either_camera_and_says_simulated(
    simulated, tmp_path, capsys
):
    pictures = []
    for camera in ("aux1", "main"):
        out = tmp_path / camera
        options = ["--camera", camera, "--val", "0.2", "--workers", "1"]
        assert main(["bair", str(simulated), "--out", str(out), *options]) == 0
        assert "these episodes are simulated" in capsys.readouterr().out
        assert main(["verify", str(out)]) == 0
        assert f"simulated {LABEL}" in capsys.readouterr().out
        store = ClipStore(out)
        assert store.plan["simulated"] == LABEL
        assert [video.num_frames for video in store.videos] == [30] * 7
        example = parse_example(
            read_record(simulated / "softmotion30_44k/train/traj_0_to_4.tfrecords", 0)
        )
        index = next(n for n, video in enumerate(store.videos) if video.id.endswith("4/0000"))
        raw = b"".join(example[f"{t}/image_{camera}/encoded"][0] for t in range(30))
        assert store.read(index).tobytes() == raw
        actions = np.stack([example[f"{t}/action"] for t in range(30)])
        assert np.array_equal(store.read_array("actions", index), actions)
        pictures.append(store.read(index))
    assert not np.array_equal(*pictures)
    assert all(picture.std() > 20 for picture in pictures)  # a scene, not an empty context


def test_the_hand_follows_its_commands_and_pushes_objects(simulated):
    pushed = json.loads((simulated / "pushed/train_traj_0_to_4.json").read_text())
    assert pushed["touched"] >= 3
    record = read_record(simulated / "softmotion30_44k/train/traj_0_to_4.tfrecords", 0)
    example = parse_example(record)
    positions = np.stack([np.asarray(example[f"{t}/endeffector_pos"]) for t in range(30)])
    actions = np.stack([np.asarray(example[f"{t}/action"]) for t in range(30)])
    wanted = positions[0] + np.cumsum(actions[:-1, :3], axis=0)
    assert np.abs(positions[1:] - wanted).max() < MAX_STEP  # it lags by less than a frame's step


@renders
def test_a_killed_simulation_goes_on_with_the_file_it_was_at(tmp_path, monkeypatch):
    command = f"""
from pathlib import Path
from data_prep import world_files
from data_prep.bin_world import tfrecords
world_files.PER_FILE = 2
if __name__ == "__main__":
    killed = Path({str(tmp_path / "killed")!r})
    tfrecords.write_bin_world(killed, tfrecords.BinWorldSettings(6, 1))
"""
    script = tmp_path / "script.py"
    script.write_text(command)
    env = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    process = subprocess.Popen([sys.executable, str(script)], env=env, stderr=subprocess.DEVNULL)
    first = tmp_path / "killed/pushed/train_traj_0_to_1.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    inode = (tmp_path / "killed/softmotion30_44k/train/traj_0_to_1.tfrecords").stat().st_ino
    monkeypatch.setattr(world_files, "PER_FILE", 2)
    for name in ("killed", "whole"):
        write_bin_world(tmp_path / name, BinWorldSettings(6, 1), workers=1)
    after = (tmp_path / "killed/softmotion30_44k/train/traj_0_to_1.tfrecords").stat().st_ino
    assert after == inode  # it was kept, not made again
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def record(label: bytes | None) -> bytes:
    features = {} if label is None else {"simulated": [label]}
    for camera in ("main", "aux1"):
        features[f"0/image_{camera}/encoded"] = [bytes(12)]
    numbers = {"0/action": np.zeros(4, np.float32), "0/endeffector_pos": np.zeros(3, np.float32)}
    return encode_example({**features, **numbers})


def test_simulated_files_among_others_are_refused(tmp_path):
    folder = tmp_path / "softmotion30_44k" / "train"
    folder.mkdir(parents=True)
    write_records(folder / "traj_0_to_1.tfrecords", [record(None)] * 2)
    assert list_bair(tmp_path, BairSettings()).simulated is None
    write_records(folder / "traj_2_to_3.tfrecords", [record(b"other")] * 2)
    with pytest.raises(InputError, match="labelled differently as simulated"):
        list_bair(tmp_path, BairSettings())


def test_a_simulated_record_inside_a_file_of_others_is_left_out(tmp_path):
    folder = tmp_path / "softmotion30_44k" / "train"
    folder.mkdir(parents=True)
    records = [record(None), record(b"other"), record(None)]
    write_records(folder / "traj_0_to_2.tfrecords", records)
    options = ["--out", str(tmp_path / "store"), "--workers", "1", "--max-skipped", "0.5"]
    assert main(["bair", str(tmp_path), *options]) == 0
    assert len(ClipStore(tmp_path / "store").videos) == 2
    assert "simulated by other" in (tmp_path / "store/skipped.jsonl").read_text()
    assert "simulated" not in ClipStore(tmp_path / "store").plan


def test_without_mujoco_or_opengl_the_message_says_what_to_install(monkeypatch, capsys, tmp_path):
    command = ["simulate", str(tmp_path / "out"), "--episodes", "2"]
    monkeypatch.setattr(graphics, "PROBE", "raise SystemExit('no display')")
    if MISSING is None:
        assert main(command) == 1
        message = capsys.readouterr().err
        assert "egl: no display" in message
        assert "apt-get install libosmesa6" in message
    monkeypatch.setattr(graphics.importlib.util, "find_spec", lambda name: None)
    assert main(command) == 1
    assert "pip install 'video-vq[sim]'" in capsys.readouterr().err


def test_a_folder_of_something_else_and_odd_numbers_are_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="seed must lie in"):
        write_bin_world(tmp_path, BinWorldSettings(seed=-1))
    assert main(["simulate", str(tmp_path), "--episodes", "3", "--test-episodes", "3"]) == 1
    assert "at least one must be left for training" in capsys.readouterr().err
    if MISSING is None:
        assert main(["simulate", str(tmp_path), "--episodes", "3"]) == 1
        assert "holds other files" in capsys.readouterr().err
