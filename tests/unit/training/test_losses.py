"""Tests of the tokenizer's losses against their formulas, and of rejected settings."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from runs import make_clip_store

from video_vq.data.order import rank_positions
from video_vq.distributed import make_accelerator
from video_vq.errors import InputError
from video_vq.metrics.perceptual import StLpips
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.training.losses import (
    TokenizerLosses,
    adversarial_weight,
    draw_frames,
    load_perceptual,
    perceptual_loss,
    reconstruction_weight,
    temporal_loss,
)
from video_vq.training.training_config import (
    AdversarialConfig,
    ClipConfig,
    PerceptualConfig,
    TokenizerLossConfig,
    TokenizerTrainingConfig,
)


def measured(store: ClipStore, kind: Literal["l1", "mse"]) -> float:
    loss = TokenizerLossConfig(reconstruction=kind, reconstruction_weight="data")
    config = TokenizerTrainingConfig(data=ClipConfig(num_frames=9), loss=loss)
    return reconstruction_weight(store, config)


def test_the_measured_weight_is_one_over_the_variance_or_mean_deviation_of_training_pixels(
    tmp_path,
):
    store = make_clip_store(tmp_path / "clips")  # videos are as long as the clips
    pixels = np.stack([store.read(video, 0, 9, 1) for video in store.indices("train")])
    pixels = pixels.astype(np.float64) / 127.5 - 1
    assert measured(store, "mse") == pytest.approx(1 / pixels.var(), rel=1e-12)
    deviation = np.abs(pixels - pixels.mean()).mean()
    assert measured(store, "l1") == pytest.approx(1 / deviation, rel=1e-12)
    fixed = TokenizerTrainingConfig(loss=TokenizerLossConfig(reconstruction_weight=7.0))
    assert reconstruction_weight(store, fixed) == 7.0


def test_short_videos_that_are_filled_up_count_as_the_config_says(tmp_path):
    store = make_clip_store(tmp_path / "clips")
    loss = TokenizerLossConfig(reconstruction_weight="data")
    clip = ClipConfig(num_frames=12, short_videos="loop")  # all videos are shorter
    config = TokenizerTrainingConfig(data=clip, loss=loss)
    pixels = np.stack([store.read(video) for video in store.indices("train")])
    pixels = pixels[:, np.arange(12) % pixels.shape[1]].astype(np.float64) / 127.5 - 1
    assert reconstruction_weight(store, config) == pytest.approx(1 / pixels.var(), rel=1e-12)


def test_data_without_variance_is_refused(tmp_path):
    store = grey_store(tmp_path / "clips", size=16)
    with pytest.raises(InputError, match="all pixels of 1 training clips are equal"):
        measured(store, "mse")


def grey_store(path: Path, size: int) -> ClipStore:
    writer = ClipStoreWriter(path, (size, size), {"kind": "grey"})
    frames = np.full((9, size, size, 3), 90, dtype=np.uint8)
    about = Video("grey", "grey", "train", "grey", fps=10.0, origin={"made": "by a test"})
    writer.write_shard(0, iter([PreparedVideo(about, [frames], {})]))
    return writer.finish(1, ["grey"])


def test_frames_are_drawn_by_position_alone_and_all_frames_are_as_likely():
    config = PerceptualConfig(num_frames=3)
    one = draw_frames(8, config, range(600), seed=5)
    shares = [
        rank_positions(0, micro_batch, rank, batch_size=600, accumulation=2, world_size=3)
        for micro_batch in range(2)
        for rank in range(3)
    ]
    parts = torch.cat([draw_frames(8, config, share, seed=5) for share in shares])
    assert torch.equal(one, parts)
    assert all(len(set(row.tolist())) == 3 for row in one)
    counts = torch.bincount(one.flatten(), minlength=8)
    # 600 · 3/8 = 225 of each frame, with a deviation of 11.9.
    assert (counts - 225).abs().max() < 5 * 11.9
    assert not torch.equal(one, draw_frames(8, config, range(600), seed=6))


def random_st_lpips() -> StLpips:
    torch.manual_seed(0)
    network = StLpips("vgg")
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(parameter)
        elif name.startswith("heads"):
            torch.nn.init.uniform_(parameter)
    return network


def test_the_perceptual_loss_is_the_mean_distance_of_the_drawn_frames_and_moves_them_alone():
    network = random_st_lpips()
    target = torch.rand(2, 3, 4, 18, 20) * 2 - 1
    output = (target + 0.1 * torch.randn_like(target)).requires_grad_()
    frames = torch.tensor([[3, 0], [1, 2]])
    loss = perceptual_loss(network, output, target, frames)
    pairs = [(0, 3), (0, 0), (1, 1), (1, 2)]
    expected = [network(output[b, :, t][None], target[b, :, t][None])[0] for b, t in pairs]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert output.grad is not None
    moved = output.grad.abs().amax((1, 3, 4)) > 0
    assert moved.nonzero().tolist() == sorted(map(list, pairs))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert perceptual_loss(network, target, target, frames) == 0


def test_what_the_perceptual_loss_cannot_take_is_refused(monkeypatch, tmp_path):
    device = torch.device("cpu")
    assert load_perceptual(PerceptualConfig(), (1, 8, 8), device) is None
    on = PerceptualConfig(weight=0.1, num_frames=3)
    with pytest.raises(InputError, match="at least 18 x 18 pixels, found 16 x 32"):
        load_perceptual(on, (16, 16, 32), device)
    with pytest.raises(InputError, match="num_frames = 3 is more than the 2 frames of a clip"):
        load_perceptual(on, (2, 32, 32), device)
    monkeypatch.setenv("VIDEO_VQ_STLPIPS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere"):
        load_perceptual(on, (16, 32, 32), device)


def test_the_adversarial_weight_grows_from_its_start():
    adversarial = AdversarialConfig(weight=0.2, start=10, warmup_steps=4)
    found = [adversarial_weight(adversarial, step) for step in range(20)]
    assert found[:10] == [0.0] * 10
    assert found[10:14] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert found[14:] == [0.2] * 6
    at_once = dataclasses.replace(adversarial, warmup_steps=0)
    assert [adversarial_weight(at_once, step) for step in (9, 10)] == [0.0, 0.2]


def made_losses(path: Path, **changes: Any) -> tuple[TokenizerLosses, TokenizerTrainingConfig]:
    """Return the losses of a training on small clips, and its config."""
    config = TokenizerTrainingConfig(
        data=ClipConfig(num_frames=4), loss=TokenizerLossConfig(**changes)
    )
    return TokenizerLosses(make_accelerator(), config, make_clip_store(path / "clips")), config


def test_each_loss_is_weighed_by_the_setting_of_its_name(tmp_path):
    adversarial = AdversarialConfig(weight=0.2, start=3, warmup_steps=4, levels=2)
    losses, _ = made_losses(
        tmp_path,
        reconstruction_weight=3.0,
        commitment=0.5,
        codebook=0.7,
        temporal=0.9,
        adversarial=adversarial,
    )
    names = ("reconstruction", "commitment", "codebook", "temporal", "perceptual", "adversarial")
    weights = [losses.weight(name, step=4) for name in names]
    assert weights == [3.0, 0.5, 0.7, 0.9, 0.0, pytest.approx(0.1)]
    assert [losses.discriminator_at(step) for step in (2, 3)] == [None, losses.discriminator]
    assert losses.discriminator is not None


def test_the_losses_are_the_reconstructions_and_the_quantizers_own(tmp_path):
    losses, config = made_losses(tmp_path, reconstruction="l1")
    assert losses.discriminator is None
    tokenizer = VideoTokenizer(config.model)
    video = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    output = tokenizer(video)
    found = losses(output, video, step=0, micro_batch=0)
    assert list(found) == ["reconstruction", "commitment", "codebook"]
    torch.testing.assert_close(found["reconstruction"], (output.video - video).abs().mean())
    assert found["commitment"] is output.quantized.losses["commitment"]


@pytest.mark.parametrize(("kind", "power"), [("l1", 1), ("mse", 2)])
def test_the_temporal_loss_sees_errors_that_change_and_none_that_stay(kind, power):
    video = torch.rand(2, 3, 5, 4, 4) - 0.5
    assert temporal_loss(video + 0.25, video, kind) < 1e-12
    alternating = 0.25 * (-1.0) ** torch.arange(5)[:, None, None]
    assert temporal_loss(video + alternating, video, kind).item() == pytest.approx(0.5**power)


def test_a_training_has_the_temporal_loss_where_it_has_a_weight(tmp_path):
    losses, _ = made_losses(tmp_path, reconstruction="l1", temporal=0.5)
    video = torch.rand(2, 3, 4, 16, 16) - 0.5
    copy = (video + torch.rand(4, 1, 1)).requires_grad_()
    found = losses.of_decoded(copy, video, step=0, micro_batch=0)
    assert list(found) == ["reconstruction", "temporal"]
    expected = (copy.diff(dim=2) - video.diff(dim=2)).abs().mean()
    torch.testing.assert_close(found["temporal"], expected)
    weighted = losses.total(found, step=0)
    torch.testing.assert_close(weighted, 4.0 * found["reconstruction"] + 0.5 * expected)
    with pytest.raises(ValueError, match=r"loss.temporal = 0.5 needs clips of at least 2 frames"):
        TokenizerTrainingConfig(
            data=ClipConfig(num_frames=1), loss=TokenizerLossConfig(temporal=0.5)
        )
