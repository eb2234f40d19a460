"""Tests of what is decoded instead of the code, against peers and closed forms."""

from typing import Any

import pytest
import torch
from vector_quantize_pytorch.vector_quantize_pytorch import directional_reparam, gumbel_sample

from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.quantizers.substitutes import (
    diveq,
    gumbel_softmax,
    index_backpropagation,
    noise_substitution,
)

SUBSTITUTES: tuple[Any, ...] = ("diveq", "noise_substitution", "gumbel_softmax")


def rows(n: int = 200, d: int = 6):
    generator = torch.Generator().manual_seed(0)
    e, q, g = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(3))
    return e.requires_grad_(), q.requires_grad_(), g


@pytest.mark.parametrize("variance", [5e-3, 0.5])
def test_diveq_agrees_with_vector_quantize_pytorch(variance):
    e, q, g = rows()
    torch.manual_seed(1)
    expected = directional_reparam(e, q, variance)
    torch.manual_seed(1)
    found = diveq(e, q, variance)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, (e, q), g), torch.autograd.grad(expected, (e, q), g), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_without_noise_diveq_gives_the_code_and_no_gradient_along_the_error():
    e, q, g = rows()
    found = diveq(e, q, 0.0)
    torch.testing.assert_close(found, q)
    to_e, to_q = torch.autograd.grad(found, (e, q), g)
    unit = torch.nn.functional.normalize(q - e, dim=1).detach()
    along = unit * (unit * g).sum(1, keepdim=True)
    torch.testing.assert_close(to_e, g - along)
    torch.testing.assert_close(to_q, along)


def test_noise_substitution_keeps_the_error_and_passes_the_copy_on_average():
    e, q, g = rows(n=1)
    e, q, g = (x.detach().expand(100_000, -1).clone() for x in (e, q, g))
    torch.manual_seed(2)
    found = noise_substitution(e.requires_grad_(), q)
    torch.testing.assert_close((found - e).norm(dim=1), (q - e).norm(dim=1))
    (gradient,) = torch.autograd.grad(found, e, g)
    assert float((gradient.mean(0) - g[0]).norm() / g[0].norm()) < 0.01
    assert float((found.detach() - e.detach()).mean(0).norm() / (q - e)[0].detach().norm()) < 0.01


@pytest.mark.parametrize("degenerate", [diveq, noise_substitution])
def test_a_latent_on_its_code_has_a_finite_gradient(degenerate):
    e = torch.ones(3, 4, requires_grad=True)
    more = (5e-3,) if degenerate is diveq else ()
    found = degenerate(e, torch.ones(3, 4), *more)
    torch.testing.assert_close(found, torch.ones(3, 4))
    (gradient,) = torch.autograd.grad(found.sum(), e)
    torch.testing.assert_close(gradient, torch.ones(3, 4))


def test_gumbel_softmax_has_the_gradient_of_the_peer_and_draws_by_distance():
    e, codes, g = rows(n=30)
    codes = codes.detach()[:8].requires_grad_()
    distances = -torch.cdist(e, codes)
    _, one_hot = gumbel_sample(distances, temperature=0.7, straight_through=True)
    (expected,) = torch.autograd.grad(one_hot @ codes, e, g)
    found = gumbel_softmax(e, codes, 0.7)
    (gradient, to_codes) = torch.autograd.grad(found, (e, codes), g)
    torch.testing.assert_close(gradient, expected)
    assert bool((to_codes.abs().sum(1) > 0).all())
    nearest = (found.detach()[:, None] - codes.detach()).norm(dim=2)
    assert float(nearest.min(1).values.max()) < 1e-12  # each row is a code

    many = e.detach()[:1].expand(100_000, -1)
    drawn = gumbel_softmax(many, codes.detach(), 0.7)
    share = torch.cdist(drawn, codes.detach()).argmin(1).bincount(minlength=8) / 100_000
    torch.testing.assert_close(
        share.double(), (distances[0].detach() / 0.7).softmax(0), atol=0.01, rtol=0
    )


