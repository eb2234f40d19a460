"""Tests of the discriminator: its losses, its state, and that it learns."""

import pytest
import torch
from torch.nn import functional as F

from video_vq.distributed import make_accelerator
from video_vq.errors import InputError
from video_vq.models.discriminator import PatchDiscriminator
from video_vq.training.discriminator import Discriminator, check_adversarial
from video_vq.training.training_config import AdversarialConfig, OptimizerConfig

CONFIG = AdversarialConfig(weight=0.1, start=0, lecam=0.5, channels=8, levels=2)
OPTIM = OptimizerConfig(weight_decay=0.0, clip_norm=1e9)


def make() -> Discriminator:
    torch.manual_seed(0)
    discriminator = Discriminator(make_accelerator(), CONFIG, OPTIM)
    discriminator.prepare()
    return discriminator


def clips(seed: int, number: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise, and the same noise averaged over time, like the output of a poor decoder."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.rand(number, 3, 4, 16, 16, generator=generator) * 2 - 1
    return video, video.mean(2, keepdim=True).expand_as(video)


def gradients(discriminator: Discriminator) -> list[torch.Tensor]:
    found = [parameter.grad for parameter in discriminator.network.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


@pytest.mark.parametrize("num_frames", [1, 4, 17])
def test_a_clips_logits_are_a_grid_and_depend_on_that_clip_alone(num_frames):
    torch.manual_seed(0)
    network = PatchDiscriminator(12, 3)
    video = torch.randn(3, 3, num_frames, 32, 24)
    logits = network(video)
    assert logits.shape[2:] == (4, 3)
    assert logits.shape[1] == -(-num_frames // 8)
    torch.testing.assert_close(network(video[1:2]), logits[1:2])


def test_the_tokenizers_side_is_minus_the_mean_logit_and_leaves_no_gradient_behind():
    discriminator = make()
    video = clips(1)[0].requires_grad_()
    discriminator.fooling_loss(video).backward()
    found = video.grad
    assert all(parameter.grad is None for parameter in discriminator.network.parameters())
    direct = video.detach().clone().requires_grad_()
    (-discriminator.network(direct).mean()).backward()
    assert found is not None
    assert direct.grad is not None
    torch.testing.assert_close(found, direct.grad)
    assert found.abs().max() > 0


def test_the_discriminators_side_is_hinge_plus_lecam():
    discriminator = make()
    discriminator.anchors.copy_(torch.tensor([0.7, -0.4]))
    video, reconstruction = clips(1)
    reconstruction = reconstruction.clone().requires_grad_()
    discriminator.learn(video, reconstruction, accumulation=1, is_last=True)
    found = gradients(discriminator)
    assert reconstruction.grad is None
    discriminator.network.zero_grad()
    real, fake = discriminator.network(video), discriminator.network(reconstruction.detach())
    hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    lecam = ((real + 0.4) ** 2).mean() + ((fake - 0.7) ** 2).mean()
    (hinge + 0.5 * lecam).backward()
    torch.testing.assert_close(found, gradients(discriminator))
    assert discriminator.numbers() == {}
    discriminator.step(healthy=True, lr=1e-3)
    numbers = discriminator.numbers()
    assert numbers["discriminator/loss"] == pytest.approx(hinge.item(), rel=1e-5)
    assert numbers["discriminator/lecam"] == pytest.approx(lecam.item(), rel=1e-5)
    accuracy = ((real > 0).float().mean() + (fake < 0).float().mean()).item() / 2
    assert numbers["discriminator/accuracy"] == pytest.approx(accuracy)
    # The first decay is (1 + 0) / (10 + 0).
    expected = 0.1 * torch.tensor([0.7, -0.4]) + 0.9 * torch.stack([real.mean(), fake.mean()])
    torch.testing.assert_close(discriminator.anchors, expected.detach())


def test_micro_batches_add_up_to_the_batch():
    whole, parts = make(), make()
    video, reconstruction = clips(1)
    whole.learn(video, reconstruction, accumulation=1, is_last=True)
    for number, (real, fake) in enumerate(
        zip(video.split(2), reconstruction.split(2), strict=True)
    ):
        parts.learn(real, fake, accumulation=2, is_last=number == 1)
    torch.testing.assert_close(gradients(whole), gradients(parts))
    for discriminator in (whole, parts):
        discriminator.step(healthy=True, lr=1e-3)
    assert whole.numbers() == pytest.approx(parts.numbers(), rel=1e-4)


def test_a_step_that_is_not_healthy_changes_nothing_and_leaves_nothing():
    discriminator = make()
    before = {
        name: value.clone() for name, value in discriminator.tensors()["discriminator"].items()
    }
    video, reconstruction = clips(1)
    discriminator.learn(video * torch.nan, reconstruction, accumulation=1, is_last=True)
    assert not torch.isfinite(discriminator.clip())
    discriminator.step(healthy=False, lr=1e-3)
    after = discriminator.tensors()["discriminator"]
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    discriminator.learn(video, reconstruction, accumulation=1, is_last=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(discriminator))


def test_it_learns_to_tell_clips_from_what_is_smoothed_in_time():
    discriminator = make()
    for step in range(60):
        discriminator.learn(*clips(step), accumulation=1, is_last=True)
        discriminator.step(healthy=True, lr=1e-3)
    assert discriminator.numbers()["discriminator/accuracy"] > 0.95
    real, fake = (discriminator.network(video).mean() for video in clips(1000))
    assert real > 0 > fake


def test_its_state_comes_back_and_goes_on_bit_for_bit():
    first, second = make(), make()
    for step in range(3):
        first.learn(*clips(step), accumulation=1, is_last=True)
        first.step(healthy=True, lr=1e-3)
    torch.manual_seed(1)
    second = Discriminator(make_accelerator(), CONFIG, OPTIM)
    saved = {
        file: {name: value.clone() for name, value in values.items()}
        for file, values in first.tensors().items()
    }
    second.load(saved)
    second.prepare()
    for discriminator in (first, second):
        discriminator.learn(*clips(3), accumulation=1, is_last=True)
        discriminator.step(healthy=True, lr=1e-3)
    for file, values in first.tensors().items():
        other = second.tensors()[file]
        assert values.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in values.items())
    tensors = first.tensors()
    del tensors["discriminator"]["lecam.anchors"]
    with pytest.raises(InputError, match=r"missing: lecam\.anchors"):
        second.load(tensors)


def test_small_frames_and_fp16_are_refused():
    check_adversarial(AdversarialConfig(levels=6), "fp16", (8, 8))  # off
    with pytest.raises(InputError, match="at least 16 x 16 pixels, found 8 x 32"):
        check_adversarial(AdversarialConfig(weight=0.1, levels=4), "no", (8, 32))
    with pytest.raises(InputError, match="does not train in fp16"):
        check_adversarial(AdversarialConfig(weight=0.1), "fp16", (64, 64))
