"""Tests of latents divided by their running RMS: gradients, averages and first codes."""

from typing import Any

import pytest
import torch

from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.quantizers.scale import divide_by_rms


def quantizer_with(rms_scaling, **settings) -> Any:
    torch.manual_seed(0)
    config = QuantizerConfig(codebook_size=8, codebook_dim=4, rms_scaling=rms_scaling, **settings)
    return build_quantizer(4, config)


def test_the_gradient_of_a_constant_scale_is_divided_by_it():
    z = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    g = torch.randn(50, 4, dtype=torch.float64)
    scaled = divide_by_rms(z, torch.tensor(2.5, dtype=torch.float64), with_gradient=False)
    (found,) = torch.autograd.grad(scaled, z, g)
    torch.testing.assert_close(scaled, z / 2.5)
    torch.testing.assert_close(found, g / 2.5)


def test_the_gradient_that_passes_the_scale_is_that_of_the_batchs_own_rms():
    torch.manual_seed(0)
    z = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    g = torch.randn(50, 4, dtype=torch.float64)
    by_autograd = z / z.square().mean().sqrt()
    scaled = divide_by_rms(z, z.detach().square().mean().sqrt(), with_gradient=True)
    torch.testing.assert_close(scaled, by_autograd)
    (expected,) = torch.autograd.grad(by_autograd, z, g)
    (found,) = torch.autograd.grad(scaled, z, g)
    torch.testing.assert_close(found, expected)
    # Another scale than these rows' own changes the size of the gradient alone.
    elsewhere = divide_by_rms(z, torch.tensor(3.0, dtype=torch.float64), with_gradient=True)
    (found,) = torch.autograd.grad(elsewhere, z, g)
    assert abs(float((z.detach() * found).sum())) < 1e-12
    torch.testing.assert_close(found, expected * z.detach().square().mean().sqrt() / 3)


@pytest.mark.parametrize("rms_scaling", ["constant", "with_gradient"])
def test_first_codes_are_drawn_from_scaled_latents(rms_scaling):
    quantizer = quantizer_with(rms_scaling)
    features = 7 * torch.randn(4, 4, 2, 3, 3)
    raw = quantizer.latents(features).detach()  # the scale is still 1
    quantizer.codebook.initialize((raw[:30], raw[30:]), 0)
    assert float(quantizer.codebook.mean_square) == pytest.approx(float(raw.square().mean()))
    compared = quantizer.latents(features).detach()
    assert float(compared.square().mean()) == pytest.approx(1, rel=1e-5)
    for code in quantizer.codebook.vectors():
        assert float((compared - code).abs().sum(1).min()) < 1e-5


def test_the_scale_follows_the_latents_as_the_codes_do_and_forward_changes_nothing():
    quantizer = quantizer_with("constant", decay=0.8, decay_warmup=False)
    batches = [torch.randn(4, 4, 2, 3, 3) * scale for scale in (1.0, 3.0, 9.0)]
    raw = [quantizer.project_in(batch.movedim(1, -1)).detach() for batch in batches]
    quantizer.codebook.initialize((quantizer.latents(batches[0]).detach(),), 0)
    expected = float(raw[0].square().mean())
    for batch, rows in zip(batches, raw, strict=True):
        output = quantizer(batch)
        assert float(quantizer.codebook.mean_square) == pytest.approx(expected, rel=1e-5)
        quantizer.codebook.update(output.statistics, 0)
        expected = 0.8 * expected + 0.2 * float(rows.square().mean())
    assert float(quantizer.codebook.mean_square) == pytest.approx(expected, rel=1e-5)
    # Scoring uses the average as training does.
    assert torch.equal(quantizer.eval().encode(batches[1]), quantizer.train()(batches[1]).codes)


def test_the_scale_is_saved_with_the_codes_and_only_where_it_is_set():
    with_scale = quantizer_with("constant").state_dict()
    assert with_scale.keys() - quantizer_with("none").state_dict().keys() == {
        "codebook.mean_square"
    }


def test_latents_that_are_not_finite_leave_codes_and_scale_for_later():
    quantizer = quantizer_with("constant")
    rows = torch.randn(1000, 4)
    rows[-1] = torch.inf
    quantizer.codebook.initialize((rows,), 0)
    assert not quantizer.codebook.is_initialized
    assert float(quantizer.codebook.mean_square) == 1
