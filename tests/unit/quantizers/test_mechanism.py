"""Tests of the logged measures of the mechanism against plain computations."""

import math

import torch

from video_vq.quantizers import gradient
from video_vq.quantizers.mechanism import changed_share, mechanism
from video_vq.quantizers.rows import QuantizedRows


def test_figures_are_what_their_names_say():
    torch.manual_seed(0)
    e, q, g = (torch.randn(1001, 6) for _ in range(3))
    leaf = e.clone().requires_grad_()
    (rotated,) = torch.autograd.grad(gradient.rotation_unit(leaf, q), leaf, g)
    figures = mechanism(QuantizedRows(3 * e, e, q, e, q, q), g)
    cosines = torch.nn.functional.cosine_similarity(e, q, dim=1)
    angles = torch.acos(cosines) * 180 / math.pi
    ratios = q.norm(dim=1) / e.norm(dim=1)
    for percent, share in (("p05", 0.05), ("p50", 0.5), ("p95", 0.95)):
        for name, values in (
            ("angle", angles),
            ("ratio", ratios),
            ("latent_norm", 3 * e.norm(dim=1)),
        ):
            expected = torch.quantile(values, share)
            torch.testing.assert_close(torch.tensor(figures[f"{name}_{percent}"]), expected)
    turned = torch.nn.functional.cosine_similarity(g, rotated, dim=1).mean()
    torch.testing.assert_close(torch.tensor(figures["rotated_cosine"]), turned)
    assert len(figures) == 12


def test_large_batches_are_sampled():
    e = torch.linspace(1, 2, 100_000)[:, None].expand(-1, 3)
    figures = mechanism(QuantizedRows(e, e, 2 * e, e, 2 * e, e), torch.ones_like(e))
    assert math.isclose(figures["latent_norm_p50"], 1.5 * 3**0.5, rel_tol=1e-3)
    assert math.isclose(figures["ratio_p50"], 2.0, rel_tol=1e-6)
    assert math.isclose(figures["rotated_cosine"], 1.0, rel_tol=1e-6)


def test_changed_tokens_are_counted():
    assert changed_share(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 5]])) == 0.25


def test_obtuse_angles_and_distortion_are_counted():
    e = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -2.0]])
    q = torch.tensor([[2.0, 0.1], [0.0, 1.0], [0.1, 0.1], [1.0, 0.5]])
    figures = mechanism(QuantizedRows(e, e, q, e, q, q), torch.ones_like(e))
    assert figures["obtuse_share"] == 0.5
    missed = (1 + 0.01) + 1 + (1.21 + 0.01) + (1 + 6.25)
    assert math.isclose(figures["distortion"], missed / 10, rel_tol=1e-6)  # e has the mean 0


def test_a_shift_of_all_latents_and_codes_is_no_distortion():
    torch.manual_seed(0)
    e, q = torch.randn(50, 3), torch.randn(50, 3)
    near, far = (
        mechanism(QuantizedRows(a, a, b, a, b, b), torch.ones_like(e))["distortion"]
        for a, b in ((e, q), (e + 10, q + 10))
    )
    assert math.isclose(near, far, rel_tol=1e-4)
