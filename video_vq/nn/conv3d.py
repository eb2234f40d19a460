"""3D convolutions, downsampling and upsampling, optionally causal in time."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Video = Float[Tensor, "b c t h w"]
Thw = tuple[int, int, int]


class Past:
    """Stream state: the earlier frames that causal layers still need.

    A network receives a stream in consecutive chunks of frames, all with the same `Past`; the
    joined outputs equal the output for the whole video.
    """

    def __init__(self) -> None:
        self._frames: dict[nn.Module, Tensor] = {}

    def recall(self, layer: nn.Module) -> Video | None:
        """Return the frames stored for a layer, or None at the start of a stream."""
        return self._frames.get(layer)

    def keep(self, layer: nn.Module, frames: Video) -> None:
        """Store a copy of a layer's frames for the next chunk, so that this chunk can be freed."""
        self._frames[layer] = frames.clone()


class Bf16SafeConv3d(nn.Conv3d):
    """`nn.Conv3d` with correct results in bf16 on a CPU.

    oneDNN's bf16 kernels (torch 2.13, AVX512) give wrong weight gradients, and write out of bounds,
    if a clip of two frames is padded but not strided in time, or if a stride reduces the height or
    width to 1 (docs/log.md). If the width becomes 1, outputs are also known to be wrong on some
    machines: https://github.com/pytorch/pytorch/issues/169688. Such convolutions run in float32, on
    operands rounded to bf16, until `tests/unit/nn/test_conv3d.py` passes without this workaround.

    For a single zero-padded frame, only the kernel's middle frame contributes, so only this part of
    the kernel is used. An image then takes a third of the operations. This also avoids the padded
    case, in which oneDNN returns arbitrary bf16 outputs for fewer than 16 channels.
    """

    def forward(self, input: Video) -> Float[Tensor, "b d t2 h2 w2"]:
        """Convolve the input."""
        autocasts = torch.is_autocast_enabled(input.device.type)
        dtype = torch.get_autocast_dtype(input.device.type) if autocasts else input.dtype
        is_low = input.device.type == "cpu" and dtype == torch.bfloat16
        if is_low and self._is_wrong_in_bf16(input.shape[2:]):
            # Operands are rounded as by autocast, so a bf16 model gives the same result.
            bias = None if self.bias is None else self.bias.to(dtype).float()
            x, weight = input.to(dtype).float(), self.weight.to(dtype).float()
            with torch.autocast("cpu", enabled=False):
                return F.conv3d(x, weight, bias, self.stride, self.padding).to(dtype)
        side, *around = map(int, self.padding)
        if input.shape[2] == 1 and side and self.kernel_size[0] == 2 * side + 1:
            middle = self.weight[:, :, side : side + 1]
            return F.conv3d(input, middle, self.bias, self.stride, (0, *around))
        return super().forward(input)

    def _is_wrong_in_bf16(self, size_thw: Sequence[int]) -> bool:
        two_frames = size_thw[0] == 2 and self.stride[0] == 1 and self.padding[0] != 0
        axes = zip(size_thw, self.padding, self.kernel_size, self.stride, strict=True)
        return two_frames or any(
            stride > 1 and (size + 2 * int(side) - kernel) // stride == 0
            for size, side, kernel, stride in list(axes)[1:]
        )


