"""Tests of encoding raw videos and of Ray: equal bytes as with a clip store on one machine."""

import hashlib
import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from runs import run
from survival import Run, wait_for
from trained import trained_tokenizer

import data_prep.cli
import video_vq.cli
from data_prep import ray_pool
from data_prep.pool import Making, ShardTask
from video_vq.errors import InputError
from video_vq.inspect.describe import describe
from video_vq.media.encode import write_video
from video_vq.media.prepared import FrameRecipe
from video_vq.stages.encode_clips import Encoder
from video_vq.stores.files import sha256_json, write_json
from video_vq.stores.raw_videos import read_raw_videos
from video_vq.stores.tokens import TokenStore

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is an extra: pip install 'video-vq[ray]'"
)
RATES = (10, 25, 30)


def write_videos(root: Path, count: int) -> None:
    """Write videos in several containers, with various rates and lengths (some below a clip's)."""
    for index in range(count):
        folder = root / ("run", "walk")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(index)
        frames = np.full((3 + index % 7 * 2, 24, 32, 3), rng.integers(0, 255, 3), np.uint8)
        for t, frame in enumerate(frames):
            frame[t % 16 : t % 16 + 8, 4:20] = rng.integers(0, 255, 3)
        suffix = (".avi", ".mkv", ".mp4")[index % 3]
        write_video(folder / f"{index:02d}{suffix}", frames, RATES[index % 3])


