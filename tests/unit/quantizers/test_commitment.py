"""The commitment loss against torch's."""

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
