"""The features that are on by default on a kind of GPU, where `make gpu` found them better.

The record, verified_cards.json, lists the features that were correct and faster on each card, by
PyTorch's name for it, and the date and versions of the test. On any other card, the plain
implementation is used. `python scripts/gpu/record.py` writes the record.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Feature = Literal["triton_lookup", "compiled_rotation", "channels_last", "sampling_graphs"]
RECORD = Path(__file__).with_name("verified_cards.json")


@cache
def verified_features(card: str) -> frozenset[str]:
    """Return the features that were verified on a kind of card.

    Args:
        card: name of the card, as returned by `torch.cuda.get_device_name`.
    """
    cards: dict[str, dict[str, Any]] = json.loads(RECORD.read_text())["cards"]
    return frozenset(cards.get(card, {}).get("features", ()))


def is_verified(feature: Feature, device: torch.device) -> bool:
    """Return whether a feature is on by default on a device.

    Inside a graph of torch.compile, no feature is on, because the compiler chooses layouts and
    kernels itself.
    """
    if device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return feature in verified_features(torch.cuda.get_device_name(device))


def laid_out(x: Tensor) -> Tensor:
    """Return a b c t h w tensor with channels last in memory if that is verified, else unchanged.

    The convolutions that follow keep the layout.
    """
    if is_verified("channels_last", x.device):
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x
