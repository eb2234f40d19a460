"""Tests of resizing: its formula, its center crop, and equal bytes everywhere."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_vq.media.resize import crop_box, resize


def cubic(x: np.ndarray) -> np.ndarray:
    """Return Keys' cubic convolution kernel with a = −1/2 (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def weights(size: int, start: float, end: float, target: int) -> np.ndarray:
    """Return each target pixel's weights: the kernel at its center, widened if reducing."""
    scale = (end - start) / target
    centres = start + (np.arange(target) + 0.5) * scale
    distance = (np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1.0)
    found = cubic(distance)
    return found / found.sum(axis=1, keepdims=True)


def by_the_formula(frame: np.ndarray, target_hw: tuple[int, int]) -> np.ndarray:
    left, top, right, bottom = crop_box((frame.shape[0], frame.shape[1]), target_hw)
    across = weights(frame.shape[1], left, right, target_hw[1])
    down = weights(frame.shape[0], top, bottom, target_hw[0])
    return np.einsum("yh,xw,hwc->yxc", down, across, frame.astype(np.float64), optimize=True)


def smooth_frames(count: int, height: int, width: int) -> np.ndarray:
    """Return waves with edges, far enough from 0 and 255 that no overshoot is clipped."""
    t, y, x = np.meshgrid(*map(np.arange, (count, height, width)), indexing="ij")
    waves = np.stack(
        [np.sin((k + 1) * x / 37 + t) * np.cos((3 - k) * y / 29 - k) for k in range(3)], axis=-1
    )
    return (128 + 80 * np.sign(waves) * np.abs(waves) ** 0.3).astype(np.uint8)


@pytest.mark.parametrize(
    ("size_hw", "target_hw"),
    [
        ((240, 320), (64, 64)),
        ((240, 320), (128, 128)),
        ((320, 240), (64, 64)),
        ((97, 131), (40, 72)),
        ((50, 40), (64, 64)),
        ((144, 176), (64, 96)),
    ],
)
def test_pixels_are_those_of_the_cubic_filter_within_one_level(size_hw, target_hw):
    frames = smooth_frames(2, *size_hw)
    found = resize(frames, target_hw)
    assert found.shape == (2, *target_hw, 3)
    for frame, small in zip(frames, found, strict=True):
        expected = by_the_formula(frame, target_hw)
        # Half a level for each of the two passes' roundings, and a little for the first's spread.
        assert np.abs(small - expected).max() <= 1.25
        assert np.abs(small - expected).mean() < 0.35


def test_a_large_reduction_first_takes_the_mean_of_whole_blocks():
    frame = smooth_frames(1, 768, 768)
    blocks = frame.reshape(1, 192, 4, 192, 4, 3).mean(axis=(2, 4))
    expected = by_the_formula(np.round(blocks[0]), (64, 64))
    assert np.abs(resize(frame, (64, 64))[0] - expected).max() <= 1.25
    assert np.abs(resize(frame, (64, 64))[0] - by_the_formula(frame[0], (64, 64))).max() <= 4


def test_a_reduction_does_not_alias():
    stripes = np.zeros((1, 256, 256, 3), np.uint8)
    stripes[:, :, ::2] = 255
    inside = resize(stripes, (64, 64))[:, :, 2:-2]
    assert np.abs(inside - 127.5).max() <= 1


def test_frames_of_the_right_size_are_not_touched():
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(resize(frames, (64, 64)), frames)


def test_one_colour_stays_that_colour():
    for level in (0, 1, 127, 254, 255):
        frames = np.full((1, 90, 70, 3), level, np.uint8)
        assert (resize(frames, (64, 64)) == level).all()


@given(st.tuples(*[st.integers(1, 2000)] * 2), st.tuples(*[st.integers(1, 512)] * 2))
def test_the_crop_is_centred_as_large_as_can_be_and_of_the_targets_proportions(size, target):
    left, top, right, bottom = crop_box(size, target)
    height, width = size
    assert 0 <= left < right <= width + 1e-9
    assert 0 <= top < bottom <= height + 1e-9
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    assert (right - left) * target[0] == pytest.approx((bottom - top) * target[1])
    assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)


def test_the_bytes_are_the_same_on_every_machine():
    rng = np.random.default_rng(7)
    digest = hashlib.sha256()
    for size_hw in ((240, 320), (61, 83), (720, 1280), (1920, 1080)):
        frames = rng.integers(0, 256, (1, *size_hw, 3), dtype=np.uint8)
        for target_hw in ((64, 64), (128, 128), (96, 160)):
            digest.update(resize(frames, target_hw).tobytes())
    expected = "59a4e239a35ba629c07e8ad21082c255860f35569f85183fb4dcbed4efb9297e"
    assert digest.hexdigest() == expected
