"""Averaged weights: an exponential moving average of a model's tensors, with a decay warm-up."""

import torch
from torch import Tensor, nn

from video_vq.training.training_config import RunConfig


class Averages:
    """Float32 averages of a model's floating-point tensors; other tensors are copied.

    The decay at update t is min(decay, (1 + t)/(10 + t)), so the first steps are soon forgotten.

    Args:
        model: model with its initial weights.
        config: run settings, including `average_decay`.
    """

    def __init__(self, model: nn.Module, config: RunConfig):
        self.decay = config.average_decay
        self.num_updates = 0
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, copied_rows: dict[str, Tensor] | None = None) -> None:
        """Update the averages after an optimizer step.

        Args:
            copied_rows: indices of the rows to copy instead of averaging, by tensor name; these
                rows have changed abruptly (restarted or redrawn codes).
        """
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)
        for name, rows in (copied_rows or {}).items():
            self.tensors[name][rows] = model.state_dict()[name][rows]

    def load(self, tensors: dict[str, Tensor], num_updates: int) -> None:
        """Restore the averages from a checkpoint."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])
        self.num_updates = num_updates
