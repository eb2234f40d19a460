"""Tests of the generation bench: seams and drift of long samples, quality against steps."""

import argparse
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import curve
import long
import numpy as np
import parallel
import pytest
import torch
from runs import make_clip_store
from trained import CausalModels, save_causal_models

from video_vq.cli import main
from video_vq.errors import InputError
from video_vq.stages.sample_length import SampleLength
from video_vq.stores.clips import ClipStore


class Moments(torch.nn.Module):
    """Feature network without weights: mean and standard deviation of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features b 6."""
        return torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4))], dim=1)


def make_network() -> torch.nn.Module:
    return Moments()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> CausalModels:
    folder = tmp_path_factory.mktemp("generation")
    make_clip_store(folder / "clips", num_frames=12)
    return save_causal_models(folder)


def stepping(changes: list[int]) -> np.ndarray:
    levels = 100 + np.concatenate([[0], np.cumsum(changes)])
    clip = np.broadcast_to(levels[None, :, None, None, None], (1, len(levels), 4, 4, 3))
    return clip.astype(np.uint8)


def test_windows_begin_what_they_add_at_a_latent_frame():
    # Latent frames 0 to 3 are the first window's; then two each: 4 begins with frame 1 + 3 x 2.
    assert long.window_starts(SampleLength(17, 9, 4, 2), 2) == [7, 11, 15]
    assert long.window_starts(SampleLength(7, 4, 4, 2), 2) == []


def test_seams_are_ratios_of_the_mean_change_to_that_at_other_places():
    clip = stepping([2, 1, 2, 1, 6, 1, 2, 1])  # latent frames begin at 1, 3, 5, 7; a window at 5
    seams = long.seams_of(iter([clip]), [5], [1, 3, 5, 7])
    assert seams.windows == pytest.approx(3)
    assert seams.latents == pytest.approx(3)
    assert long.seams_of(iter([clip]), [], [1, 3, 5, 7]).windows is None


def test_long_samples_are_measured_second_by_second(models, tmp_path, capsys):
    words = ("sample", "--prior", models.folder / "p", "--tokenizer", models.folder / "t")
    more = ("--num", 3, "--batch-size", 3, "--seconds", 2.5)
    assert main([str(word) for word in (*words, *more, "--out", tmp_path / "long")]) == 0
    arguments = argparse.Namespace(
        samples=tmp_path / "long",
        tokenizer=models.folder / "t",
        real=models.folder / "clips",
        split="test",
        num=16,
        least=10,
        every=1,
        network=f"{__name__}:make_network",
    )
    found = long.measure(arguments)
    assert [row["frame"] for row in found["drift"]] == [0, 10]
    assert found["frames_per_piece"] == 10
    assert found["seams"]["windows"] > 0
    assert found["seams_real"]["windows"] is None
    assert "| 1.0 |" in long.markdown(found)
    ElementTree.fromstring(long.picture(found))
    arguments.every = 2
    assert long.measure(arguments)["drift"] == found["drift"][:1]
    arguments.samples = models.folder / "clips"
    with pytest.raises(InputError, match="holds no samples of `video-vq sample --seconds`"):
        long.measure(arguments)


def arguments_of(models: CausalModels, out: Path) -> argparse.Namespace:
    return argparse.Namespace(
        real=models.folder / "clips",
        split="test",
        tokenizer=models.folder / "t",
        prior=models.folder / "p",
        masked=models.folder / "m",
        out=out,
        steps=[4, 2],
        confidence_temperature=4.5,
        guidance=1.0,
        num=3,
        num_real=16,
        batch_sizes=[1, 3],
        rounds=1,
        network=f"{__name__}:make_network",
    )


def test_steps_are_compared_with_the_autoregressive_prior(models, tmp_path):
    arguments = arguments_of(models, tmp_path)
    rows = parallel.measure(arguments)
    assert [row["steps"] for row in rows] == [None, 2, 4]
    assert rows[0]["gfvd_ratio"] == 1
    assert rows[0]["speed_ratio"] == {1: 1, 3: 1}
    assert len(ClipStore(tmp_path / "steps-2").videos) == 3
    known = json.loads((tmp_path / "steps-4.json").read_text())
    (tmp_path / "steps-4.json").write_text(json.dumps({**known, "gfvd": 123.0}))
    assert parallel.measure(arguments)[2]["gfvd"] == 123  # what is known is not made again
    table = parallel.markdown(rows).splitlines()
    assert table[0].count("|") == table[1].count("|") == table[3].count("|")
    assert table[3].startswith("| 2 |")
    ElementTree.fromstring(parallel.picture(rows))
    arguments.prior, arguments.masked = arguments.masked, arguments.prior
    with pytest.raises(InputError, match="swap --prior and --masked"):
        parallel.measure(arguments)


def test_a_logarithmic_axis_has_ticks_of_1_2_and_5():
    axis = curve.Axis("x", is_log=True)
    assert curve._ticks(axis, [0.9, 25.0]) == [1, 2, 5, 10, 20]
    assert curve._ticks(curve.Axis("y"), [0.0, 1.0]) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
