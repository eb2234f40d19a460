"""Tests of the radial forces on the latents against gradients of each loss."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator

from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.quantizer_config import FiniteConfig, QuantizerConfig
from video_vq.training.mechanism import radial_forces, watch

SMALL: dict[str, Any] = {"codebook_size": 16, "codebook_dim": 6}
CONFIGS = [
    QuantizerConfig(**SMALL),
    QuantizerConfig(**SMALL, estimator="straight_through"),
    QuantizerConfig(**SMALL, centered=True),
    QuantizerConfig(**SMALL, tangential_commitment=True),
    QuantizerConfig(**SMALL, rms_scaling="constant"),
    QuantizerConfig(**SMALL, rms_scaling="with_gradient"),
    QuantizerConfig(**SMALL, normalize=True),
    QuantizerConfig(**SMALL, normalize=True, gradient_through_norm=False),
    FiniteConfig(),
]


def started(config) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    quantizer = build_quantizer(8, config)
    features = torch.randn(2, 8, 2, 4, 4)
    if not quantizer.codebook.is_initialized:
        quantizer.codebook.initialize((quantizer.latents(features).detach(),), 0)
        quantizer.codebook.update(quantizer(features).statistics, 0)
    return quantizer, features + 0.3 * torch.randn_like(features)


def forces_by_parts(quantizer, features, target, commitment):
    """Return Σ z·∂L/∂z of the pixel-like loss and of the weighted commitment loss, separately."""
    found = []
    for part in ("loss", "commitment"):
        output = quantizer(features)
        z = output.rows.latents
        if part == "loss":
            loss = (output.quantized * target).square().mean()
        elif "commitment" in output.losses:
            loss = commitment * output.losses["commitment"]
        else:
            found.append(0.0)
            continue
        (gradient,) = torch.autograd.grad(loss, z)
        found.append(float((z.detach() * gradient).sum()))
    return found


@pytest.mark.parametrize("config", CONFIGS)
def test_each_force_is_that_of_its_own_loss(config):
    quantizer, features = started(config)
    target = torch.randn(features.shape)
    output = quantizer(features)
    watched = watch(Accelerator(cpu=True), torch.zeros(2, 3, 2, 4, 4), output, 4)
    loss = (output.quantized * target).square().mean()
    if "commitment" in output.losses:
        loss = loss + 0.5 * output.losses["commitment"]
    (loss / 4).backward()
    forces = radial_forces(quantizer, output.rows, watched.loss_scale, 0.5, weight_decay=0.1)
    estimator, commitment = forces_by_parts(quantizer, features, target, 0.5)
    assert forces["radial_estimator"] == pytest.approx(estimator, rel=1e-3, abs=1e-6)
    assert forces["radial_commitment"] == pytest.approx(commitment, rel=1e-3, abs=1e-6)
    rows = output.rows
    wish = 4 * float((rows.passed.detach() * rows.passed.grad).sum())
    assert forces["radial_wish"] == pytest.approx(wish, rel=1e-4)
    if config == CONFIGS[0]:  # the rotation turns the wish for the code's length into the latent's
        assert forces["radial_estimator"] == pytest.approx(wish, rel=1e-3)
    elif config == CONFIGS[1]:
        assert forces["radial_estimator"] != pytest.approx(wish, rel=1e-2)


def test_decay_shrinks_the_latents_at_the_rate_of_its_force():
    quantizer, features = started(CONFIGS[0])
    output = quantizer(features)
    watch(Accelerator(cpu=True), torch.zeros(2, 3, 2, 4, 4), output, 1)
    output.quantized.sum().backward()
    decay, lr = 0.1, 1e-3
    forces = radial_forces(quantizer, output.rows, 1.0, 0.0, decay)
    before = output.rows.latents.detach().double().square().sum() / 2
    with torch.no_grad():
        quantizer.project_in.weight.mul_(1 - lr * decay)
        after = quantizer(features).rows.latents.double().square().sum() / 2
    assert float(before - after) / lr == pytest.approx(forces["radial_decay"], rel=2e-2)
    assert forces["radial_commitment"] == 0
