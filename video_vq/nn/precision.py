"""Float32 arithmetic within a block, and float32 modules within models of another dtype."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# PyTorch adds the settings below these modules at run time, which a type checker cannot see.
_CUDA: Any = torch.backends.cuda
_CUDNN: Any = torch.backends.cudnn
_MKLDNN: Any = torch.backends.mkldnn


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Disable autocast, TF32 and bf16 products inside a block; restore the settings afterwards.

    PyTorch has an old and a new interface to these settings, and raises an error on reading the old
    settings while the two disagree, even inside a matrix product. So both are set, the old settings
    first.
    """
    backends = (_CUDA.matmul, _CUDNN.conv, _CUDNN.rnn, _MKLDNN.matmul, _MKLDNN.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        old_interface = torch.get_float32_matmul_precision()
    except RuntimeError:  # the interfaces already disagree: only the new one is in use
        old_interface = None
    try:
        if old_interface is not None:
            torch.set_float32_matmul_precision("highest")
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if old_interface is not None:
            torch.set_float32_matmul_precision(old_interface)
        for backend, precision in zip(backends, before, strict=True):
            # "none" follows the parent setting; a value is set only where the parent differs.
            backend.fp32_precision = "none"
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


def keeping_dtype(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a version of a tensor conversion that changes the device, but not the dtype."""

    def moved(value: Tensor) -> Tensor:
        changed = change(value)
        return changed if changed.dtype == value.dtype else value.to(changed.device)

    return moved


class Float32Module(nn.Module):
    """A module whose parameters and buffers stay float32 under half(), bfloat16() and double().

    The module can still be moved between devices.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float32Module":
        return super()._apply(keeping_dtype(fn), recurse)
