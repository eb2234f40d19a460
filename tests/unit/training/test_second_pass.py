"""Tests of gradients at the latents against closed forms and finite differences."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import (
    ConvBackboneConfig,
    TimeSformerConfig,
    TokenizerConfig,
)
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.quantizers.rows import dot, features_of
from video_vq.training.second_pass import NAMES, gradients_at_latents

SMALL = QuantizerConfig(codebook_size=4, codebook_dim=6)
CONV = ConvBackboneConfig(channels=8, num_blocks=1, multipliers=(1, 2), strides_thw=((2, 2, 2),))
TIMESFORMER = TimeSformerConfig(
    size_thw=(4, 8, 8), patch_thw=(2, 4, 4), width=16, depth=1, heads=2, mlp_width=16
)


def started(backbone, quantizer=SMALL, checkpoint=False) -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(TokenizerConfig(backbone, quantizer), checkpoint).train()
    video = torch.rand(2, 3, 4, 8, 8) * 2 - 1
    tokenizer.quantizer.codebook.initialize((tokenizer.latents(video).detach(),), 0)
    tokenizer.quantizer.codebook.update(tokenizer(video).quantized.statistics, 0)
    return tokenizer, tokenizer(video).quantized


class Fold(nn.Module):
    """A linear decoder, which returns the first three channels unchanged."""

    def forward(self, features):
        return features[:, :3]


def both(tokenizer, quantized, loss_of):
    return gradients_at_latents(Accelerator(cpu=True), tokenizer, quantized, loss_of, NAMES, False)


def test_for_a_quadratic_loss_both_are_the_gradient_at_the_latents():
    tokenizer, quantized = started(CONV)
    tokenizer.decoder = Fold()
    weight = tokenizer.quantizer.project_out.weight[:3].detach()
    bias = tokenizer.quantizer.project_out.bias[:3].detach()

    def loss_of(video):
        return video.square().sum() / 2

    found = both(tokenizer, quantized, loss_of)
    expected = (quantized.rows.compared.detach() @ weight.T + bias) @ weight
    for gradient in found.values():
        torch.testing.assert_close(gradient, expected)
    at_codes = (quantized.rows.code @ weight.T + bias) @ weight
    assert float((at_codes - expected).norm() / expected.norm()) > 0.01


def test_the_hessian_leaves_out_the_third_order():
    tokenizer, quantized = started(CONV)
    tokenizer.decoder = Fold()
    errors = []
    for share in (0.2, 0.1):
        rows = quantized.rows
        near = rows.code + share * (rows.compared.detach() - rows.code)
        moved = quantized._replace(rows=rows._replace(compared=near))
        found = both(tokenizer, moved, lambda video: torch.sin(2 * video).sum())
        errors.append(float((found["hessian"] - found["exact_gradient"]).norm()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("backbone", [CONV, TIMESFORMER])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_they_agree_with_finite_differences_and_leave_no_trace(backbone, checkpoint):
    tokenizer, quantized = started(backbone, checkpoint=checkpoint)
    torch.manual_seed(1)
    target = torch.randn(2, 3, 4, 8, 8)
    batch, *grid = quantized.codes.shape

    def loss_of(video):
        return (video * target).square().mean()

    def loss_at(rows):
        features = features_of(rows, tokenizer.quantizer.project_out, batch, grid)
        return float(loss_of(tokenizer.decoder(features).detach()))

    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    random = torch.get_rng_state()
    found = both(tokenizer, quantized, loss_of)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(value.grad is None for value in tokenizer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())

    direction = torch.randn_like(quantized.rows.e)
    step = 3e-3 * direction
    e, q = quantized.rows.compared.detach(), quantized.rows.code
    with torch.no_grad():
        slope = (loss_at(e + step) - loss_at(e - step)) / 2
    assert float((found["exact_gradient"] * step).sum()) == pytest.approx(slope, rel=2e-2)

    # Of g itself at the code, and along e − q: g(q + s(e − q)) ≈ g + s H (e − q).
    share = 1e-2
    ends = [
        both(
            tokenizer,
            quantized._replace(rows=quantized.rows._replace(compared=q + sign * share * (e - q))),
            loss_of,
        )["exact_gradient"]
        for sign in (-1, 1)
    ]
    expected = (ends[0] + ends[1]) / 2 + (ends[1] - ends[0]) / (2 * share)
    error = float((found["hessian"] - expected).norm() / expected.norm())
    assert error < 2e-2


def test_the_latents_of_a_centered_quantizer_are_decoded_where_they_are():
    config = QuantizerConfig(codebook_size=4, codebook_dim=6, centered=True)
    tokenizer, quantized = started(CONV, config)
    tokenizer.decoder = Fold()
    weight = tokenizer.quantizer.project_out.weight[:3].detach()
    bias = tokenizer.quantizer.project_out.bias[:3].detach()
    found = both(tokenizer, quantized, lambda video: video.square().sum() / 2)
    expected = (quantized.rows.latents.detach() @ weight.T + bias) @ weight
    torch.testing.assert_close(found["exact_gradient"], expected)


@pytest.mark.parametrize("estimator", NAMES)
def test_the_encoder_learns_from_the_second_pass_and_the_decoder_from_the_first(estimator):
    """For a quadratic loss and a linear decoder, the encoder learns as without a quantizer."""
    config = QuantizerConfig(codebook_size=4, codebook_dim=6, estimator=estimator)
    tokenizer, _ = started(CONV, config)
    tokenizer.decoder = Fold()
    video = torch.rand(2, 3, 4, 8, 8) * 2 - 1

    def loss_of(decoded):
        return (decoded - 0.3).square().sum()

    def gradients(loss) -> dict[str, Any]:
        tokenizer.zero_grad()
        loss.backward()
        return {name: value.grad for name, value in tokenizer.named_parameters()}

    def loss_of_video(continuous):
        return loss_of(tokenizer(video, continuous).video)

    unquantized, quantized = gradients(loss_of_video(True)), gradients(loss_of_video(False))
    output = tokenizer(video)
    at_latents = gradients_at_latents(
        Accelerator(cpu=True), tokenizer, output.quantized, loss_of, [estimator], False
    )
    term = dot(output.quantized.rows.compared, at_latents[estimator])
    found = gradients(loss_of(output.video) + term)
    differ = 0
    for name, value in found.items():
        before_codes = name.startswith(("encoder", "quantizer.project_in"))
        expected = (unquantized if before_codes else quantized)[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
        differ += not torch.allclose(unquantized[name], quantized[name], rtol=1e-2)
    assert differ > 4
