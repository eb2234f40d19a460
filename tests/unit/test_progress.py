"""Tests of progress output: in terminals, logs and notebooks, and with --quiet."""

import io
import sys

import pytest
from tqdm import tqdm

from video_vq import progress as module
from video_vq.progress import is_quiet, progress, set_quiet


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_whole_lines_and_how_it_ended(capsys, monkeypatch):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    with progress("encoding", 4, "clip", initial=1) as bar:
        for _ in range(3):
            bar.update()
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert "\r" not in said
    assert [line.partition(" clips")[0] for line in lines] == [
        "encoding: 50 %, 2 of 4",
        "encoding: 75 %, 3 of 4",
        "encoding: 100 %, 4 of 4",
    ]
    assert all("left" in line and "clip/s" in line for line in lines)


def test_what_is_soon_done_is_one_line(capsys):
    with progress("reading", None, "file") as bar:
        bar.update(7)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reading: 7 files, ")


def test_a_slow_rate_is_still_a_number_of_units_per_second(capsys):
    with progress("scoring", None, "clip") as bar:
        bar.start_t -= 20  # as if it had begun 20 s ago
        bar.n = 4
    assert capsys.readouterr().err.rstrip().endswith(" 0.20 clip/s")


def test_a_terminal_gets_a_line_that_moves(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("encoding", 2, "clip") as bar:
        bar.update(2)
    assert stream.getvalue().startswith("\rencoding: ")


def test_quiet_and_nothing_to_do_show_nothing(capsys):
    for total, quiet in ((5, True), (0, False)):
        set_quiet(quiet)
        assert is_quiet() == quiet
        try:
            with progress("encoding", total, "clip") as bar:
                bar.update(total)
        finally:
            set_quiet(False)
    assert capsys.readouterr().err == ""


def test_a_notebook_gets_a_widget(capsys, monkeypatch):
    pytest.importorskip("tqdm.notebook")
    made = []

    class Widget(tqdm):
        def __init__(self, **settings):
            made.append(settings)
            super().__init__(disable=True)

    monkeypatch.setattr(module, "_in_notebook", lambda: True)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("tqdm.notebook.tqdm", Widget)
    progress("encoding", 2, "clip")
    assert made == [{"total": 2, "desc": "encoding", "unit": " clip", "initial": 0}]
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with progress("encoding", 2, "clip") as bar:  # without ipywidgets, lines
        bar.update()
    assert "encoding: 50 %, 1 of 2 clips" in capsys.readouterr().err
