"""I3D, the network whose 400 logits define FVD, equivalent to the original TensorFlow model.

The network is from Carreira & Zisserman, "Quo Vadis, Action Recognition?" (2017), trained on
Kinetics-400; FVD uses the time-averaged logits (Unterthiner et al., "Towards Accurate Generative
Models of Video", 2018).
"""

import functools
from collections import OrderedDict

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.metrics.protocol import LEAST_FRAMES, PADDED
from video_vq.metrics.weights import I3D_WEIGHTS
from video_vq.nn.inputs import check_unit_range
from video_vq.nn.precision import exact_float32

FRAME_SIZE = 224
NUM_LOGITS = 400

# Sonnet's default for BatchNorm; ports with PyTorch's default of 1e-5 are off by 0.2 %.
NORM_EPS = 1e-3


class I3D(nn.Module):
    """Kinetics-400 I3D up to the time-averaged logits; create instances with `load_i3d`.

    Normalization always uses the stored statistics and there is no dropout, so train() has no
    effect. Arithmetic is plain float32, regardless of autocast and TF32 settings.
    """

    def __init__(self):
        super().__init__()
        # Names and widths as in the original. Mixed: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pool, 1x1.
        self.layers = nn.Sequential(
            OrderedDict(
                Conv3d_1a_7x7=Unit(3, 64, 7, stride=2),
                MaxPool3d_2a_3x3=MaxPool((1, 3, 3), (1, 2, 2)),
                Conv3d_2b_1x1=Unit(64, 64, 1),
                Conv3d_2c_3x3=Unit(64, 192, 3),
                MaxPool3d_3a_3x3=MaxPool((1, 3, 3), (1, 2, 2)),
                Mixed_3b=Mixed(192, (64, 96, 128, 16, 32, 32)),
                Mixed_3c=Mixed(256, (128, 128, 192, 32, 96, 64)),
                MaxPool3d_4a_3x3=MaxPool((3, 3, 3), (2, 2, 2)),
                Mixed_4b=Mixed(480, (192, 96, 208, 16, 48, 64)),
                Mixed_4c=Mixed(512, (160, 112, 224, 24, 64, 64)),
                Mixed_4d=Mixed(512, (128, 128, 256, 24, 64, 64)),
                Mixed_4e=Mixed(512, (112, 144, 288, 32, 64, 64)),
                Mixed_4f=Mixed(528, (256, 160, 320, 32, 128, 128)),
                MaxPool3d_5a_2x2=MaxPool((2, 2, 2), (2, 2, 2)),
                Mixed_5b=Mixed(832, (256, 160, 320, 32, 128, 128)),
                Mixed_5c=Mixed(832, (384, 192, 384, 48, 128, 128)),
            )
        )
        self.logits = nn.Conv3d(1024, NUM_LOGITS, 1)
        self.requires_grad_(False)

    def forward(self, video: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k"]:
        """Return the 400 time-averaged logits of RGB clips in [-1, 1].

        Raises:
            InputError: the clips are not b 3 t 224 224, or have fewer than 9 frames or values
                outside [-1, 1]; or the clips or the weights are not float32.
        """
        self._check(video)
        with exact_float32(video.device):
            x = self.layers(video)
            x = F.avg_pool3d(x, (2, 7, 7), stride=1)
            return self.logits(x).mean(dim=(2, 3, 4))

    def _check(self, video: Tensor) -> None:
        expected = f"b 3 t {FRAME_SIZE} {FRAME_SIZE}"
        if video.ndim != 5 or video.shape[1] != 3 or video.shape[3:] != (FRAME_SIZE, FRAME_SIZE):
            raise InputError(
                f"I3D takes clips of {expected}, found {tuple(video.shape)}; "
                "use video_vq.metrics.resize.network_input on uint8 clips"
            )
        if video.shape[2] < LEAST_FRAMES:
            raise InputError(
                f"I3D, and so FVD, takes clips of at least {LEAST_FRAMES} frames, found "
                f"{video.shape[2]}; score longer clips (16 frames are usual), or use --protocol "
                f"{PADDED}, which is another metric"
            )
        if not video.is_floating_point():
            raise InputError(
                f"I3D takes floats in [-1, 1], found {video.dtype}; "
                "use video_vq.metrics.resize.network_input on uint8 clips"
            )
        if video.dtype != torch.float32 or self.logits.weight.dtype != torch.float32:
            raise InputError(
                f"I3D works in float32, found clips of {video.dtype} and weights of "
                f"{self.logits.weight.dtype}; do not convert the metric or its input"
            )
        check_unit_range(video, unsure=False)


class Unit(nn.Module):
    """Convolution, batch normalization with stored statistics and no gain, and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel = (kernel, kernel, kernel)
        self.stride = (stride, stride, stride)
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, *self.kernel))
        self.mean = nn.Buffer(torch.zeros(out_channels))
        self.variance = nn.Buffer(torch.ones(out_channels))
        self.shift = nn.Buffer(torch.zeros(out_channels))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """Apply the convolution, the normalization and the ReLU."""
        x = F.conv3d(pad_same(x, self.kernel, self.stride), self.weight, stride=self.stride)
        x = F.batch_norm(x, self.mean, self.variance, bias=self.shift, training=False, eps=NORM_EPS)
        return F.relu(x)


class MaxPool(nn.Module):
    """Max pooling with TensorFlow's SAME padding; zeros are neutral because all inputs are ≥ 0."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """Pool one axis at a time, which gives the same maxima as pooling all axes at once.

        On a CPU, this is 3 to 27 times as fast as `F.max_pool3d`, which took a third of I3D's time.
        """
        x = pad_same(x, self.kernel, self.stride)
        for axis, kernel, stride in zip((2, 3, 4), self.kernel, self.stride, strict=True):
            length = x.shape[axis] - kernel + 1
            shifted = [
                x.narrow(axis, start, length).movedim(axis, 0)[::stride].movedim(0, axis)
                for start in range(kernel)
            ]
            x = functools.reduce(torch.maximum, shifted)
        return x


class Mixed(nn.Module):
    """An inception block with four parallel branches."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]):
        super().__init__()
        self.branch_0 = Unit(in_channels, widths[0], 1)
        self.branch_1 = nn.Sequential(
            Unit(in_channels, widths[1], 1), Unit(widths[1], widths[2], 3)
        )
        self.branch_2 = nn.Sequential(
            Unit(in_channels, widths[3], 1), Unit(widths[3], widths[4], 3)
        )
        self.branch_3 = nn.Sequential(
            MaxPool((3, 3, 3), (1, 1, 1)), Unit(in_channels, widths[5], 1)
        )

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        """Concatenate the outputs of the branches along the channel axis."""
        branches = (self.branch_0, self.branch_1, self.branch_2, self.branch_3)
        return torch.cat([branch(x) for branch in branches], dim=1)


def pad_same(
    x: Float[Tensor, "b c t h w"], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Tensor, "b c t2 h2 w2"]:
    """Pad with zeros as TensorFlow's SAME does, for ceil(size / stride) outputs along each axis.

    If the number of zeros along an axis is odd, the extra zero goes at the end.
    """
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad begins with the last axis
    return F.pad(x, padding) if any(padding) else x


def load_i3d(fetch: bool = False) -> I3D:
    """Return a frozen I3D with the pinned weights.

    Args:
        fetch: whether missing weights may be downloaded (see `PublishedWeights.path`).

    Raises:
        InputError: the weights are missing, cannot be downloaded or differ from the pinned weights.
    """
    network = I3D()
    network.load_state_dict(safetensors.torch.load(I3D_WEIGHTS.read(fetch)), strict=True)
    return network.eval()
