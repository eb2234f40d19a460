"""Tests of the commands in README.md and docs/usage.md, with smaller sizes and fewer steps."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import Preloaded, run

from video_vq.media.encode import write_video

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
USAGE = (REPOSITORY / "docs" / "usage.md").read_text()
SHORT = (
    "optim.steps=2 optim.warmup_steps=1 optim.batch_size=2 run.validation_clips=2 run.num_workers=0"
)
TINY = "model.backbone.channels=8 model.quantizer.codebook_size=32"


def block(after: str, page: str = README) -> str:
    """Return the first code block that follows a given text on a page."""
    found = re.search(r"```\w*\n(.*?)```", page[page.index(after) :], re.DOTALL)
    assert found is not None
    return found[1]


def shrunk(commands: str) -> str:
    """Append settings to training commands and lower counts, so that each takes only seconds."""
    commands = re.sub(r"--num \d+", "--num 2", commands.replace("\\\n", " "))
    commands = commands.replace("optim.steps=100", "")
    commands = re.sub(r"(train-tokenizer .*)", rf"\1 {SHORT} {TINY}", commands)
    return re.sub(r"(train-prior .*)", rf"\1 {SHORT} model.width=32 model.depth=1", commands)


def bash(commands: str, folder: Path, preloaded: Preloaded | None) -> None:
    """Run commands in a folder, with the `video-vq` of a server if there is one."""
    first = [] if preloaded is None else [str(preloaded.folder)]
    path = os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]])
    run(["bash", "-ec", f"cd {folder}\n{commands}"], PATH=path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with the videos that the README mentions."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("my_videos/left", "my_videos/right", "real_videos", "generated_videos"):
        (path / name).mkdir(parents=True)
        for number in range(5):
            random = np.random.default_rng([len(name), number])
            frames = np.full((17, 64, 64, 3), random.integers(0, 255, 3), np.uint8)
            for t in range(17):
                frames[t, 20:36, 2 * t : 2 * t + 16] = random.integers(0, 255, 3)
            write_video(path / name / f"{number}.mp4", frames, fps=10)
    return path


@pytest.mark.weights
def test_the_three_paths_of_the_readme(folder, preloaded):
    bash(block("<!-- score -->"), folder, preloaded)
    bash(shrunk(block("<!-- tokenize -->")), folder, preloaded)
    assert (folder / "side_by_side.mp4").stat().st_size > 0
    bash(f"python - <<'END'\n{block('<!-- python -->')}\nEND", folder, preloaded)
    bash(shrunk(block("<!-- many-gpus -->")), folder, preloaded)
    described = json.loads((folder / "runs" / "ucf101" / "run.json").read_text())
    assert described["identity"]["world_size"] == 2


@pytest.mark.weights
def test_your_own_videos(folder, preloaded):
    bash(shrunk(block("<!-- own-videos -->", USAGE)), folder, preloaded)
    scores = json.loads((folder / "own" / "scores" / "scores.json").read_text())
    assert scores["generation"]["gfvd"]["num_fake"] > 0
    page = (folder / "own" / "report.html").read_text()
    for title in ("Scores", "Reconstructions", "Samples", "Training: tokenizer", "Commands"):
        assert f"<h2>{title}</h2>" in page


@pytest.mark.weights
def test_the_demo_goes_through_every_step(tmp_path):
    bash(f"SMOKE=1 bash {REPOSITORY}/scripts/demo.sh {tmp_path}/demo", tmp_path, None)
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
