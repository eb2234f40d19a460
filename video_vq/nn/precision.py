"""Plain float32 arithmetic inside a block, whatever autocast and TF32 settings are on outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# PyTorch adds the settings below these modules at run time, unseen by a type checker.
_BACKENDS: tuple[Any, Any, Any] = (
    torch.backends.cuda,
    torch.backends.cudnn,
    torch.backends.mkldnn,
)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Switch autocast, TF32 and bf16 matrix products off inside the block; restore them after."""
    cuda, cudnn, mkldnn = _BACKENDS
    backends = (cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
