import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import nn

from video_vq.errors import InputError
from video_vq.metrics import perceptual
from video_vq.metrics.perceptual import (
    TRUNKS,
    Blur,
    StLpips,
    load_st_lpips,
    st_lpips_per_clip,
)


def random_network(trunk: perceptual.Trunk) -> StLpips:
    """Return ST-LPIPS with random weights that preserve the scale of the activations."""
    torch.manual_seed(0)
    network = StLpips(trunk)
    for name, parameter in network.named_parameters():
        if name.startswith("heads"):
            nn.init.uniform_(parameter)
        elif name.endswith("weight"):
            nn.init.kaiming_normal_(parameter)
    return network


@pytest.fixture(scope="module")
def random_alex() -> StLpips:
    return random_network("alex")


def pictures(seed: int, num_frames: int = 2, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_frames, 3, size, size, generator=generator) * 2 - 1


def noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8))


def ramp(shift: int, height: int, width: int) -> torch.Tensor:
    t, y, x, c = np.ogrid[:2, :height, :width, :3]
    values = (5 * (x + shift) + 3 * y + 40 * c + 20 * t) % 256
    return torch.from_numpy(values.astype(np.uint8))[None]


@pytest.mark.weights
@pytest.mark.parametrize(
    ("trunk", "of_noise", "of_one_pixel", "of_eight_pixels"),
    [
        ("alex", 0.039915306493639946, 0.009061025455594063, 0.33771221339702606),
        ("vgg", 0.06737060472369194, 0.019126671366393566, 0.36450622975826263),
    ],
)
def test_scores_are_those_of_the_original_package(trunk, of_noise, of_one_pixel, of_eight_pixels):
    network = load_st_lpips(trunk)
    found = [
        st_lpips_per_clip(noise(1, (1, 2, 32, 32, 3)), noise(2, (1, 2, 32, 32, 3)), network),
        st_lpips_per_clip(ramp(0, 33, 47), ramp(1, 33, 47), network),
        st_lpips_per_clip(ramp(0, 64, 64), ramp(8, 64, 64), network),
    ]
    expected = [of_noise, of_one_pixel, of_eight_pixels]
    assert torch.cat(found).tolist() == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("size", [3, 4, 7, 8])
def test_the_blur_is_the_binomial_filter_at_every_second_pixel_from_one_before_the_first(size):
    x = pictures(1, size=size)
    binomial = np.outer([1, 2, 1], [1, 2, 1]) / 16
    everywhere = correlate(x.numpy(), binomial[None, None], mode="mirror")
    centres = np.arange(-1, size + 1, 2)
    centres = np.where(centres < 0, -centres, centres)
    centres = np.where(centres >= size, 2 * (size - 1) - centres, centres)
    expected = everywhere[:, :, centres][:, :, :, centres]
    np.testing.assert_allclose(Blur()(x).numpy(), expected, atol=1e-6)
    assert expected.shape[-1] == (size + 1) // 2 + 1


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_the_smallest_picture_that_is_allowed_has_a_score_and_one_less_is_refused(trunk):
    network = StLpips(trunk)
    smallest = TRUNKS[trunk].min_size
    assert network(pictures(1, size=smallest), pictures(2, size=smallest)).shape == (2,)
    refused = pictures(1, size=smallest - 1)
    with pytest.raises(InputError, match=rf"{trunk}.*at least {smallest} x {smallest} pixels"):
        network(refused, refused)
    with pytest.raises(RuntimeError, match="Padding size"):  # nor could it be computed
        nn.Sequential(*network.stages)(refused)


def test_equal_pictures_are_at_distance_zero_and_others_further_apart(random_alex):
    x, y = pictures(1), pictures(2)
    assert random_alex(x, x).tolist() == [0, 0]
    slightly = random_alex(x, x + 0.05 * (y - x))
    assert (slightly > 0).all()
    assert (random_alex(x, y) > 2 * slightly).all()
    assert torch.equal(random_alex(x, y), random_alex(y, x))


