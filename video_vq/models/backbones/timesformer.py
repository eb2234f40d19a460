"""The TimeSformer encoder and decoder from the rotation trick paper."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from video_vq.models.tokenizer_config import TimeSformerConfig
from video_vq.nn.checkpointing import Layers
from video_vq.nn.conv3d import depth_to_space, space_to_depth
from video_vq.nn.space_time import NORM_EPS, DividedBlock, Tokens


class TimeSformer(nn.Module):
    """A TimeSformer with learned position embeddings for space and time, and a final norm."""

    def __init__(self, config: TimeSformerConfig, checkpoint_activations: bool):
        super().__init__()
        frames, rows, columns = config.grid_thw(config.size_thw)
        self.position_embedding = nn.Parameter(torch.empty(rows, columns, config.width))
        self.time_embedding = nn.Parameter(torch.empty(frames, 1, 1, config.width))
        self.blocks = Layers(
            (
                DividedBlock(config.width, config.heads, config.mlp_width)
                for _ in range(config.depth)
            ),
            checkpoint_activations,
        )
        self.norm = nn.LayerNorm(config.width, NORM_EPS)

    def forward(self, x: Tokens) -> Tokens:
        """Run the transformer on the tokens of whole clips."""
        return self.norm(self.blocks(x + self.position_embedding + self.time_embedding))


class TimeSformerEncoder(nn.Module):
    """An encoder that maps a video to features with a TimeSformer, one token per box of pixels."""

    def __init__(self, config: TimeSformerConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.patch_thw = config.patch_thw
        self.embed = nn.Linear(3 * math.prod(config.patch_thw), config.width)
        self.transformer = TimeSformer(config, checkpoint_activations)
        self.out_channels = config.width
        initialise(self)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c lt lh lw"]:
        """Encode a video in [-1, 1]."""
        pixels = rearrange(space_to_depth(video, self.patch_thw), "b c t h w -> b t h w c")
        return rearrange(self.transformer(self.embed(pixels)), "b t h w c -> b c t h w")


class TimeSformerDecoder(nn.Module):
    """A decoder that maps features to a video, as the mirror image of the encoder."""

    def __init__(self, config: TimeSformerConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.patch_thw = config.patch_thw
        self.transformer = TimeSformer(config, checkpoint_activations)
        self.to_pixels = nn.Linear(config.width, 3 * math.prod(config.patch_thw))
        initialise(self)

    def forward(self, features: Float[Tensor, "b c lt lh lw"]) -> Float[Tensor, "b 3 t h w"]:
        """Decode features to a video, without clamping."""
        tokens = self.transformer(rearrange(features, "b c t h w -> b t h w c"))
        pixels = rearrange(self.to_pixels(tokens), "b t h w c -> b c t h w")
        return depth_to_space(pixels, self.patch_thw)


def initialise(module: nn.Module) -> None:
    """Draw weights and positions from N(0, 0.02²) and set biases to zero.

    As in the TimeSformer code, the projection after the attention along time is zero in all blocks
    except the first, so the other blocks start without attention along time.
    """
    for name, value in module.named_parameters():
        if "norm" in name:
            continue
        if value.ndim > 1:
            nn.init.normal_(value, std=0.02)
        else:
            nn.init.zeros_(value)
    for part in module.modules():
        if isinstance(part, TimeSformer):
            for block in list(part.blocks)[1:]:
                assert isinstance(block, DividedBlock)
                nn.init.zeros_(block.project_time.weight)
