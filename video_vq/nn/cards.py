"""Features that are enabled by default on GPU models where `make gpu` verified them.

For each GPU model, under the name that PyTorch reports, verified_cards.json lists the features that
were correct and faster, with the date and versions of the test. On all other GPUs, the plain
implementations are used. `python scripts/gpu/record.py` writes the file.
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
    """Return the features that were verified on a GPU model.

    Args:
        card: name of the GPU model, as returned by `torch.cuda.get_device_name`.
    """
    cards: dict[str, dict[str, Any]] = json.loads(RECORD.read_text())["cards"]
    return frozenset(cards.get(card, {}).get("features", ()))


def is_verified(feature: Feature, device: torch.device) -> bool:
    """Return whether a feature is enabled by default on a device.

    While torch.compile traces a graph, no feature is enabled, because the compiler itself chooses
    layouts and kernels.
    """
    if device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return feature in verified_features(torch.cuda.get_device_name(device))


def laid_out(x: Tensor) -> Tensor:
    """Return x in the channels-last memory layout if this layout is verified on the GPU.

    Subsequent convolutions keep the layout.
    """
    if is_verified("channels_last", x.device):
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x
