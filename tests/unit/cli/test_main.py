"""Tests that a failing command prints one line on stderr and exits with the right status."""

import os
import subprocess
import sys

import pytest

import data_prep.cli
import video_vq.cli
from video_vq.cli import info, main
from video_vq.errors import ConfigError, InputError

COMMANDS = {
    "video-vq": (main, ("info",)),
    "data-prep": (data_prep.cli.main, ("verify",)),
}


class OutOfMemoryError(RuntimeError):
    """A stand-in for torch's error of the same name on a GPU."""


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped; finished work is kept, the same command resumes"),
        (ConfigError("two mistakes"), 2, "two mistakes"),
        (InputError("no such folder"), 1, "no such folder"),
        (MemoryError(), 1, "out of memory (MemoryError); lower optim.batch_size"),
        (MemoryError("64 GB\nat line 3"), 1, "out of memory (64 GB); lower optim.batch_size"),
        (OutOfMemoryError("CUDA"), 1, "out of memory (CUDA); lower optim.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 1,
         "out of memory ([enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes); "),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("rank", "where"), [(None, ""), ("0", ""), ("1", " [rank 1]")])
def test_what_ends_a_verb_is_one_line_and_a_status(
    monkeypatch, capsys, error, status, message, rank, where
):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(info, "run", lambda arguments: (_ for _ in ()).throw(error))
    assert main(["info", "."]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"video-vq{where}: {message}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_system_refuses_of_a_file_is_one_line_wherever_it_is_met(
    monkeypatch, capsys, command, tmp_path
):
    main, words = COMMANDS[command]
    name = str(tmp_path / ("x" * 300))
    assert main([*words, name]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{command}: ")
    assert "File name too long" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_failure_of_the_system_that_names_no_file_is_shown_whole(monkeypatch, command):
    def fail(_):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(info, "run", fail)
    monkeypatch.setattr(data_prep.cli.verify, "run", fail)
    main, words = COMMANDS[command]
    with pytest.raises(OSError, match="temporarily"):
        main([*words, "."])


def test_a_verb_that_is_done_passes_its_status_on(monkeypatch):
    for status in (0, 1):
        monkeypatch.setattr(info, "run", lambda arguments, status=status: status)
        assert main(["info", "."]) == status


def test_any_other_error_is_shown_whole(monkeypatch):
    def fail(arguments):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(info, "run", fail)
    with pytest.raises(RuntimeError, match="size mismatch"):
        main(["info", "."])


def test_a_reader_that_has_gone_ends_the_verb_with_1_and_says_nothing_more():
    """As in `video-vq info … | head -0`: flushing stdout at exit must not fail again."""
    code = (
        "import sys\n"
        "from video_vq.cli import info, main\n"
        "info.run = lambda arguments: print('x' * 100_000, flush=True)\n"
        "status = main(['info', '.'])\n"
        "print('what is left in the buffer')\n"
        "print('the end', file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "the end\n")


def test_the_verbs_stand_in_the_help_in_the_order_of_work():
    helped = video_vq.cli.make_parser().format_help()
    places = [helped.index(f"\n    {name} ") for name in ("encode", "sample", "evaluate", "doctor")]
    assert places == sorted(places)
    assert "accelerate launch --multi_gpu --num_processes N -m video_vq" in helped
