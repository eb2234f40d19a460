"""A 3D patch discriminator, which rates how real each patch of a video looks."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from video_vq.nn.conv3d import Bf16SafeConv3d

GROUPS = 8  # number of normalization groups, or the greatest common divisor with the width


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017) over t h w, with strided convolutions to a grid of logits.

    The discriminator uses group norm (Wu and He 2018) instead of batch norm, so a clip's logits
    depend only on this clip, and ranks need no synchronized statistics.

    Args:
        channels: base width, doubled at each level, up to a factor of 8.
        levels: number of times that t, h and w are halved; t is not reduced below 1.
    """

    def __init__(self, channels: int, levels: int):
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for level in range(levels):
            out = channels * min(2**level, 8)
            # In h and w, the kernel is twice the stride, so that all pixels contribute equally.
            layers.append(Bf16SafeConv3d(width, out, (3, 4, 4), stride=2, padding=1))
            if level > 0:
                layers.append(nn.GroupNorm(math.gcd(out, GROUPS), out))
            layers.append(nn.LeakyReLU(0.2))
            width = out
        layers.append(Bf16SafeConv3d(width, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t2 h2 w2"]:
        """Return a logit per patch, which is higher for patches that look real."""
        return self.layers(video)[:, 0]