class Conv3d(nn.Module):
    """A 3D convolution that keeps the size t h w, apart from the stride.

    If causal, time is padded only in front, with copies of the first frame, so that output i
    depends on no input after i·stride, and 1 + n·stride frames become 1 + n frames. Otherwise, time
    is padded with zeros on both sides.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride_thw: Thw = (1, 1, 1),
        causal: bool = False,
    ):
        super().__init__()
        side = kernel // 2
        self.causal = causal
        self.front = kernel - 1
        # Number of input frames shared by consecutive outputs; if negative, number of input frames
        # skipped between consecutive outputs.
        self.overlap = kernel - stride_thw[0]
        self.conv = Bf16SafeConv3d(
            in_channels,
            out_channels,
            kernel,
            stride=stride_thw,
            padding=(0 if causal else side, side, side),
        )

    def forward(self, x: Video, past: Past | None = None) -> Float[Tensor, "b d t2 h2 w2"]:
        """Convolve x; if `past` is given, x is the next chunk of a stream (causal layers only).

        The first chunk has 1 + n·stride frames, and each later chunk has n·stride frames.
        """
        return self.conv(self._after(x, past) if self.causal else x)

    def _after(self, x: Video, past: Past | None) -> Float[Tensor, "b c t2 h w"]:
        before = None if past is None else past.recall(self)
        if before is None:
            before = x[:, :, :1].expand(-1, -1, self.front, -1, -1)
        elif self.overlap < 0:
            x = x[:, :, -self.overlap :]
        if before.shape[2]:
            x = torch.cat([before, x], dim=2)
        if past is not None:
            past.keep(self, x[:, :, x.shape[2] - max(self.overlap, 0) :])
        return x


class NearestUpsample(nn.Module):
    """Nearest-neighbor upsampling, followed by a convolution at the finer resolution.

    If causal, only the last copy of the first frame is kept, so 1 + n frames become 1 + n·stride
    frames, which inverts the length change of a causal strided `Conv3d`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride_thw: Thw, causal: bool = False):
        super().__init__()
        self.scale = tuple(float(stride) for stride in stride_thw)
        self.drop = stride_thw[0] - 1 if causal else 0
        self.conv = Conv3d(in_channels, out_channels, causal=causal)

    def forward(self, x: Video, past: Past | None = None) -> Float[Tensor, "b d t2 h2 w2"]:
        """Upsample x; if `past` is given, x is the next chunk of a stream."""
        is_start = past is None or past.recall(self.conv) is None
        x = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        return self.conv(x[:, :, self.drop if is_start else 0 :], past)


class SubpixelUpsample(nn.Module):
    """A linear map from each position to a box of finer positions (Shi et al. 2016).

    The layer starts as nearest-neighbor upsampling. It needs 1/27 of the operations of
    `NearestUpsample`, whose convolution runs at the finer resolution; only subsequent layers
    exchange information between positions. Causality is as in `NearestUpsample`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride_thw: Thw, causal: bool = False):
        super().__init__()
        self.stride_thw = stride_thw
        self.drop = stride_thw[0] - 1 if causal else 0
        self.conv = Conv3d(in_channels, out_channels * math.prod(stride_thw), 1, causal=causal)
        repeat_over_patch(self.conv.conv, stride_thw)

    def forward(self, x: Video, past: Past | None = None) -> Float[Tensor, "b d t2 h2 w2"]:
        """Upsample x; if `past` is given, x is the next chunk of a stream."""
        is_start = past is None or past.recall(self.conv) is None
        x = depth_to_space(self.conv(x, past), self.stride_thw)
        return x[:, :, self.drop if is_start else 0 :]


def space_to_depth(x: Video, patch_thw: Thw) -> Float[Tensor, "b d t2 h2 w2"]:
    """Fold boxes of pixels into channels, since full-resolution convolutions are slow."""
    t, h, w = patch_thw
    return rearrange(x, "b c (t z) (h y) (w x) -> b (c z y x) t h w", z=t, y=h, x=w)


def depth_to_space(x: Video, patch_thw: Thw) -> Float[Tensor, "b d t2 h2 w2"]:
    """Unfold channels into boxes of pixels, the inverse of `space_to_depth`."""
    t, h, w = patch_thw
    return rearrange(x, "b (c z y x) t h w -> b c (t z) (h y) (w x)", z=t, y=h, x=w)


@torch.no_grad()
def repeat_over_patch(conv: nn.Conv3d, patch_thw: Thw) -> None:
    """Give all pixels in each `depth_to_space` box the weights and bias of the first pixel.

    The layer then starts as nearest-neighbor upsampling, without a checkerboard pattern (ICNR,
    Aitken et al. 2017).
    """
    boxes = math.prod(patch_thw)
    for parameter in (conv.weight, conv.bias):
        if parameter is not None:
            each = parameter.view(-1, boxes, *parameter.shape[1:])
            each.copy_(each[:, :1].clone().expand_as(each))
