"""The rotation's backward pass as one GPU kernel, on GPUs where the kernel is verified."""

import importlib.util
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from video_vq.nn.cards import is_verified
from video_vq.nn.fallback import WithFallback
from video_vq.quantizers.gradient import rotate_everywhere


def rotate_on_gpu(e: Tensor, q: Tensor, g: Tensor, weight: Tensor | None, limit: float) -> Tensor:
    """Return γ Rᵀ g like `gradient.rotate_back`, compiled on GPUs where compiling is verified."""
    rotate = compiled() if is_verified("compiled_rotation", e.device) else rotate_everywhere
    return rotate(e, q, g, weight, limit)


@cache
def compiled() -> Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]:
    """Return the compiled rotation, or the plain function if Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return rotate_everywhere
    fused = torch.compile(rotate_everywhere, dynamic=True)

    def compiled_rotation(
        e: Tensor, q: Tensor, g: Tensor, weight: Tensor | None, limit: float
    ) -> Tensor:
        # The step around it may forbid compiling (training/compiled.py), which could not be undone.
        with torch.compiler.set_stance("default"):
            return fused(e, q, g, weight, limit)

    return WithFallback("compiling the rotation's backward", compiled_rotation, rotate_everywhere)
