"""The 3D-convolutional encoder and decoder."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.models.tokenizer_config import ConvBackboneConfig
from video_vq.nn.blocks import PositionNorm, ResidualBlock
from video_vq.nn.checkpointing import Layers
from video_vq.nn.conv3d import Conv3d, Upsample, depth_to_space, space_to_depth


class ConvEncoder(nn.Module):
    """Video to features: space-to-depth, levels of residual blocks, strided convolutions."""

    def __init__(self, config: ConvBackboneConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.patch_thw = config.patch_thw
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
                stride = config.strides_thw[level]
                layers.append(Conv3d(width, width, 3, stride, config.causal))
        self.layers = Layers(layers, checkpoint_activations)
        self.norm = PositionNorm(width)
        self.out = Conv3d(width, width, 1)
        self.out_channels = width

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c lt lh lw"]:
        """Encode a video in [-1, 1]."""
        x = self.layers(space_to_depth(video, self.patch_thw))
        return self.out(F.silu(self.norm(x)))


class ConvDecoder(nn.Module):
    """Features to video: the encoder mirrored."""

    def __init__(self, config: ConvBackboneConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.patch_thw = config.patch_thw
        widths = [config.channels * multiplier for multiplier in config.multipliers][::-1]
        strides = config.strides_thw[::-1]
        layers: list[nn.Module] = [Conv3d(widths[0], widths[0], causal=config.causal)]
        width = widths[0]
        for level, level_width in enumerate(widths):
            if level > 0:
                layers.append(Upsample(width, level_width, strides[level - 1], config.causal))
                width = level_width
            layers.extend(
                ResidualBlock(width, width, config.causal) for _ in range(config.num_blocks)
            )
        self.layers = Layers(layers, checkpoint_activations)
        self.norm = PositionNorm(width)
        self.out = Conv3d(
            width, 3 * math.prod(config.patch_thw), config.stem_kernel, causal=config.causal
        )

    def forward(self, features: Float[Tensor, "b c lt lh lw"]) -> Float[Tensor, "b 3 t h w"]:
        """Decode to a video; values are not clamped."""
        x = self.out(F.silu(self.norm(self.layers(features))))
        return depth_to_space(x, self.patch_thw)
