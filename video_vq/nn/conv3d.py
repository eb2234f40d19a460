"""3D convolutions, down- and upsampling, causal in time or not."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Video = Float[Tensor, "b c t h w"]


class Conv3d(nn.Module):
    """A convolution of size k that keeps t h w up to its stride.

    Causal: time is padded in front only, with copies of the first frame, so that output i sees no
    input after i·stride; a length 1 + n·stride gives 1 + n. Not causal: zeros on both sides.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride_thw: tuple[int, int, int] = (1, 1, 1),
        causal: bool = False,
    ):
        super().__init__()
        side = kernel // 2
        self.front = kernel - 1 if causal else 0
        self.conv = nn.Conv3d(
            in_channels,
            out_channels,
            kernel,
            stride=stride_thw,
            padding=(0 if causal else side, side, side),
        )

    def forward(self, x: Video) -> Float[Tensor, "b d t2 h2 w2"]:
        """Convolve."""
        if self.front:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self.front, -1, -1), x], dim=2)
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling and a convolution: no checkerboards.

    Causal: of the copies of the first frame only the last is kept, so 1 + n frames become
    1 + n·stride, the inverse of a causal strided `Conv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride_thw: tuple[int, int, int],
        causal: bool = False,
    ):
        super().__init__()
        self.scale = tuple(float(stride) for stride in stride_thw)
        self.drop = stride_thw[0] - 1 if causal else 0
        self.conv = Conv3d(in_channels, out_channels, causal=causal)

    def forward(self, x: Video) -> Float[Tensor, "b d t2 h2 w2"]:
        """Upsample."""
        x = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        return self.conv(x[:, :, self.drop :])


def space_to_depth(x: Video, patch_thw: tuple[int, int, int]) -> Float[Tensor, "b d t2 h2 w2"]:
    """Fold boxes of pixels into channels: full-resolution convolutions are slow."""
    t, h, w = patch_thw
    return rearrange(x, "b c (t z) (h y) (w x) -> b (c z y x) t h w", z=t, y=h, x=w)


def depth_to_space(x: Video, patch_thw: tuple[int, int, int]) -> Float[Tensor, "b d t2 h2 w2"]:
    """Unfold channels into boxes of pixels: the inverse of `space_to_depth`."""
    t, h, w = patch_thw
    return rearrange(x, "b (c z y x) t h w -> b c (t z) (h y) (w x)", z=t, y=h, x=w)