def test_index_backpropagation_has_the_gradients_of_its_paper():
    raw, raw_codes, g = rows(n=30)
    e, codes = (torch.nn.functional.normalize(x, dim=1) for x in (raw, raw_codes[:8]))
    soft = (e @ codes.T).softmax(1)  # the paper's, equation 6
    hard = torch.nn.functional.one_hot(soft.argmax(1), 8).double()
    paper = (hard + soft - soft.detach()) @ codes
    expected = torch.autograd.grad(paper, (raw, raw_codes), g, retain_graph=True)
    q = torch.nn.functional.embedding(torch.cdist(e, codes).argmin(1), codes)
    found = index_backpropagation(e, q, codes, 2.0)
    assert torch.equal(found, q)
    torch.testing.assert_close(torch.autograd.grad(found, (raw, raw_codes), g), expected)


def test_index_backpropagation_moves_the_codes_that_no_latent_chose():
    torch.manual_seed(0)
    config = QuantizerConfig(
        codebook_size=16, codebook_dim=4, estimator="index_backpropagation", learning="gradient"
    )
    quantizer: Any = build_quantizer(4, config)
    features = torch.randn(2, 4, 1, 1, 2, requires_grad=True)  # four latents, sixteen codes
    quantizer.codebook.initialize((torch.randn(16, 4),), 0)
    output = quantizer(features)
    assert torch.equal(output.quantized, quantizer.decode(output.codes))
    (gradient,) = torch.autograd.grad(output.quantized.square().sum(), quantizer.codebook.codes)
    assert len(output.codes.unique()) <= 4
    assert bool((gradient.abs().sum(1) > 0).all())
    with torch.no_grad():
        assert torch.equal(quantizer(features).quantized, output.quantized)


@pytest.mark.parametrize("learning", ["ema", "gradient"])
@pytest.mark.parametrize("estimator", SUBSTITUTES)
def test_only_a_training_step_decodes_something_else_than_the_code(estimator, learning):
    torch.manual_seed(0)
    config = QuantizerConfig(
        codebook_size=16, codebook_dim=4, estimator=estimator, learning=learning
    )
    quantizer: Any = build_quantizer(8, config)
    features = torch.randn(2, 8, 2, 3, 3, requires_grad=True)
    quantizer.codebook.initialize((quantizer.latents(features).detach(),), 0)
    random = torch.get_rng_state()
    with torch.no_grad():
        looked = quantizer(features)
    scored = quantizer.eval()(features)
    assert torch.equal(torch.get_rng_state(), random)
    trained = quantizer.train()(features)
    assert not torch.equal(torch.get_rng_state(), random)
    decoded = quantizer.decode(quantizer.encode(features))
    for output in (looked, scored):
        assert torch.equal(output.quantized, decoded)
    assert torch.equal(trained.codes, scored.codes)
    assert torch.equal(trained.rows.code, scored.rows.code)
    assert not torch.equal(trained.quantized, decoded)
    trained.quantized.square().sum().backward()
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0
    if learning == "gradient":  # these learn from what is decoded, without a codebook loss
        assert quantizer.codebook.codes.grad is not None
        assert float(quantizer.codebook.codes.grad.abs().sum()) > 0


def test_without_a_quantizer_the_latents_are_decoded_always_and_the_codes_follow():
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(
        8, QuantizerConfig(codebook_size=16, codebook_dim=4, estimator="none")
    )
    features = torch.randn(2, 8, 2, 3, 3)
    quantizer.codebook.initialize((quantizer.latents(features).detach(),), 0)
    for mode in (True, False):
        output = quantizer.train(mode)(features)
        rows = quantizer.project_out(quantizer.latents(features))
        torch.testing.assert_close(output.quantized.movedim(1, -1).flatten(0, -2), rows)
        assert torch.equal(output.codes, quantizer.encode(features))
    before = quantizer.codebook.codes.clone()
    quantizer.codebook.update(output.statistics, 0)
    assert not torch.equal(quantizer.codebook.codes, before)