def test_the_distance_is_the_weighted_squared_difference_of_unit_features(random_alex):
    """The expected value is equation 1 of Zhang et al. 2018, in float64 on the same features."""
    x, y = pictures(3), pictures(4)
    features: list[list[np.ndarray]] = [[], []]
    for picture, kept in zip((x, y), features, strict=True):
        h = picture.clone()
        h[:, 0], h[:, 1], h[:, 2] = (
            (picture[:, channel] - shift) / scale
            for channel, (shift, scale) in enumerate(
                [(-0.030, 0.458), (-0.088, 0.448), (-0.188, 0.450)]
            )
        )
        for stage in random_alex.stages:
            h = stage(h)
            kept.append(h.numpy().astype(np.float64))
    expected = np.zeros(2)
    for a, b, head in zip(*features, random_alex.heads, strict=True):
        unit_a, unit_b = (v / np.sqrt((v**2).sum(1, keepdims=True)) for v in (a, b))
        weighted = (unit_a - unit_b) ** 2 * head.numpy()[:, None, None]
        expected += weighted.sum(1).mean((1, 2))
    np.testing.assert_allclose(random_alex(x, y).numpy(), expected, rtol=1e-5)


def test_a_clips_score_is_the_mean_over_its_frames_however_they_are_divided(
    random_alex, monkeypatch
):
    clips, reference = noise(3, (2, 5, 32, 32, 3)), noise(4, (2, 5, 32, 32, 3))
    whole = st_lpips_per_clip(clips, reference, random_alex)
    as_pictures = (video.movedim(-1, 2).float() / 127.5 - 1 for video in (clips, reference))
    frames, originals = (video.flatten(0, 1) for video in as_pictures)
    per_frame = random_alex(frames, originals).double()
    assert whole.dtype == torch.float64
    assert whole.tolist() == pytest.approx(per_frame.view(2, 5).mean(1).tolist(), rel=1e-5)

    monkeypatch.setattr(perceptual, "PIXELS_AT_ONCE", 2 * 32 * 32)
    divided = st_lpips_per_clip(clips, reference, random_alex)
    assert divided.tolist() == pytest.approx(whole.tolist(), rel=1e-5)


def test_a_clips_st_lpips_does_not_depend_on_its_batch(random_alex):
    clips, reference = noise(5, (3, 2, 32, 32, 3)), noise(6, (3, 2, 32, 32, 3))
    reference[0] = clips[0]
    values = st_lpips_per_clip(clips, reference, random_alex)
    assert values[0] == 0
    assert torch.equal(st_lpips_per_clip(clips[1:2], reference[1:2], random_alex), values[1:2])
    assert torch.equal(st_lpips_per_clip(clips.float(), reference, random_alex), values)


def test_reduced_precision_switched_on_outside_does_not_reach_st_lpips(
    random_alex, reduced_precision
):
    x, y = pictures(5), pictures(6)
    plain = random_alex(x, y)

    reduced_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert random_alex.stages[0][0](x).dtype == torch.bfloat16
        reduced = random_alex(x, y)

    assert torch.equal(reduced, plain)


def test_st_lpips_in_training_mode_is_the_same(random_alex):
    x, y = pictures(7), pictures(8)
    evaluated = random_alex.eval()(x, y)
    assert torch.equal(random_alex.train()(x, y), evaluated)


def test_as_a_loss_its_gradient_reaches_the_pictures_but_no_weight(random_alex):
    x, y = pictures(9).requires_grad_(), pictures(10)
    before = random_alex(x, y).mean()
    [gradient] = torch.autograd.grad(before, x)
    assert not any(parameter.requires_grad for parameter in random_alex.parameters())

    # To first order a step along the gradient lowers the loss by step · |gradient|².
    step = 0.01 * before.detach() / gradient.square().sum()
    after = random_alex(x.detach() - step * gradient, y).mean()
    assert (before - after).item() == pytest.approx(0.01 * before.item(), rel=0.2)


@pytest.mark.parametrize("bias", [0.0, -100.0])
def test_the_gradient_is_finite_where_features_vanish_and_where_pictures_are_equal(bias):
    network = random_network("alex")
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.fill_(bias)  # at -100 every feature is zero
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    for y in (torch.zeros(1, 3, 32, 32), pictures(11, num_frames=1)):
        [gradient] = torch.autograd.grad(network(x, y).sum(), x)
        assert torch.isfinite(gradient).all()


def test_pictures_that_cannot_be_compared_are_refused(random_alex):
    with pytest.raises(InputError, match="float32"):
        random_alex(pictures(1).double(), pictures(1))
    with pytest.raises(InputError, match="float32"):
        random_network("alex").to(torch.bfloat16)(pictures(1), pictures(1))
    small = noise(1, (1, 2, 16, 32, 3))
    with pytest.raises(InputError, match=r"alex.*at least 21 x 21 pixels, found 16 x 32"):
        st_lpips_per_clip(small, small, random_alex)
    with pytest.raises(InputError, match="equal shapes"):
        st_lpips_per_clip(small[:0], small[:0], random_alex)
