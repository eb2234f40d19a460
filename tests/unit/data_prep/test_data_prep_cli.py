"""Tests that `data-prep` reports mistakes early, in one line and without a traceback."""

import subprocess
import sys

import pytest

from data_prep.cli import main


@pytest.mark.parametrize("command", ["", "folder", "ucf101", "bair", "synthetic", "verify"])
def test_help_needs_neither_decoder_nor_torch_nor_numpy(command):
    heavy = {"torch", "av", "decord", "numpy", "PIL", "pydantic"}
    code = f"""
import sys
from data_prep.cli import main
try:
    main({[*command.split(), "--help"]!r})
except SystemExit as end:
    found = {heavy!r} & set(sys.modules)
    sys.exit(end.code or (f"imported {{found}}" if found else 0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: data-prep" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["foldr", "x"], "invalid choice: 'foldr'"),
        (["foldr", "x"], "\ndid you mean folder?\n"),
        (["folder", "x"], "required: --out"),
        (["folder", "x", "--out", "y", "--size", "64x"], "expected PIXELS or HEIGHTxWIDTH"),
        (["folder", "x", "--out", "y", "--size", "0"], "a side has 1 to 4096 pixels"),
        (["folder", "x", "--out", "y", "--fps", "nan"], "expected a number above 0"),
        (["folder", "x", "--out", "y", "--fps", "5", "--stride", "2"], "not allowed with"),
        (["folder", "x", "--out", "y", "--workers", "0"], "expected a whole number of at least 1"),
        (["folder", "x", "--out", "y", "--val", "1.5"], "expected a share from 0 to 1"),
        (["folder", "x", "--out", "y", "--decoder", "cv2"], "invalid choice: 'cv2'"),
        (["folder", "x", "--out", "y", "--extensions", ","], "expected endings like mp4,avi"),
        (["ucf101", "x", "--out", "y", "--split", "4"], "invalid choice: 4"),
        (["bair", "x", "--out", "y", "--camera", "aux2"], "invalid choice: 'aux2'"),
        (["folder", "x", "--out", "y", "--sise", "64"], "--sise 64\ndid you mean --size?"),
        (["folder", "x", "--ot", "y"], "--out; unrecognized: --ot\ndid you mean --out?"),
        (["synthetic", "x", "--vidoes=9"], "did you mean --videos?"),
        (["bair", "x", "--out", "y", "--fps", "5"], "unrecognized arguments: --fps 5"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_argument(capsys, arguments, problem):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    if "unrecognized" in problem or "did you mean --" in problem:
        assert error.startswith(f"usage: data-prep {arguments[0]} ")


@pytest.mark.parametrize("command", ["folder", "ucf101", "bair"])
def test_a_missing_folder_exits_with_1_and_says_so_in_one_line(capsys, tmp_path, command):
    assert main([command, str(tmp_path / "none"), "--out", str(tmp_path / "store")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"data-prep: {tmp_path}/none: expected")
    assert error.count("\n") == 1
    assert not (tmp_path / "store").exists()


def test_verify_of_what_is_no_store_says_how_to_make_one(capsys, tmp_path):
    assert main(["verify", str(tmp_path)]) == 1
    assert "make a clip store with `data-prep folder" in capsys.readouterr().err
    assert main(["verify", str(tmp_path), "--sheet", "sheet.jpg"]) == 1
    assert "must end in .png" in capsys.readouterr().err


def test_a_file_where_the_store_should_be_is_left_alone(capsys, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_text("x")
    (tmp_path / "store").write_text("mine")
    assert main(["folder", str(tmp_path / "raw"), "--out", str(tmp_path / "store")]) == 1
    assert "is not a writable folder" in capsys.readouterr().err
    assert (tmp_path / "store").read_text() == "mine"
