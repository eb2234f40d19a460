"""Tests of the sanity check: an image network does not see the order of frames."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from video_vq.cli import main
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.evaluation.fvd_comparison import FVDComparison
from video_vq.evaluation.sanity import CHANGES, sanity
from video_vq.evaluation.scored_clip import Cut
from video_vq.media.encode import write_video
from video_vq.metrics.protocol import PROTOCOLS


class Pictures(torch.nn.Module):
    """Mean contrast in four parts of the frame, which does not depend on the order of frames."""

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 4"]:
        parts = rearrange(video, "b c t (y h) (x w) -> b (y x) t (c h w)", y=2, x=2)
        return parts.std(-1).mean(-1)


class Motion(torch.nn.Module):
    """Statistics of the horizontal motion of the brightness centroid between frames."""

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3"]:
        columns = torch.linspace(-1, 1, video.shape[-1])
        place = (video.mean((1, 3)) * columns).mean(-1)
        steps = place.diff(dim=1)
        return torch.stack([steps.mean(1), steps.abs().mean(1), steps.std(1)], 1) * 100


def make_pictures() -> torch.nn.Module:
    """Return a network, to be named as `module:function`."""
    return Pictures()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Return a folder with four videos of a bar that moves to the right, and an invalid file."""
    folder = tmp_path_factory.mktemp("sanity") / "videos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        texture = random.integers(0, 120, (32, 64, 3), dtype=np.uint8)
        frames = np.repeat(texture[None], 16, axis=0)
        for t in range(16):
            start = 2 * number + 2 * t
            frames[t, 8:24, start : start + 8] = 240
        write_video(folder / f"{number}.mp4", frames, 10, quality=5)
    (folder / "torn.mp4").write_bytes(b"torn")
    return folder


def changes(network: torch.nn.Module, videos: Path, cache: Path, name: str) -> dict[str, dict]:
    named = FeatureNetwork(network, name, "0" * 64, 3 if isinstance(network, Motion) else 4)
    comparison = FVDComparison(named, [PROTOCOLS["styleganv"]], Cut(16), cache=cache)
    found = sanity(comparison, videos, None)
    assert found["num_clips"] == 4
    [under] = found["protocols"]
    assert [change["name"] for change in under["changes"]] == list(CHANGES)
    return {change["name"]: change for change in under["changes"]}


def test_a_network_of_pictures_sees_no_order_and_one_of_motion_does(videos, tmp_path):
    seen = changes(Pictures(), videos, tmp_path / "pictures", "jedi")
    for score in ("fvd", "jedi"):  # JEDi is computed where the network is V-JEPA
        assert seen["shuffled"][score] == pytest.approx(0, abs=1e-6)
        assert seen["backwards"][score] == pytest.approx(0, abs=1e-6)
        assert seen["blurred"][score] > 0.001
    found = changes(Motion(), videos, tmp_path / "motion", "motion")
    moved = {name: change["fvd"] for name, change in found.items()}
    assert min(moved[name] for name in ("frozen", "shuffled", "backwards", "slowed")) > 0.1
    assert moved["blurred"] < 0.01 * moved["frozen"]
    # Half the speed is less of a change than none.
    assert moved["slowed"] < moved["frozen"] < moved["backwards"]
    assert "jedi" not in found["frozen"]


def test_the_command_prints_one_table_and_computes_each_clip_once(
    videos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    words = ["fvd", "--sanity", str(videos), "--network", f"{__name__}:make_pictures"]
    assert main(words) == 0
    told, warned = capsys.readouterr()
    assert "warning: N = 4 is below 256: these distances depend on N" in warned
    assert f"left out of {videos}: 1\n  {videos}/torn.mp4: is not a video" in warned
    assert f"FVD on {__name__}:make_pictures" in told
    assert "played backwards" in told
    assert "than the blur of the pictures: frames shuffled" in told.replace("at half speed, ", "")
    size = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.log"))
    assert size == 4 * (1 + len(CHANGES)) * (32 + 4 * 4 + 4)
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocols"][0]["settings"]["name"] == "styleganv"
    assert size == sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.log"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--sanity", "{videos}", "{videos}"],
            "compares REAL with itself; leave out FAKE",
        ),
        (["--sanity", "{videos}", "--save-real", "x.safetensors"], "leave out --save-real"),
        (["{videos}", "--sanity", "x"], "compares REAL with itself; leave out FAKE x"),
        (["--sanity", "{videos}", "--frames", "5"], "take --protocol padded"),
    ],
)
def test_sides_that_do_not_fit_are_refused(videos, capsys, words, message):
    assert main(["fvd", *(word.format(videos=videos) for word in words)]) != 0
    assert message in capsys.readouterr().err


def test_short_clips_are_scored_padded_and_said_to_be(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    words = ["fvd", str(videos), str(videos), "--network", f"{__name__}:make_pictures"]
    assert main([*words, "--frames", "5", "--protocol", "padded"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("padded FVD ")
    assert "5 frames, the last repeated up to 16 frames" in told.out
    assert "a metric of our own" in told.out
    assert "KVD has no such bias" in told.err
