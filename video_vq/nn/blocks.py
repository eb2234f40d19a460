"""Normalization and residual blocks for video features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.nn.conv3d import Conv3d, Past, Video


class PositionNorm(nn.Module):
    """RMS norm over channels at each position (Zhang and Sennrich 2019), with a learned scale.

    Each position is normalized separately, so causality, streaming and tiling remain exact.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Video) -> Video:
        """Normalize in float32, and return the result in the dtype of the input."""
        mean_square = x.float().square().mean(1, keepdim=True)
        factor = torch.rsqrt(mean_square + self.eps).to(x.dtype)
        return x * factor * self.scale.to(x.dtype).view(1, -1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """Pre-activation residual block: norm, SiLU and convolution, twice (He et al. 2016; MAGVIT)."""

    def __init__(self, in_channels: int, out_channels: int, causal: bool = False):
        super().__init__()
        self.norm1 = PositionNorm(in_channels)
        self.conv1 = Conv3d(in_channels, out_channels, causal=causal)
        self.norm2 = PositionNorm(out_channels)
        self.conv2 = Conv3d(out_channels, out_channels, causal=causal)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else Conv3d(in_channels, out_channels, 1)
        )
        # The block starts as its shortcut alone, so depth does not slow early training.
        nn.init.zeros_(self.conv2.conv.weight)

    def forward(self, x: Video, past: Past | None = None) -> Float[Tensor, "b d t h w"]:
        """Add the residual to x; if `past` is given, x is the next chunk of a stream."""
        y = self.conv1(F.silu(self.norm1(x)), past)
        y = self.conv2(F.silu(self.norm2(y)), past)
        return self.shortcut(x) + y


def num_parameters(module: nn.Module) -> int:
    """Return the number of parameters, without buffers such as moving-average codebooks."""
    return sum(parameter.numel() for parameter in module.parameters())
