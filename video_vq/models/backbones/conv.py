"""The 3D-convolutional encoder and decoder."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.models.tokenizer_config import ConvBackboneConfig
from video_vq.nn.blocks import PositionNorm, ResidualBlock
from video_vq.nn.cards import laid_out
from video_vq.nn.checkpointing import Layers
from video_vq.nn.conv3d import (
    Conv3d,
    NearestUpsample,
    Past,
    SubpixelUpsample,
    depth_to_space,
    repeat_over_patch,
    space_to_depth,
)


class ConvEncoder(nn.Module):
    """An encoder with space-to-depth, levels of residual blocks and strided convolutions.

    Attributes:
        margin_hw: numbers of rows and columns of neighboring latents on each side whose pixels
            affect a latent.
    """

    def __init__(self, config: ConvBackboneConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.patch_thw = config.patch_thw
        self.margin_hw = _encoder_margin(config, 1), _encoder_margin(config, 2)
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        layers: list[nn.Module] = [
            Conv3d(
                3 * math.prod(config.patch_thw), widths[0], config.stem_kernel, causal=config.causal
            )
        ]
        width = widths[0]
        for level, level_width in enumerate(widths):
            for _ in range(config.num_blocks):
                layers.append(ResidualBlock(width, level_width, config.causal))
                width = level_width
            if level < len(config.strides_thw):
                layers.append(Conv3d(width, width, 3, config.strides_thw[level], config.causal))
        self.layers = Layers(layers, checkpoint_activations)
        self.norm = PositionNorm(width)
        self.out = Conv3d(width, width, 1)
        self.out_channels = width

    def forward(
        self, video: Float[Tensor, "b 3 t h w"], past: Past | None = None
    ) -> Float[Tensor, "b c lt lh lw"]:
        """Encode a video in [-1, 1]; if `past` is given, encode the next chunk of a stream."""
        x = self.layers(laid_out(space_to_depth(video, self.patch_thw)), past)
        return self.out(F.silu(self.norm(x)))


class ConvDecoder(nn.Module):
    """A decoder that maps features to a video, as the mirror image of the encoder.

    Attributes:
        margin_hw: numbers of rows and columns of neighboring latents on each side that affect a
            latent's pixels.
    """

    def __init__(self, config: ConvBackboneConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.patch_thw = config.patch_thw
        self.margin_hw = _decoder_margin(config, 1), _decoder_margin(config, 2)
        widths = [config.channels * multiplier for multiplier in config.multipliers][::-1]
        strides = config.strides_thw[::-1]
        upsample = SubpixelUpsample if config.upsampling == "subpixel" else NearestUpsample
        layers: list[nn.Module] = [Conv3d(widths[0], widths[0], causal=config.causal)]
        width = widths[0]
        for level, level_width in enumerate(widths):
            if level > 0:
                layers.append(upsample(width, level_width, strides[level - 1], config.causal))
                width = level_width
            layers.extend(
                ResidualBlock(width, width, config.causal) for _ in range(config.num_blocks)
            )
        self.layers = Layers(layers, checkpoint_activations)
        self.norm = PositionNorm(width)
        self.out = Conv3d(
            width, 3 * math.prod(config.patch_thw), config.stem_kernel, causal=config.causal
        )
        repeat_over_patch(self.out.conv, config.patch_thw)

    def forward(
        self, features: Float[Tensor, "b c lt lh lw"], past: Past | None = None
    ) -> Float[Tensor, "b 3 t h w"]:
        """Decode features to a video, without clamping.

        If `past` is given, decode the next chunk of a stream.
        """
        x = self.out(F.silu(self.norm(self.layers(laid_out(features), past))), past)
        return depth_to_space(x, self.patch_thw)


def _encoder_margin(config: ConvBackboneConfig, axis: int) -> int:
    """Return the number of neighboring latents on each side whose pixels affect a latent."""
    reach = 0
    for stride in (*config.strides_thw[::-1], None):
        reach += 2 * config.num_blocks  # two convolutions of size 3 in each block
        if stride is not None:
            reach = reach * stride[axis] + 1
    pixels = (reach + config.stem_kernel // 2) * config.patch_thw[axis]
    return math.ceil(pixels / config.total_stride_thw[axis])


def _decoder_margin(config: ConvBackboneConfig, axis: int) -> int:
    """Return the number of neighboring latents on each side that affect a latent's pixels."""
    reach = config.stem_kernel // 2
    for stride in (*config.strides_thw, None):
        reach += 2 * config.num_blocks  # two convolutions of size 3 in each block
        if stride is None or config.upsampling == "nearest":
            reach += 1  # the convolution before the blocks
        if stride is not None:
            reach = math.ceil(reach / stride[axis])
    return reach
