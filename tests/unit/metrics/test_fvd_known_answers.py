"""Tests of FVD with the pinned weights against published values."""

import numpy as np
import pytest
import torch

from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd_metric import FrechetVideoDistance
from video_vq.metrics.i3d import I3D
from video_vq.metrics.protocol import PROTOCOLS

pytestmark = pytest.mark.weights


@pytest.mark.parametrize(("num_frames", "expected"), [(16, 152.902), (15, 133.908)])
def test_black_against_white_is_the_published_value(i3d: I3D, num_frames, expected):
    fvd = FrechetVideoDistance(i3d, protocol=PROTOCOLS["google"])
    for value, real in ((0, True), (255, False)):
        fvd.update(torch.full((2, num_frames, 64, 64, 3), value, dtype=torch.uint8), real=real)
    assert float(fvd.compute()) == pytest.approx(expected, abs=2e-3)


@pytest.mark.slow
def test_two_seeds_of_noise_are_at_the_value_of_tensorflow_and_styleganv(i3d: I3D):
    # RandomState(seed).rand(128, 16, 224, 224, 3), fed raw: TensorFlow gives 10.13808536529541,
    # StyleGAN-V's network 10.138084766713924.
    sides = []
    for seed in (1, 2):
        random = np.random.RandomState(seed)
        logits = []
        for _ in range(32):
            clips = torch.from_numpy(random.rand(4, 16, 224, 224, 3).astype(np.float32))
            with torch.no_grad():
                logits.append(i3d(clips.movedim(-1, 1).contiguous()).numpy())
        sides.append(Moments.of(np.concatenate(logits)))
    assert frechet_distance(*sides, ddof=1) == pytest.approx(10.138085, abs=1e-4)
