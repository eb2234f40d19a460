import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from video_vq.errors import InputError
from video_vq.metrics.reconstruction import psnr_per_clip, ssim_per_clip


def noisy_pair(seed: int, shape: tuple[int, ...] = (3, 4, 24, 30, 3)):
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.uniform(0, 255, shape), (0, 1, 3, 3, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 255
    noise = random.normal(size=shape) * np.array([2.0, 10.0, 40.0]).reshape(3, 1, 1, 1, 1)
    clean, dirty = (np.clip(values, 0, 255).astype(np.uint8) for values in (smooth, smooth + noise))
    return torch.from_numpy(dirty), torch.from_numpy(clean)


def ssim_by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Return the SSIM of a frame h w c, for windows inside the frame (Wang et al. 2004)."""

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (1.5, 1.5, 0), truncate=3.5)[5:-5, 5:-5]

    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float((numerator / denominator).mean())


@pytest.mark.parametrize("difference", [1, 5, 255])
def test_psnr_of_a_constant_difference_has_its_closed_form(difference):
    dark = torch.zeros(2, 3, 4, 5, 3, dtype=torch.uint8)
    expected = 20 * math.log10(255 / difference)
    assert psnr_per_clip(dark + difference, dark).tolist() == pytest.approx([expected] * 2)
    assert psnr_per_clip(dark, dark + difference).tolist() == pytest.approx([expected] * 2)


def test_psnr_comes_from_the_mean_square_error_of_the_whole_clip():
    clips = torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8)
    reference = clips.clone()
    reference[0, 1] = 10  # one frame is perfect, the other is not: MSE 50
    assert psnr_per_clip(clips, reference).item() == pytest.approx(10 * math.log10(255**2 / 50))


def test_psnr_of_identical_clips_is_infinite_and_touches_no_other_clip():
    dirty, clean = noisy_pair(0)
    dirty[1] = clean[1]
    values = psnr_per_clip(dirty, clean)
    assert values[1] == math.inf
    assert torch.isfinite(values[[0, 2]]).all()
    assert values[0] > values[2]


def test_ssim_agrees_with_its_definition():
    dirty, clean = noisy_pair(1)
    expected = [
        np.mean([ssim_by_definition(*pair) for pair in zip(a, b, strict=True)])
        for a, b in zip(dirty.numpy(), clean.numpy(), strict=True)
    ]
    assert ssim_per_clip(dirty, clean).tolist() == pytest.approx(expected, abs=1e-9)
    assert expected[0] > expected[1] > expected[2]


def test_ssim_of_identical_clips_is_one():
    _, clean = noisy_pair(2)
    assert ssim_per_clip(clean, clean).tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_float_clips_score_like_the_uint8_clips_of_the_same_values():
    dirty, clean = noisy_pair(3)
    for score in (psnr_per_clip, ssim_per_clip):
        assert torch.equal(score(dirty.float(), clean), score(dirty, clean))


def test_a_clips_score_does_not_depend_on_its_batch():
    dirty, clean = noisy_pair(4)
    for score in (psnr_per_clip, ssim_per_clip):
        assert torch.equal(score(dirty[1:2], clean[1:2]), score(dirty, clean)[1:2])


def test_clips_that_cannot_be_compared_are_refused():
    small = torch.zeros(1, 2, 10, 30, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match="11 x 11 pixels, found 10 x 30"):
        ssim_per_clip(small, small)
    with pytest.raises(InputError, match="equal shapes"):
        psnr_per_clip(small[:0], small[:0])
