"""Tests that a worker that dies, hangs or runs too long costs only one video."""

import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.pool import Making, Pool, ShardTask
from data_prep.sources import Item
from video_vq.errors import InputError
from video_vq.media import supervisor
from video_vq.media.prepared import FrameRecipe
from video_vq.stores.clips import ClipStore, ClipStoreWriter

# A worker whose decoder does what the first letters of a video's id say.
STUB = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from data_prep import pool, shard
from video_vq.stores.clips import PreparedVideo, UnusableVideoError, Video

def open_video(opener, item, recipe, watch, notes):
    kind, number = item.id.split("-")
    watch(item.id, "read", recipe.cpu_seconds)
    if kind == "stuckread":
        time.sleep(600)
    watch(item.id, "decode", recipe.cpu_seconds)
    marks = Path(item.path)
    (marks / f"{item.id} {os.getpid()} {time.monotonic_ns()}").touch()
    attempts = len(list(marks.glob(f"{item.id} *")))

    def frames():
        yield np.full((1, 4, 4, 3), int(number), np.uint8)
        if kind == "crash" or (kind == "once" and attempts == 1):
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "flaky" and attempts != 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "memory":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "exit":
            os._exit(3)
        if kind == "hang":
            time.sleep(600)
        if kind == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind == "damaged":
            raise UnusableVideoError("frame 1 is damaged")
        if kind == "full":
            raise OSError(28, "No space left on device")
        if kind == "bug":
            raise KeyError("a mistake of ours")
        if kind == "greedy":
            try:
                np.ones(7 << 30, np.uint8)
            except MemoryError:
                raise UnusableVideoError("needs more memory than a video may have")
        while kind == "spin":
            pass
        yield np.full((2, 4, 4, 3), int(number), np.uint8)

    return PreparedVideo(Video(item.id, None, item.split, item.group), frames(), {})

