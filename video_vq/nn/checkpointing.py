"""A sequence of layers that can recompute activations instead of storing them."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from video_vq.nn.conv3d import Past


class Layers(nn.Sequential):
    """A sequence of layers with optional activation checkpointing.

    Args:
        layers: the layers, in order.
        recompute: whether training stores only the input of each layer and runs the layer again in
            the backward pass (Chen et al. 2016). Layers must not use random numbers; results are
            then unchanged.
    """

    def __init__(self, layers: Iterable[nn.Module], recompute: bool):
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, input: Tensor, past: Past | None = None) -> Tensor:
        """Run all layers; if `past` is given, the input is the next chunk of a stream."""
        for layer in self:
            if past is not None:
                input = layer(input, past)
            elif self.recompute and self.training and input.requires_grad:
                input = checkpoint(layer, input, use_reentrant=False, preserve_rng_state=False)
            else:
                input = layer(input)
        return input
