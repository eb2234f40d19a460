from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd import clip_features, real_floor
from video_vq.metrics.fvd_metric import FrechetVideoDistance
from video_vq.metrics.protocol import PROTOCOLS, FVDProtocol

NUM_FRAMES = 2  # to be fast


def clips(seed: int, count: int, brightness: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, NUM_FRAMES, 6, 8, 3)
    return torch.randint(0, brightness, shape, generator=generator, dtype=torch.uint8)


def short(name: str = "styleganv") -> FVDProtocol:
    return replace(PROTOCOLS[name], num_frames=NUM_FRAMES)


def metric(network: nn.Module, name: str = "styleganv") -> FrechetVideoDistance:
    return FrechetVideoDistance(network, 24, short(name), batch_size=5)


def test_score_is_the_distance_of_the_features(pooled_pixels):
    real, fake = clips(0, 30), clips(1, 26, brightness=100)
    fvd = metric(pooled_pixels)
    fvd.update(real, real=True)
    fvd.update(fake, real=False)

    sides = [
        Moments.of(clip_features(side, pooled_pixels, short()).numpy()) for side in (real, fake)
    ]
    score = fvd.compute()
    assert score.dtype == torch.float64
    assert float(score) == pytest.approx(frechet_distance(*sides, ddof=0), rel=1e-9)


def test_score_does_not_depend_on_order_or_batches(pooled_pixels):
    real, fake = clips(0, 13), clips(1, 11, brightness=100)
    whole, pieces = metric(pooled_pixels), metric(pooled_pixels)
    whole.update(real, real=True)
    whole.update(fake, real=False)
    for batch in fake.flip(0).split(2):
        pieces.update(batch, real=False)
    for batch in real.flip(0).split([1, 7, 5]):
        pieces.update(batch, real=True)
    assert float(pieces.compute()) == pytest.approx(float(whole.compute()), rel=1e-6)


def test_clips_are_at_distance_zero_from_themselves(pooled_pixels):
    fvd = metric(pooled_pixels)
    fvd.update(clips(0, 40), real=True)
    fvd.update(clips(0, 40).flip(0), real=False)
    assert abs(float(fvd.compute())) < 1e-6


def test_torchmetrics_fid_over_the_same_features_agrees(pooled_pixels):
    class Features(nn.Module):
        num_features = 24

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    fid = FrechetInceptionDistance(feature=Features())
    fvd = metric(pooled_pixels, "tats")
    for seed, brightness, real in ((0, 256, True), (1, 200, False)):
        side = clips(seed, 60, brightness)
        fvd.update(side, real=real)
        fid.update(clip_features(side, pooled_pixels, short()).double(), real=real)
    assert float(fvd.compute()) == pytest.approx(float(fid.compute()), rel=1e-4)


def test_reset_forgets_the_clips(pooled_pixels):
    fvd = metric(pooled_pixels)
    fvd.update(clips(3, 20), real=True)
    fvd.reset()
    for real in (True, False):
        fvd.update(clips(0, 20), real=real)
    assert abs(float(fvd.compute())) < 1e-6


def test_the_network_stays_in_eval_mode_inside_a_training_parent(pooled_pixels):
    fvd = metric(pooled_pixels)
    parent = nn.ModuleDict({"fvd": fvd})
    parent.train()
    fvd.update(clips(0, 2), real=True)
    clip_features(clips(0, 2), pooled_pixels.train(), short())
    assert pooled_pixels.modes == [False] * len(pooled_pixels.modes)
    assert not pooled_pixels.training


def test_reduced_precision_switched_on_outside_changes_no_feature():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(3 * 14 * 14, 24)

        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return self.linear(nn.functional.avg_pool3d(video, (2, 16, 16)).flatten(1))

    network = Linear()
    plain = clip_features(clips(0, 3), network, short())
    assert not plain.requires_grad
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = clip_features(clips(0, 3), network, short())
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(plain, reduced)


def test_statistics_stay_in_float64_whatever_the_parent_is_converted_to(pooled_pixels):
    fvd = metric(pooled_pixels)
    nn.ModuleDict({"fvd": fvd}).half()
    fvd.update(clips(0, 3), real=True)
    assert fvd.real_outer.dtype == torch.float64
    assert fvd.real_count.dtype == torch.int64
    with pytest.raises(InputError, match="precision"):
        fvd.set_dtype(torch.float32)


def test_a_network_that_does_not_fit_is_refused(pooled_pixels):
    class Broken(nn.Module):
        def __init__(self, value: float, shape: tuple[int, ...]):
            super().__init__()
            self.value, self.shape = value, shape

        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return torch.full(self.shape, self.value)

    with pytest.raises(InputError, match="num_features=24"):
        FrechetVideoDistance(pooled_pixels, 400, short()).update(clips(0, 2), real=True)
    with pytest.raises(InputError, match="2 x d features"):
        clip_features(clips(0, 2), Broken(0.0, (2, 4, 1)), short())
    with pytest.raises(InputError, match="NaN"):
        clip_features(clips(0, 2), Broken(float("nan"), (2, 4)), short())
    with pytest.raises(InputError, match="at least one clip"):
        clip_features(clips(0, 0), pooled_pixels, short())


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_a_side_without_clips_is_an_error(pooled_pixels):
    with pytest.raises(InputError, match="at least one feature vector"):
        metric(pooled_pixels).compute()


def groups_of_clips(count: int) -> tuple[np.ndarray, list[str]]:
    values = np.random.default_rng(0).normal(size=(count, 5))
    return values, [f"video {index // 3}" for index in range(count)]


def test_floor_halves_are_disjoint_in_source_videos_and_depend_on_names_alone():
    values, groups = groups_of_clips(60)
    floor = real_floor(values, groups, ddof=1)
    assert floor.num_clips == 30

    # Copies of one clip within a video would lower the floor if they fell on both sides.
    order = np.argsort(groups, kind="stable")[::-1]
    shuffled = real_floor(values[order], [groups[index] for index in order], ddof=1)
    assert shuffled.distance == pytest.approx(floor.distance, rel=1e-9)

    copies = np.repeat(values[::3], 3, axis=0)
    separate = real_floor(values[::3], groups[::3], ddof=0)
    assert real_floor(copies, groups, ddof=0).distance == pytest.approx(separate.distance, rel=1e-9)


def test_floor_takes_the_largest_equal_halves():
    values, _ = groups_of_clips(11)
    assert real_floor(values, [f"{index}" for index in range(11)], ddof=1).num_clips == 5
    assert real_floor(values, ["long"] * 9 + ["a", "b"], ddof=1).num_clips == 2


def test_floor_of_one_video_is_an_error():
    values, _ = groups_of_clips(4)
    with pytest.raises(InputError, match="two source videos"):
        real_floor(values, ["one"] * 4, ddof=1)


def test_the_mode_is_followed_by_all_but_the_network(pooled_pixels):
    """Other child modules, such as those of torchmetrics, follow the metric's mode."""
    fvd = metric(pooled_pixels)
    fvd.beside = nn.Dropout()
    for mode in (False, True, False):
        assert fvd.train(mode) is fvd
        assert fvd.training is mode
        assert fvd.beside.training is mode
        assert not any(part.training for part in fvd.network.modules())
    assert fvd.train().training
    assert not fvd.eval().training
