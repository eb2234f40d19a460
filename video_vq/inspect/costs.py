"""Estimates the memory of a training run, using fake tensors, which have no data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from video_vq.models.tokenizer import VideoTokenizer
from video_vq.training.optimizer import trained_bytes
from video_vq.training.training_config import OptimizerConfig

DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def averaged_bytes(model: nn.Module, optim: OptimizerConfig) -> int:
    """Return the total bytes of the weights, gradients, optimizer state and averaged weights."""
    return trained_bytes(model, optim) + sum(value.nbytes for value in model.parameters())


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor], precision: str = "no") -> int:
    """Return the number of bytes that a forward pass saves for the backward pass, without weights.

    With fake tensors, the forward pass computes nothing and allocates no memory.
    """
    weights = {value.untyped_storage()._cdata for value in model.parameters()}
    storages: dict[int, Any] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        storages[storage._cdata] = storage
        return value

    dtype = DTYPES.get(precision)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
        torch.autocast("cpu", dtype, enabled=dtype is not None),
    ):
        output = forward()
    assert output.requires_grad
    return sum(kept.nbytes() for key, kept in storages.items() if key not in weights)


def through(tokenizer: VideoTokenizer, video: Tensor) -> Tensor:
    """Run the encoder and the decoder without the quantizer, and return a scalar.

    The quantizer is skipped because it saves little memory and its operations depend on values.
    """
    return tokenizer.decoder(tokenizer.encoder(video)).float().square().mean()
