"""Tests that a command refuses to write where another process is writing."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from holder import Holder
from made_videos import scene
from runs import SMALL_PRIOR, SMALL_TOKENIZER, make_clip_store
from test_scores import Means

from data_prep.bin_world.graphics import find_graphics
from data_prep.cli import main as data_prep
from data_prep.tfrecord import encode_example, write_records
from video_vq.cli import main as video_vq
from video_vq.errors import InputError
from video_vq.evaluation import evaluation_setup, feature_network
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.media.encode import write_video
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores import lock

CAUSAL = SMALL_TOKENIZER.replace("num_frames: 4", "num_frames: 5").replace(
    "backbone: {", "backbone: {causal: true, "
)


class Verb(NamedTuple):
    """A command line, in which OUT stands for the output path."""

    command: Callable[[list[str]], int]
    arguments: str
    out: str = "out"
    single_file: bool = False

    def start(self, world: Path, out: Path) -> int:
        """Run the command with an output path, and return its exit status."""
        return self.command([str(world / w[1:]) if w[0] == "@" else w for w in self.line(out)])

    def line(self, out: Path) -> list[str]:
        return [str(out) if word == "OUT" else word for word in self.arguments.split()]


def save_pretrained(arguments: list[str]) -> int:
    """Export a prior from Python; return an exit status as a command would."""
    try:
        Prior.from_pretrained(Path(arguments[0])).save_pretrained(arguments[1])
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


TRAIN = "--out OUT --tracker none optim.steps=1 run.validation_clips=1"
MODELS = "--prior @prior --tokenizer @tokenizer"
STORE = "--out OUT --size 16 --workers 1"
VERBS = {
    "train-tokenizer": Verb(
        video_vq, f"train-tokenizer --config @tokenizer.yaml --data @clips {TRAIN}"
    ),
    "train-prior": Verb(video_vq, f"train-prior --config @prior.yaml --tokens @tokens {TRAIN}"),
    "encode": Verb(video_vq, "encode @clips --tokenizer @tokenizer --out OUT"),
    "encode a folder": Verb(video_vq, "encode @videos --tokenizer @tokenizer --out OUT"),
    "decode": Verb(video_vq, "decode @tokens --tokenizer @tokenizer --out OUT --split test"),
    "sample": Verb(video_vq, f"sample {MODELS} --num 1 --batch-size 1 --out OUT"),
    "reconstruct": Verb(
        video_vq, "reconstruct @videos/a.mp4 OUT --tokenizer @tokenizer", "out.mp4", True
    ),
    "continue": Verb(video_vq, f"continue @videos/a.mp4 {MODELS} --out OUT", "out.mp4", True),
    "evaluate": Verb(
        video_vq, "evaluate --data @clips --tokenizer @long --out OUT --num 4"
    ),
    "report": Verb(video_vq, "report @tokenizer --out OUT", "page.html", True),
    "fvd": Verb(
        video_vq, "fvd @clips @clips --frames 16 --save-real OUT", "real.safetensors", True
    ),
    "data-prep folder": Verb(data_prep, f"folder @videos {STORE}"),
    "data-prep folder --list-only": Verb(
        data_prep, "folder @videos --out OUT --size 16 --list-only"
    ),
    "data-prep ucf101": Verb(data_prep, f"ucf101 @ucf {STORE}"),
    "data-prep bair": Verb(data_prep, f"bair @bair {STORE}"),
    "data-prep lerobot": Verb(data_prep, f"lerobot @robot {STORE} --camera top"),
    "data-prep simulate": Verb(data_prep, "simulate OUT --episodes 1 --test-episodes 0"),
    "data-prep synthetic": Verb(
        data_prep, "synthetic OUT --videos 8 --frames 2 --size 16 --workers 1"
    ),
    "data-prep verify": Verb(data_prep, "verify @clips --sheet OUT", "sheet.png", True),
    "data-prep stats": Verb(data_prep, "stats @clips --sheet OUT", "sheet.png", True),
    "save_pretrained": Verb(save_pretrained, "@prior OUT"),
}  # fmt: skip
NO_TORCH_BEFORE = [name for name, verb in VERBS.items() if verb.command is video_vq]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory, one_thread) -> Path:
    """Return a folder with data of all kinds, models, tokens and a run."""
    path = tmp_path_factory.mktemp("world")
    make_clip_store(path / "clips", num_frames=17)
    (path / "tokenizer.yaml").write_text(CAUSAL)
    (path / "prior.yaml").write_text(SMALL_PRIOR)
    for verb, out in (
        ("train-tokenizer", "tokenizer"), ("encode", "tokens"), ("train-prior", "prior"),
    ):  # fmt: skip
        assert VERBS[verb].start(path, path / out) == 0
    tokenizer = VideoTokenizer.from_pretrained(path / "tokenizer")
    tokenizer.facts = replace(tokenizer.facts, num_frames=17, grid_thw=(9, 4, 4))
    tokenizer.save_pretrained(path / "long")  # FVD is of 16 frames
    (path / "videos").mkdir()
    for name in "abc":
        write_video(path / "videos" / f"{name}.mp4", scene(12, 32, 32), 10)
    make_raw_sets(path)
    return path


def make_raw_sets(path: Path) -> None:
    assert (
        data_prep(f"synthetic {path}/ucf --videos 8 --frames 2 --size 16 --workers 1".split()) == 0
    )
    for side in ("train", "test"):
        records = []
        for number in range(3):
            example = {}
            for t in range(2):
                for camera in ("main", "aux1"):
                    example[f"{t}/image_{camera}/encoded"] = [bytes([number] * 16 * 16 * 3)]
                example[f"{t}/action"] = np.zeros(4, np.float32)
                example[f"{t}/endeffector_pos"] = np.zeros(3, np.float32)
            records.append(encode_example(example))
        folder = path / "bair" / "softmotion30_44k" / side
        folder.mkdir(parents=True)
        write_records(folder / "traj_0_to_2.tfrecords", records)


@pytest.fixture
def small_network(tmp_path, monkeypatch) -> None:
    """Replace the feature network by one with six features, which needs no weights."""
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    for module in (feature_network, evaluation_setup):
        monkeypatch.setattr(
            module,
            "load_feature_network",
            lambda *_: FeatureNetwork(Means(), "means", "0" * 64, 6),
        )


def require_installed(name: str, world: Path) -> None:
    if name == "data-prep simulate":
        try:
            find_graphics()
        except InputError as error:
            pytest.skip(str(error))
    if name == "data-prep lerobot":
        pytest.importorskip("pyarrow", reason="needs the extra [lerobot]")
        from robot_sets import write_robot_set

        if not (world / "robot").exists():
            write_robot_set(world / "robot")


@pytest.mark.parametrize("name", VERBS)
def test_a_second_start_is_refused_until_the_holder_is_killed(
    world, tmp_path, capsys, monkeypatch, small_network, name
):
    require_installed(name, world)
    verb = VERBS[name]
    out = tmp_path / verb.out
    with Holder(out, verb.single_file) as holder:
        before = sorted(tmp_path.rglob("*"))
        assert verb.start(world, out) == 1
        assert f"{out}: is being written by {holder.name}" in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before
        holder.kill()  # -9
        assert verb.start(world, out) == 0
    assert not list(tmp_path.rglob("*.lock"))
    (tmp_path / "again").mkdir()
    out = tmp_path / "again" / verb.out  # what is finished is not locked again

    def without(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "flock", without)
    monkeypatch.setattr(lock, "_told", set())
    capsys.readouterr()
    assert verb.start(world, out) == 0
    said = capsys.readouterr().err
    assert said.count(f"warning: {out}: cannot be locked here (No locks available)") == 1


def test_each_verb_is_refused_before_torch_is_loaded(world, tmp_path):
    lines = []
    outs = []
    for name in NO_TORCH_BEFORE:
        verb = VERBS[name]
        out = tmp_path / name.replace(" ", "-") / verb.out
        outs.append(lock.acquire(out, verb.single_file))
        words = [str(world / w[1:]) if w[0] == "@" else w for w in verb.line(out)]
        if name != "report":  # reads no model
            lines.append(words)
    code = (
        "import sys\n"
        "from video_vq.cli import main\n"
        f"for line in {lines!r}:\n"
        "    assert main(line) == 1, line\n"
        "    loaded = {'torch', 'accelerate', 'transformers'} & set(sys.modules)\n"
        "    assert not loaded, (line, loaded)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    for held in outs:
        held.release()
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count(f"is being written by process {os.getpid()} on ") == len(lines)
