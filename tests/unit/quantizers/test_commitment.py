"""Tests of the commitment loss against torch."""

import torch
from torch.nn import functional as F

from video_vq.quantizers.commitment import mean_square


def test_value_and_gradient_are_those_of_mse_loss():
    generator = torch.Generator().manual_seed(0)
    for n, d in ((1, 1), (1000, 7), (70_000, 5)):
        e, q = (torch.randn(n, d, generator=generator) for _ in range(2))
        a, b = e.clone().requires_grad_(), e.clone().requires_grad_()
        expected, found = F.mse_loss(a, q), mean_square(b, q)
        torch.testing.assert_close(found, expected)
        (3 * expected).backward()
        (3 * found).backward()
        torch.testing.assert_close(b.grad, a.grad)


def test_a_tangential_pull_is_the_whole_one_without_its_part_along_the_latent():
    generator = torch.Generator().manual_seed(1)
    e, q = (torch.randn(500, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    e[0] = 0  # a latent without a direction is pulled whole
    whole, turned = e.clone().requires_grad_(), e.clone().requires_grad_()
    value, same = mean_square(whole, q), mean_square(turned, q, tangential=True)
    assert torch.equal(value, same)
    value.backward()
    (2 * same).backward()
    assert whole.grad is not None
    assert turned.grad is not None
    unit = F.normalize(e, dim=1)
    expected = whole.grad - unit * (unit * whole.grad).sum(1, keepdim=True)
    torch.testing.assert_close(turned.grad, 2 * expected)
    assert float((turned.grad * e).sum(1).abs().max()) < 1e-15
    # A small step turns each latent towards its code and keeps its length to second order.
    step = 1e-3
    moved = e - step * turned.grad * e.numel()
    nearer = torch.cosine_similarity(moved, q, dim=1) - torch.cosine_similarity(e, q, dim=1)
    assert bool((nearer[1:] > 0).all())
    assert float((moved.norm(dim=1) - e.norm(dim=1))[1:].abs().max()) < 1000 * step**2
