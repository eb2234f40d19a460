"""A 3D patch discriminator: how real each patch of a video looks."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from video_vq.nn.conv3d import Bf16SafeConv3d

GROUPS = 8  # groups of channels that are normalised together, or as many as divide the width


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017) over t h w: strided convolutions to a grid of logits.

    It uses group norm (Wu and He 2018) instead of batch norm: a clip's logits depend only on that
    clip, so the ranks need no synchronised statistics.

    Args:
        channels: base width, doubled at each level up to eight times.
        levels: number of times that t, h and w are halved; t stays at 1 once it gets there.
    """

    def __init__(self, channels: int, levels: int):
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for level in range(levels):
            out = channels * min(2**level, 8)
            # The frame's kernel is twice its stride, so that all pixels count alike.
            layers.append(Bf16SafeConv3d(width, out, (3, 4, 4), stride=2, padding=1))
            if level > 0:
                layers.append(nn.GroupNorm(math.gcd(out, GROUPS), out))
            layers.append(nn.LeakyReLU(0.2))
            width = out
        layers.append(Bf16SafeConv3d(width, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t2 h2 w2"]:
        """Return a logit per patch, higher for patches that look real."""
        return self.layers(video)[:, 0]
