"""Division of latents by a running root mean square, which the codebook tracks."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video_vq.quantizers.rows import dot


def divide_by_rms(
    latents: Float[Tensor, "n d"], rms: Float[Tensor, ""], with_gradient: bool
) -> Float[Tensor, "n d"]:
    """Return the scaled latents, e = z / rms.

    If `with_gradient` is False, the scale is treated as a constant: ∇z = ∇e / rms. Such a scale
    keeps the root mean square of e near 1, although the latents z may still shrink or grow.

    If `with_gradient` is True, the scale is treated as the root mean square of these rows, so that
    no loss depends on a common factor of z, and this factor gets no gradient, Σ z·∇z = 0:

        ∇z = (∇e − e Σ(e·∇e) / Σ(e·e)) / rms

    The sums run over the rows of one call, which are one rank's micro-batch, as in batch norm. If
    rms is the root mean square of these rows, ∇z is the gradient of z / sqrt(mean z²).

    Args:
        latents: the projected latents z.
        rms: the scale.
        with_gradient: whether the gradient also passes through the scale.
    """
    return _DivideByRms.apply(latents, rms) if with_gradient else latents / rms


class _DivideByRms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, rms: Tensor) -> Tensor:
        scaled = latents / rms
        ctx.save_for_backward(scaled, rms)
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        scaled, rms = ctx.saved_tensors
        common = dot(scaled, grads[0]) / dot(scaled, scaled).clamp(min=1e-30)
        return (grads[0] - common * scaled) / rms, None
