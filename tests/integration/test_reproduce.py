"""Tests of the reproduce scripts with `SMOKE=1`, from official layouts to scores."""

import json
import os
import sys
from pathlib import Path

import pytest
from runs import run

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.weights
@pytest.mark.parametrize(
    ("script", "grid"), [("reproduce_bair.sh", [5, 16, 16]), ("reproduce_ucf101.sh", [4, 8, 8])]
)
def test_the_whole_chain_runs_on_the_official_layout(script, grid, tmp_path, preloaded):
    folders = [str(preloaded.folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    run(
        ["bash", REPOSITORY / "scripts" / script, tmp_path / "data", tmp_path / "out"],
        SMOKE="1",
        PATH=os.pathsep.join(folders),
    )
    out = tmp_path / "out"
    scores = json.loads((out / "scores" / "scores.json").read_text())
    assert scores["split"] == "test"
    assert scores["num_clips"] == 2
    assert scores["num_frames_in_fvd"] == 16
    assert scores["reconstruction"]["rfvd"]["value"] > 0
    assert scores["generation"]["gfvd"]["value"] > 0
    assert 0 < scores["prior"]["bits_per_token"] < 10
    assert {"psnr_clip_mean", "psnr_first_frame", "fvd_first_frame"} <= set(scores["controls"])
    config = json.loads((out / "tokenizer" / "tokenizer" / "config.json").read_text())
    assert config["facts"]["grid_thw"] == grid
    assert config["facts"]["steps"] == 4
    for picture in ("clips.png", "scores/sheet.png", "scores/sheet.webp"):
        assert (out / picture).stat().st_size > 1000
