"""Layers one after the other that can recompute their activations instead of keeping them."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Layers(nn.Sequential):
    """Layers that are run in turn.

    Args:
        layers: in their order.
        recompute: in training keep what goes into each layer alone, and run it again in the
            backward pass (Chen et al. 2016). The layers draw nothing at random, so that no result
            changes.
    """

    def __init__(self, layers: Iterable[nn.Module], recompute: bool):
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, input: Tensor) -> Tensor:
        """Run all layers."""
        for layer in self:
            if self.recompute and self.training and input.requires_grad:
                input = checkpoint(layer, input, use_reentrant=False, preserve_rng_state=False)
            else:
                input = layer(input)
        return input
