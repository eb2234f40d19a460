"""Tests of the quantizers bench: equal bits for all arms, a tiny run, table and plot."""

import json
import math
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
import quantizers
import torch

from video_vq.evaluation import evaluation_setup
from video_vq.evaluation.feature_network import named_i3d
from video_vq.metrics.i3d import NUM_LOGITS
from video_vq.stores.clips import ClipStoreWriter, PreparedVideo, Video


@pytest.mark.parametrize("arm", quantizers.ARMS)
def test_every_arm_spends_the_same_bits(arm):
    for bits in (9, 12, 15, 18):
        quantizer = quantizers.quantizer_of(arm, bits)
        if quantizer is None:
            assert (arm, bits) in (("grouped", 9), ("grouped", 15), ("ibq", 18))
            continue
        assert math.prod(quantizer.vocabulary) == 2**bits
        assert json.loads(quantizers.setting("x", quantizer)[2:])["kind"] == quantizer.kind


class Means(torch.nn.Module):
    """A fast feature network: each color's mean in each eighth of a clip, padded with zeros."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.adaptive_avg_pool3d(video, (8, 1, 1)).flatten(1)
        return torch.nn.functional.pad(means, (0, NUM_LOGITS - means.shape[1]))


@pytest.fixture
def arguments(tmp_path) -> Any:
    random, writer = np.random.default_rng(0), ClipStoreWriter(tmp_path / "clips", (16, 16), {})

    def videos():
        for index in range(12):
            frames = random.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
            split = ("train", "val", "test")[index % 3]
            yield PreparedVideo(Video(f"v{index}", None, split, f"v{index}"), [frames], {})

    writer.write_shard(0, videos())
    writer.finish(1, [])
    backbone = (
        "{channels: 8, num_blocks: 1, patch_thw: [4, 4, 4], multipliers: [1], strides_thw: []}"
    )
    return quantizers.parse(
        [
            *("--data", str(tmp_path / "clips"), "--out", str(tmp_path / "bench")),
            *("--arms", "bsq", "residual", "--bits", "6", "--seeds", "0", "--num", "4"),
            *("--seconds", "0.01", "--prior-seconds", "0.01"),
            *("--set", f"model.backbone={backbone}", "optim.batch_size=2"),
            *("--set-prior", "model.width=16", "model.depth=1", "model.heads=2"),
        ]
    )


def test_a_tiny_run_fills_the_table_and_goes_on_where_it_stopped(
    arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    network = named_i3d()._replace(module=Means())
    monkeypatch.setattr(evaluation_setup, "load_feature_network", lambda *_: network)

    def number(_: str, words: list[Any]) -> float:
        what, kind, arm, bits = words[-4:]
        return quantizers.measured(arguments, what, kind, arm, int(bits))

    monkeypatch.setattr(quantizers, "number_from_fresh_process", number)
    monkeypatch.setattr(quantizers, "ROUNDS", quantizers.WARM + 2)
    results = quantizers.compare(arguments)
    assert [(one["arm"], one["bits_per_clip"]) for one in results] == [
        ("bsq", 64 * 6),
        ("residual", 64 * 6),
    ]
    for one in results:
        assert one["tokenizer_milliseconds"] > 0
        assert one["bits_per_clip_after_prior"] == pytest.approx(64 * 6, rel=0.3)
    table = (arguments.out / "table.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == ["bsq", "residual"]
    root = ElementTree.fromstring((arguments.out / "rate_distortion.svg").read_text())
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 2
    capsys.readouterr()
    assert quantizers.compare(arguments) == results
    assert "already finished" in capsys.readouterr().out