def hashes(store: Path) -> dict[str, str]:
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with raw videos, their store and list, a tokenizer, and tokens of both."""
    root = tmp_path_factory.mktemp("scale")
    write_videos(root / "raw", 11)
    (root / "raw" / "walk" / "04-notes.mp4").write_text("not a video\n")
    assert prepare(root, "store") == 0
    assert prepare(root, "list", "--list-only") == 0
    trained_tokenizer().save_pretrained(root / "t")
    for data in ("store", "list"):
        assert encode(root, data, root / f"of {data}") == 0
    return root


def prepare(root: Path, out: str | Path, *options: str) -> int:
    paths = (str(root / "raw"), "--out", str(root / out))
    settings = ("--size", "16", "--videos-per-shard", "3", "--workers", "1")
    return data_prep.cli.main(["folder", *paths, *settings, *options])


def encode(root: Path, data: str, out: Path, *options: str) -> int:
    return video_vq.cli.main(encode_command(root, data, out, *options))


def encode_command(root: Path, data: str, out: Path, *options: str) -> list[str]:
    settings = ("--batch-size", "5", "--hop", "2", "--workers", "1")
    paths = (str(root / data), "--tokenizer", str(root / "t"), "--out", str(out))
    return ["encode", *paths, *settings, *options]


def test_raw_videos_give_the_tokens_that_their_store_gives(made):
    stored, raw = TokenStore(made / "of store"), TokenStore(made / "of list")
    for path in (made / "of store").glob("tokens-*.npy"):
        assert path.read_bytes() == (made / "of list" / path.name).read_bytes()
    of_stored, of_raw = (
        {
            (store.video_of(row), *store.window_of(row)[1:]): store.read(row).tobytes()
            for row in range(len(store))
        }
        for store in (stored, raw)
    )
    assert of_stored == of_raw  # ids, labels, splits, groups and rates, too
    assert len(of_raw) == len(raw) > 20
    assert len(set(of_raw.values())) > 3
    assert stored.header.fps == raw.header.fps is not None
    (line,) = (made / "of list" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == json.loads((made / "store" / "skipped.jsonl").read_text())
    assert "fps, mostly (rates are mixed)" in str(describe(made / "of list").facts["each clip"])
    assert raw.num_skipped == 1
    assert stored.num_skipped == 0


def test_two_ranks_and_a_fixed_rate_give_the_same_tokens_again(made, tmp_path, preloaded):
    # Of the plain folder: the other rank reads the list that the first has made.
    preloaded.ranks(
        2, "video-vq", *encode_command(made, "raw", tmp_path / "two", "--videos-per-shard", "3")
    )
    assert hashes(tmp_path / "two") == hashes(made / "of list")
    assert prepare(made, tmp_path / "store", "--fps", "12.5") == 0
    assert prepare(made, tmp_path / "list", "--fps", "12.5", "--list-only") == 0
    for name in ("store", "list"):
        assert encode(made, str(tmp_path / name), tmp_path / f"of {name}") == 0
    shards = sorted((tmp_path / "of store").glob("tokens-*.npy"))
    assert len(shards) == 4
    for path in shards:
        assert path.read_bytes() == (tmp_path / "of list" / path.name).read_bytes()
    assert TokenStore(tmp_path / "of list").header.fps == 12.5


def test_an_encoding_that_is_stopped_goes_on_with_the_next_shard(
    made, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "tokens"
    usual, asked = Encoder.encode, []

    def stop_at_the_third(self, shard, on_video):
        asked.append(shard)
        if len(asked) == 3:
            raise KeyboardInterrupt
        usual(self, shard, on_video)

    monkeypatch.setattr(Encoder, "encode", stop_at_the_third)
    assert encode(made, "list", out) == 130
    assert "stopped; finished work is kept" in capsys.readouterr().err
    assert len(list((out / "parts").glob("shard-*.json"))) == 2
    assert encode(made, "list", out) == 0
    assert asked == [0, 1, 2, 2, 3]
    assert hashes(out) == hashes(made / "of list")
    assert encode(made, "list", out) == 0  # nothing to do
    assert asked == [0, 1, 2, 2, 3]


def test_too_many_unusable_videos_stop_the_encoding_until_more_are_allowed(made, tmp_path, capsys):
    out = tmp_path / "tokens"
    assert encode(made, "list", out, "--max-skipped", "0") == 1
    error = capsys.readouterr().err
    assert "1 of 12 videos cannot be used, more than the allowed share of 0:" in error
    assert "walk/04-notes.mp4: is not a video file" in error
    assert not (out / "manifest.json").exists()
    assert encode(made, "list", out) == 0
    assert "1 video was left out" in capsys.readouterr().out
    assert hashes(out) == hashes(made / "of list")


def test_videos_that_are_all_too_short_are_an_error(made, tmp_path, capsys):
    write_videos(tmp_path / "raw", 1)
    assert prepare(tmp_path, "list", "--list-only") == 0
    assert encode(made, str(tmp_path / "list"), tmp_path / "tokens") == 1
    assert "no video is as long as a clip of this tokenizer (4 frames" in capsys.readouterr().err


def test_a_list_says_nothing_but_names_and_is_checked_when_it_is_read(made, tmp_path, capsys):
    raw = read_raw_videos(made / "list")
    assert raw.num_shards == 4
    assert [video.id for video in raw.videos] == sorted(video.id for video in raw.videos)
    assert prepare(made, "list", "--list-only") == 0
    assert "a list of 12 videos" in capsys.readouterr().out
    manifest = json.loads((made / "list" / "manifest.json").read_text())
    del manifest["sha256"]
    for key, value, problem in (
        ("videos", [{**manifest["videos"][0], "name": "../../etc/passwd"}], "leads out of"),
        ("videos", [{**manifest["videos"][0], "name": "/etc/passwd"}], "leads out of"),
        ("videos", [{**manifest["videos"][0], "label": "flying"}], "unknown class 'flying'"),
        ("videos", [manifest["videos"][0]] * 2, "two videos have the same id"),
        ("videos", [3], "the list is damaged"),
        ("videos_per_shard", 0, "it has no shards"),
        ("recipe", {**manifest["recipe"], "fps": 3.0}, "makes different frames"),
        ("recipe", {"size_hw": [1]}, "the list's recipe is damaged"),
    ):
        damaged = {**manifest, key: value}
        folder = tmp_path / "list"
        folder.mkdir(exist_ok=True)
        write_json(folder / "manifest.json", {**damaged, "sha256": sha256_json(damaged)})
        assert encode(made, str(folder), tmp_path / "tokens") == 1
        assert problem in capsys.readouterr().err


def test_without_ray_its_engine_says_how_to_get_it(made, tmp_path, capsys, monkeypatch):
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else usual(name)
    )
    assert prepare(made, tmp_path / "store", "--engine", "ray") == 1
    assert "pip install 'video-vq[ray]'" in capsys.readouterr().err
    assert encode(made, "list", tmp_path / "tokens", "--engine", "ray") == 1
    assert "pip install 'video-vq[ray]'" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_named(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    fake = ModuleType("ray")  # the true one is never reached
    fake.__spec__ = ModuleSpec("ray", None)
    monkeypatch.setattr(fake, "is_initialized", lambda: False, raising=False)
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert prepare(made, tmp_path / "store", "--engine", "ray") == 1
    error = capsys.readouterr().err
    assert "Ray cannot be reached at RAY_ADDRESS=127.0.0.1:1" in error
    assert "or unset RAY_ADDRESS" in error


RAY = """
import logging, os, signal, sys
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
import ray
import data_prep.cli, video_vq.cli

ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 << 20)
"""
# The driver dies when it hears of the first shard; the tasks of the others have begun or wait.
KILLED_ON_RAY = """
from video_vq.stages import encode_on_ray
run_on_ray = encode_on_ray.run_on_ray

