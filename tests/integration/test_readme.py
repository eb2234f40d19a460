"""The README's commands, run as they stand; only sizes and step counts are made small."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import run

from video_vq.media.encode import write_video

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
SHORT = (
    "optim.steps=2 optim.warmup_steps=1 optim.batch_size=2 run.validation_clips=2 run.num_workers=0"
)
TINY = "model.backbone.channels=8 model.quantizer.codebook_size=32"


def block(after: str) -> str:
    """Return the README's first code block after a mark."""
    found = re.search(r"```\w*\n(.*?)```", README[README.index(after) :], re.DOTALL)
    assert found is not None
    return found[1]


def shrunk(commands: str) -> str:
    """Append settings to each training and lower the counts, so that it takes seconds."""
    commands = re.sub(r"--num \d+", "--num 4", commands.replace("\\\n", " "))
    commands = re.sub(r"(train-tokenizer .*)", rf"\1 {SHORT} {TINY}", commands)
    return re.sub(r"(train-prior .*)", rf"\1 {SHORT} model.width=32 model.depth=1", commands)


def bash(commands: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run(["bash", "-ec", f"cd {folder}\n{commands}"], PATH=path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with the videos that the README speaks of."""
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
def test_the_three_things_people_do(folder):
    bash(shrunk(block("# video-vq")), folder)
    assert (folder / "runs" / "tokenizer" / "tokenizer" / "config.json").exists()


@pytest.mark.weights
def test_your_own_videos(folder):
    bash(shrunk(block("<!-- own-videos -->")), folder)
    scores = json.loads((folder / "own" / "scores" / "scores.json").read_text())
    assert scores["generation"]["gfvd"]["num_fake"] > 0
    page = (folder / "own" / "report.html").read_text()
    for title in ("Scores", "Reconstructions", "Samples", "Training: tokenizer", "Commands"):
        assert f"<h2>{title}</h2>" in page
    bash(f"python - <<'END'\n{block('<!-- python -->')}\nEND", folder)
    assert (folder / "exported" / "README.md").exists()


def test_two_gpus(folder):
    bash("data-prep folder my_videos --out clips --size 64", folder)
    bash(shrunk(block("<!-- two-gpus -->")), folder)
    described = json.loads((folder / "runs" / "ucf101" / "run.json").read_text())
    assert described["identity"]["world_size"] == 2


@pytest.mark.weights
def test_the_demo_goes_through_every_step(tmp_path):
    bash(f"SMOKE=1 bash {REPOSITORY}/scripts/demo.sh {tmp_path}/demo", tmp_path)
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000


def test_the_readme_names_files_that_are_there():
    tree = block("## The tree")
    folder = room = ""
    for line in tree.splitlines():
        if not line.strip() or line.startswith(" " * 20):
            continue
        names = re.split(r"\s{2,}", line.strip())[0]
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            folder = names.rstrip("/")
            assert (REPOSITORY / folder).is_dir(), folder
            continue
        if depth == 2:
            room = f"{folder}/{names.rstrip('/')}"
        parent = {2: folder, 4: room}[depth]
        for name in names.split(", "):
            assert list((REPOSITORY / parent).glob(name.strip().rstrip("/"))), f"{parent}/{name}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (REPOSITORY / link).exists(), link
    for verb in set(re.findall(r"video-vq ([a-z-]+)", README)):
        name = {"continue": "continue_video"}.get(verb, verb.replace("-", "_"))
        assert (REPOSITORY / "video_vq" / "cli" / f"{name}.py").exists(), verb
