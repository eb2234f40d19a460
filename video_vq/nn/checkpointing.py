"""A sequence of layers that can recompute their activations instead of keeping them."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from video_vq.nn.conv3d import Past


class Layers(nn.Sequential):
    """Layers that run one after another.

    Args:
        layers: the layers, in order.
        recompute: whether to keep only each layer's input in training, and to run the layer again
            in the backward pass (Chen et al. 2016). No layer may use random numbers, so the results
            do not change.
    """

    def __init__(self, layers: Iterable[nn.Module], recompute: bool):
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, input: Tensor, past: Past | None = None) -> Tensor:
        """Run all layers; with a `past`, which they must accept, on the next piece of a stream."""
        for layer in self:
            if past is not None:
                input = layer(input, past)
            elif self.recompute and self.training and input.requires_grad:
                input = checkpoint(layer, input, use_reentrant=False, preserve_rng_state=False)
            else:
                input = layer(input)
        return input