def killed(task, shards, on_done, num_cpus, needs_gpu):
    run_on_ray(task, shards, lambda _: os.kill(os.getpid(), signal.SIGKILL), num_cpus, needs_gpu)

encode_on_ray.run_on_ray = killed
video_vq.cli.main(sys.argv[1:])
"""
# One local Ray for both commands: each start of it takes seconds.
ON_RAY = """
split = sys.argv.index("then")
assert data_prep.cli.main(sys.argv[1:split]) == 0
assert video_vq.cli.main(sys.argv[split + 1 :]) == 0
ray.shutdown()
"""


@needs_ray
def test_ray_prepares_and_encodes_the_same_bytes_though_its_driver_is_killed(made, tmp_path):
    folder = ["folder", str(made / "raw"), "--out", str(tmp_path / "store"), "--size", "16"]
    by_three, on_ray = ("--videos-per-shard", "3"), ("--engine", "ray")
    out = tmp_path / "tokens"
    tokens = encode_command(made, "raw", out, *by_three, *on_ray)
    with Run(tmp_path, [sys.executable, "-c", RAY + KILLED_ON_RAY, *tokens], {}) as started:
        started.wait_until_gone()  # Ray's own processes, too
        assert started.leader.returncode == -signal.SIGKILL, started.text("stderr")
    assert list((out / "parts").glob("shard-*.json"))
    assert not (out / "manifest.json").exists()
    program = [sys.executable, "-c", RAY + ON_RAY, *folder, *by_three, *on_ray]
    run([*program, "then", *tokens])
    assert hashes(tmp_path / "store") == hashes(made / "store")
    assert hashes(out) == hashes(made / "of list")


def test_a_machine_that_does_not_see_the_store_says_so(tmp_path):
    task = ShardTask(0, ())
    with pytest.raises(InputError, match="must lie on a file system that all machines"):
        ray_pool._prepare(Making(tmp_path / "elsewhere", {}, {}, FrameRecipe((16, 16))), task)


@pytest.mark.slow
@needs_ray
def test_five_kills_under_ray_leave_what_an_uninterrupted_run_leaves(tmp_path):
    write_videos(tmp_path / "raw", 200)
    settings = ("--size", "64", "--videos-per-shard", "5")
    paths = ("folder", str(tmp_path / "raw"), "--out")
    assert data_prep.cli.main([*paths, str(tmp_path / "local"), *settings, "--workers", "2"]) == 0
    out = tmp_path / "store"
    command = (sys.executable, "-m", "data_prep", *paths, out, *settings, "--engine", "ray")
    rng = random.Random(0)

    def shards() -> int:
        return len(list((out / "parts").glob("shard-*.json")))

    killed = []
    for kill, target in enumerate(("worker", "driver", "worker", "decoder", "driver")):
        with Run(tmp_path, command, {}) as started:
            wait_for(lambda k=kill: shards() > 7 * k, f"shard {7 * kill}")
            time.sleep(rng.uniform(0, 0.5))
            victims = [started.leader.pid] if target == "driver" else found(started, target)
            psutil.Process(rng.choice(victims)).send_signal(signal.SIGKILL)
            killed.append(target)
            if target == "driver":
                started.wait_until_gone()  # Ray's own processes, too
            else:
                before = shards()
                wait_for(lambda b=before: shards() > b, "a shard after the kill")
    assert killed.count("driver") == 2
    started = subprocess.run(command, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    assert hashes(out) == hashes(tmp_path / "local")
    begun = time.monotonic()
    assert data_prep.cli.main([*paths, str(out), *settings, "--engine", "ray"]) == 0
    print(f"a further run: {time.monotonic() - begun:.2f} s")


def found(started: Run, kind: str) -> list[int]:
    """Return the process ids of Ray's workers, or of their decoders, once there are any."""
    pids: list[int] = []
    marks = {
        "worker": ("ray::_outcome_of",),
        "decoder": ("data_prep.pool", "media.file_decoders"),
    }[kind]

    def look() -> list[int]:
        pids[:] = [
            process.pid
            for process in started.processes()
            if any(mark in " ".join(process.cmdline()) for mark in marks)
        ]
        return pids

    wait_for(look, f"a {kind} to kill")
    return pids


def test_info_says_what_a_list_is(made, capsys):
    assert video_vq.cli.main(["info", str(made / "list")]) == 0
    shown = capsys.readouterr().out
    assert "a list of raw videos" in shown
    assert str(made / "raw") in shown