shard.open_video = pool.open_video = open_video
pool.main()
"""
SECOND = "ends the decoder with SIGSEGV, twice"


def run(
    tmp_path: Path,
    ids: list[str],
    workers: int = 1,
    per_shard: int = 3,
    cpu_seconds: float = 20.0,
    stub: str = STUB,
    stall_seconds: float = 60.0,
) -> tuple[ClipStore, dict[int, int]]:
    marks = tmp_path / "marks"
    marks.mkdir(parents=True)
    recipe = FrameRecipe((4, 4), cpu_seconds=cpu_seconds)
    plan = {"made": "by the test"}
    items = [Item(name, None, "train", name, name, str(marks), 0) for name in ids]
    tasks = [
        ShardTask(shard, tuple(items[first : first + per_shard]))
        for shard, first in enumerate(range(0, len(items), per_shard))
    ]
    counts = dict.fromkeys(range(len(tasks)), 0)

    def on_video(shard: int, change: int) -> None:
        counts[shard] += change

    writer = ClipStoreWriter(tmp_path / "store", (4, 4), plan)
    pool = Pool(
        Making(tmp_path / "store", plan, {}, recipe),
        workers,
        command=(sys.executable, "-c", stub),
        stall_seconds=stall_seconds,
    )
    pool.run(tasks, on_video, on_shard=lambda _: None)
    return writer.finish(len(tasks), []), counts


def left_out(store: ClipStore) -> str:
    return (store.path / "skipped.jsonl").read_text()


def attempts(tmp_path: Path, name: str) -> int:
    return len(list((tmp_path / "marks").glob(f"{name} *")))


def test_all_videos_are_there_whatever_the_number_of_workers(tmp_path):
    ids = [f"fine-{k}" for k in range(8)]
    one, _ = run(tmp_path / "one", ids)
    two, counts = run(tmp_path / "two", ids, workers=2)
    assert [video.id for video in one.videos] == ids
    assert one.content_hash == two.content_hash
    assert counts == {0: 3, 1: 3, 2: 2}
    for index in range(8):
        assert (one.read(index) == index).all()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("crash", SECOND), ("exit", "ends the decoder with exit code 3, twice")],
)
def test_a_video_that_kills_its_worker_twice_is_left_out_alone(tmp_path, kind, reason):
    bad = f"{kind}-1"
    store, counts = run(tmp_path, ["fine-0", bad, "fine-2", "damaged-3", "fine-4"])
    assert [video.id for video in store.videos] == ["fine-0", "fine-2", "fine-4"]
    assert [int(store.read(index).max()) for index in range(3)] == [0, 2, 4]
    assert f'"reason":"{reason}"' in left_out(store)
    assert "frame 1 is damaged" in left_out(store)
    assert attempts(tmp_path, bad) == 2
    assert counts == {0: 3, 1: 2}


def test_a_video_that_fails_once_is_kept(tmp_path):
    store, counts = run(tmp_path, ["fine-0", "once-1", "fine-2"])
    assert [video.id for video in store.videos] == ["fine-0", "once-1", "fine-2"]
    assert left_out(store) == ""
    assert counts == {0: 3}


def test_a_decoder_that_spins_is_stopped_by_the_kernel_after_its_share_of_processor_time(tmp_path):
    store, _ = run(tmp_path, ["fine-0", "spin-1", "fine-2"], cpu_seconds=0.5)
    assert [video.id for video in store.videos] == ["fine-0", "fine-2"]
    assert "takes more than 0 s of CPU time, twice" in left_out(store)


def test_a_decoder_that_sleeps_forever_is_found_and_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.2)
    store, _ = run(tmp_path, ["fine-0", "hang-1", "fine-2"], stall_seconds=2.5)
    assert [video.id for video in store.videos] == ["fine-0", "fine-2"]
    assert "hangs the decoder, twice" in left_out(store)


def test_storage_that_does_not_answer_is_an_error_and_no_skip(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.2)
    with pytest.raises(InputError, match="reading it made no progress for 2 s; check the storage"):
        run(tmp_path, ["fine-0", "stuckread-1"], stall_seconds=2.5)


def test_a_video_may_not_take_all_the_memory(tmp_path):
    store, _ = run(tmp_path, ["fine-0", "greedy-1", "fine-2"])
    assert [video.id for video in store.videos] == ["fine-0", "fine-2"]
    assert "needs more memory than a video may have" in left_out(store)


def test_a_process_that_is_stopped_from_outside_costs_no_video(tmp_path):
    with pytest.raises(InputError, match="made no progress for 2 s; check the storage and the"):
        run(tmp_path, ["fine-0", "stopped-1"], stall_seconds=2.5)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (
            "memory",
            "the system killed the worker that decoded it, twice, probably for lack of memory",
        ),
        ("full", r"store: cannot be written \(No space left on device\)\nNothing is lost"),
        ("flaky", "SIGSEGV among other videos, but not by itself"),
    ],
)
def test_what_is_no_fault_of_the_video_stops_the_run(tmp_path, kind, problem):
    with pytest.raises(InputError, match=problem):
        run(tmp_path, ["fine-0", f"{kind}-1", "fine-2"])


def test_a_mistake_of_ours_is_shown_whole_and_hides_behind_no_skip(tmp_path):
    with pytest.raises(RuntimeError, match=r"KeyError: 'a mistake of ours'"):
        run(tmp_path, ["fine-0", "bug-1"])


def test_workers_that_cannot_start_say_why(tmp_path):
    with pytest.raises(InputError, match=r"3 times outside any video .*\n.*no such machine"):
        run(tmp_path, ["fine-0"], stub="raise SystemExit('no such machine')")


def test_workers_end_with_the_run(tmp_path):
    run(tmp_path, ["fine-0", "fine-1"], workers=2, per_shard=1)
    for mark in (tmp_path / "marks").iterdir():
        process = Path("/proc") / mark.name.split()[1]
        assert not process.exists()


def test_a_recipe_survives_its_way_to_the_worker():
    recipe = FrameRecipe((64, 96), fps=12.5, stride=2, decoder="decord")
    assert FrameRecipe.from_json(recipe.to_json()) == recipe
    assert "decoder" not in recipe.plan()
    assert np.isclose(recipe.cpu_limit(100_000_000), 62.0)
