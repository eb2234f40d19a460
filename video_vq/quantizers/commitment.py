"""The commitment loss, computed on a CPU without the n x d array of squares of `mse_loss`."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_BYTES = 1 << 20


def mean_square(
    e: Float[Tensor, "n d"], q: Float[Tensor, "n d"], tangential: bool = False
) -> Float[Tensor, ""]:
    """Return the mean of (e − sg(q))², computed in cache-sized blocks on a CPU.

    Block sums are added in float64. The mean over an empty batch, which a rank may have, is 0.

    Args:
        e: the latents.
        q: codes of the latents.
        tangential: whether to pass only the component of each row's gradient that is orthogonal to
            the row, p − e (e·p)/(e·e) with p = 2 (e − q)/(n d); the loss value is the same. To
            first order, such a gradient turns latents towards their codes without changing the
            latents' lengths.
    """
    return _MeanSquare.apply(e, q, tangential)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, tangential: bool) -> Tensor:
        ctx.save_for_backward(e, q)
        ctx.tangential = tangential
        rows = max(1, ROWS_BYTES // (e.element_size() * e.shape[1]))
        step = rows if e.device.type == "cpu" else len(e)
        sums = [(a - b).square_().sum() for a, b in zip(e.split(step), q.split(step), strict=True)]
        return (torch.stack(sums).double().sum() / max(1, e.numel())).to(e.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        e, q = ctx.saved_tensors
        pull = torch.sub(e, q).mul_(grads[0] * (2 / max(1, e.numel())))
        if ctx.tangential:
            along = (e * pull).sum(1, keepdim=True)
            pull -= e * (along / e.square().sum(1, keepdim=True).clamp(min=1e-30))
        return pull, None, None
