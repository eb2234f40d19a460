"""The commitment loss, without the n x d array of squares that `mse_loss` writes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_BYTES = 1 << 20


def mean_square(e: Float[Tensor, "n d"], q: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return mean (e − sg(q))², summed in float64 over blocks that stay in the cache.

    The mean of no rows is 0: a rank may have none.
    """
    return _MeanSquare.apply(e, q)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor) -> Tensor:
        ctx.save_for_backward(e, q)
        rows = max(1, ROWS_BYTES // (e.element_size() * e.shape[1]))
        step = rows if e.device.type == "cpu" else len(e)
        sums = [(a - b).square_().sum() for a, b in zip(e.split(step), q.split(step), strict=True)]
        return (torch.stack(sums).double().sum() / max(1, e.numel())).to(e.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        e, q = ctx.saved_tensors
        return torch.sub(e, q).mul_(grads[0] * (2 / max(1, e.numel()))), None
