"""Tests of the note on views of one scene in different splits, printed before decoding."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main
from video_vq.media.encode import write_video

NAMES = [f"{scene}_cam{number}.avi" for scene in ("a", "b", "c", "d") for number in (1, 2)]
NOTE = "note: names that differ only in a view or number lie in different splits"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("views") / "raw"
    root.mkdir()
    for name in NAMES:
        write_video(root / name, np.zeros((2, 16, 16, 3), np.uint8), 25)
    (root / "all.csv").write_text("\n".join(["path", *NAMES]))
    groups = (f"{name},{name[0]}" for name in NAMES)
    (root / "groups.csv").write_text("\n".join(["path,group", *groups]))
    return root


@pytest.mark.parametrize("videos", ["", "all.csv"])
def test_views_in_different_splits_are_said_at_the_beginning_and_the_end(
    raw, tmp_path, capsys, videos
):
    options = ("--size", "16", "--workers", "1", "--val", "0.3", "--test", "0.3")
    assert main(["folder", str(raw / videos), "--out", str(tmp_path / "store"), *options]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(NOTE)
    assert NOTE in shown.out
    assert "--group-regex" in shown.out
    listed = [*options[:2], "--list-only", *options[4:]]
    assert main(["folder", str(raw / videos), "--out", str(tmp_path / "list"), *listed]) == 0
    assert NOTE in capsys.readouterr().out


@pytest.mark.parametrize(
    ("videos", "grouping"), [("", ("--group-regex", "^(.)_")), ("groups.csv", ())]
)
def test_scenes_that_are_grouped_need_no_note(raw, tmp_path, capsys, videos, grouping):
    options = ("--size", "16", "--list-only", "--val", "0.3", "--test", "0.3", *grouping)
    assert main(["folder", str(raw / videos), "--out", str(tmp_path / "list"), *options]) == 0
    assert "note: " not in "".join(capsys.readouterr())
