"""Tests of small parts of the scores against values computed by hand."""

import numpy as np
import pytest
import torch

from video_vq.errors import InputError
from video_vq.metrics.class_accuracy import (
    SIDE,
    ClipClassifier,
    _frames_and_changes,
    predicted_classes,
)
from video_vq.metrics.frechet import _root
from video_vq.metrics.fvd import real_floor
from video_vq.metrics.i3d_checkpoint import read_checkpoint
from video_vq.metrics.uncertainty import _strata


def test_two_source_videos_are_enough_for_a_floor():
    features = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 4.0], [2.0, 4.0]])
    floor = real_floor(features, ["a", "a", "b", "b"], ddof=1)
    assert floor.distance == pytest.approx(9.0)  # the means differ by 3, the spreads are equal
    assert floor.num_clips == 2


def test_halves_are_taken_within_the_videos_that_the_same_sets_hold():
    codes = [np.array([0, 1, 2, 4, 4]), np.array([1, 2, 3, 5]), np.array([1, 5])]
    found = [stratum.tolist() for stratum in _strata(6, codes)]
    assert sorted(found) == [[0, 4], [1], [2], [3], [5]]


@pytest.mark.parametrize(("smallest", "rank"), [(1e-20, 2), (1e-15, 2), (1e-13, 3)])
def test_a_direction_of_rounding_noise_is_no_direction(smallest, rank):
    # Of three directions, one within 3 roundings of the largest variance is noise.
    covariance = np.diag([smallest, 1e-9, 2.0])
    root = _root(covariance, 10)
    assert root.shape == (3, rank)
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-14)
    assert _root(covariance, 1).shape == (3, 1)
    assert _root(np.zeros((3, 3)), 10).shape == (3, 0)


@pytest.mark.parametrize(
    ("height", "width"), [(4, 8), (SIDE, SIDE), (2 * SIDE, SIDE), (8, 4 * SIDE)]
)
def test_the_classifier_sees_grey_frames_of_at_most_its_side_and_their_changes(height, width):
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (1, 3, min(height, SIDE), min(width, SIDE), 3), dtype=np.uint8)
    # Each pixel of the small clip becomes a block, whose mean is that pixel again.
    blocks = small.repeat(max(1, height // SIDE), 2).repeat(max(1, width // SIDE), 3)
    found = _frames_and_changes(torch.from_numpy(blocks))[0].double().numpy()
    grey = small[0].astype(np.float64).mean(-1)
    grey = (grey - grey.mean()) / (grey.std(ddof=1) + 1)
    np.testing.assert_allclose(found[0], grey[1:], atol=1e-5)
    np.testing.assert_allclose(found[1], 4 * (grey[1:] - grey[:-1]), atol=1e-4)


@pytest.mark.parametrize("data", [b"", b"no pickle", b"\x80\x04K\x01", b"\x80\x04]\x94."[:-1]])
def test_a_damaged_pickle_is_refused(data):
    with pytest.raises(InputError, match="the checkpoint is not a readable pickle"):
        read_checkpoint(data)


def test_the_likeliest_class_of_each_clip_is_told_in_order():
    class Brightness(ClipClassifier):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(clips[:, 0, 0, 0, 0].long(), 200)

    clips = [np.full((2, 4, 4, 3), number, np.uint8) for number in range(150)]
    assert predicted_classes(Brightness(2), clips[::-1]).tolist() == list(range(150))[::-1]
