"""Tests that a file that crashes its decoder costs only that file; order and frames stay."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.media import supervisor
from video_vq.media.encode import write_video
from video_vq.media.file_decoders import DecodedFile, FileDecoders, FileToDecode
from video_vq.media.prepared import FrameRecipe, open_file
from video_vq.media.probe import UnreadableVideoError

# A worker whose decoder does what the first letters of a file's name say.
STUB = """
import os, signal, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from video_vq.media import file_decoders
from video_vq.media.probe import UnreadableVideoError

def open_file(path, num_bytes, recipe, watch):
    kind, number = Path(path).name.split("-")
    if kind == "stuckread":
        time.sleep(600)
    watch("decode", recipe.cpu_seconds)
    Path(f"{path} {os.getpid()} {recipe.decoder}").touch()
    attempts = len(list(Path(path).parent.glob(f"{Path(path).name} *")))

    def frames():
        yield np.full((1, 4, 4, 3), int(number), np.uint8)
        if kind == "crash" or (kind == "once" and attempts == 1):
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "memory":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(600)
        if kind == "damaged":
            raise UnreadableVideoError(path, "frame 1 is damaged")
        if kind == "full":
            raise OSError(28, "No space left on device")
        if kind == "bug":
            raise KeyError("a mistake of ours")
        while kind == "spin":
            pass
        yield np.full((1, 4, 4, 3), int(number), np.uint8)

    nothing = {"oddities": lambda: [], "num_repeated": lambda: 0}
    return SimpleNamespace(frames=frames(), fps=10.0, **nothing)

file_decoders.open_file = open_file
file_decoders.main()
"""


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch) -> Path:
    """Return the folder in which decoders store frames; let their supervisor check often."""
    folder = tmp_path / "frames"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.1)
    return folder


def decode(
    tmp_path: Path, *names: str, workers: int = 1, stub: str = STUB, stall_seconds: float = 60.0
) -> list[DecodedFile | UnreadableVideoError]:
    recipe = FrameRecipe((4, 4), cpu_seconds=0.5, decoder="decord")
    files = [FileToDecode(str(tmp_path / name), 0) for name in names]
    command = (sys.executable, "-c", stub)
    with FileDecoders(recipe, workers, command, stall_seconds) as decoders:
        return list(decoders.decode(files))


def value(found: DecodedFile | UnreadableVideoError) -> int | str:
    if isinstance(found, UnreadableVideoError):
        return found.reason
    assert found.frames.shape == (2, 4, 4, 3)
    return int(found.frames.max())


def test_files_come_in_their_order_and_those_that_end_their_decoder_with_the_reason(
    tmp_path, spool
):
    names = ("fine-0", "crash-1", "once-2", "damaged-3", "spin-4", "fine-5")
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        assert [value(found) for found in decode(folder, *names, workers=workers)] == [
            0,
            "ends the decoder with SIGSEGV, twice",
            2,
            "frame 1 is damaged",
            "takes more than 0 s of CPU time, twice",
            5,
        ]
        tries = {path.name.split()[0]: [] for path in folder.iterdir()}
        for path in folder.iterdir():
            name, pid, decoder = path.name.split()
            tries[name].append((pid, decoder))
        assert len(tries["fine-0"]) == 1
        assert {decoder for _, decoder in tries["crash-1"]} == {"decord", "pyav"}
        assert len({pid for pid, _ in tries["once-2"]}) == 2
        pids = {pid for attempts in tries.values() for pid, _ in attempts}
        assert not any((Path("/proc") / pid).exists() for pid in pids)
    assert not list(spool.iterdir())


def test_a_decoder_that_sleeps_is_stopped_and_storage_that_does_not_answer_is_an_error(tmp_path):
    (found,) = decode(tmp_path, "hang-1", stall_seconds=0.8)
    assert value(found) == "hangs the decoder, twice"
    with pytest.raises(InputError, match="stuckread-1: reading it made no progress for 1 s"):
        decode(tmp_path, "stuckread-1", stall_seconds=0.8)


@pytest.mark.parametrize(
    ("name", "error", "problem"),
    [
        ("memory-1", InputError, "the system killed the worker that decoded it, twice"),
        (
            "full-1",
            InputError,
            r"written \(No space left on device\); set TMPDIR to another folder",
        ),
        ("bug-1", RuntimeError, "KeyError: 'a mistake of ours'"),
    ],
)
def test_what_is_no_fault_of_the_file_ends_the_run(tmp_path, spool, name, error, problem):
    with pytest.raises(error, match=problem):
        decode(tmp_path, "fine-0", name, "fine-2")
    assert not list(spool.iterdir())


def test_workers_that_cannot_start_say_why(tmp_path):
    with pytest.raises(InputError, match=r"3 times outside any video .*\n.*no such machine"):
        decode(tmp_path, "fine-0", stub="raise SystemExit('no such machine')")


def test_what_is_decoded_in_a_child_is_what_is_decoded_here(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.mkv"
    write_video(path, rng.integers(0, 255, (9, 24, 32, 3), dtype=np.uint8), 10)
    recipe = FrameRecipe((8, 12), fps=5.0)
    size = path.stat().st_size
    opened = open_file(path, size, recipe, lambda *_: None)
    here = np.concatenate(list(opened.frames))
    files = [FileToDecode(str(path), size), FileToDecode(str(path), size - 1)]
    with FileDecoders(recipe, 1) as decoders:
        (found, changed) = decoders.decode(files)
    assert isinstance(found, DecodedFile)
    assert found.fps == 5
    assert np.array_equal(found.frames, here)
    assert "when it was listed; something writes to it" in str(value(changed))


def test_a_reader_that_gives_up_waits_for_no_decoder(tmp_path, spool):
    recipe = FrameRecipe((4, 4), cpu_seconds=500.0)
    files = [FileToDecode(str(tmp_path / f"{kind}-1"), 0) for kind in ("fine", "hang", "hang")]
    with FileDecoders(recipe, 2, (sys.executable, "-c", STUB)) as decoders:
        for found in decoders.decode(files):
            assert value(found) == 1
            break
    assert not list(spool.iterdir())
