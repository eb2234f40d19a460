"""A reimplementation of a VidTok-like tokenizer (Tang et al. 2024), as a baseline.

It follows the non-causal variant with finite scalar quantization in the paper and the released
configs: residual blocks of 2D convolutions, each followed by one of 1D convolutions over time;
resampling in space by 2D convolutions, and in time by a learned blend of pooling or repetition and
a 3D convolution; 3D blocks and attention within each frame at the bottom; and layer norm over
channels. Three levels give 4x4x4 pixels per token; the released non-causal configs have four levels
and 128 channels.

The loss consists of the released terms for L1 with a learned scale, commitment and entropy; a few
minutes of CPU time are too short for the perceptual and adversarial terms.
"""

import re
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float
from recipes import ADAMW, Baseline, Loss, Recipe, Reconstruction, Video
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.quantizers.finite import FiniteCodebook
from video_vq.quantizers.quantizer_config import FiniteConfig

Features = Float[Tensor, "b c t h w"]

SPACE, TIME, BOTH = (1, 3, 3), (3, 1, 1), (3, 3, 3)  # kernels, t h w
FIRST_MIX = 2.0  # the pooled or repeated frames begin with a share of sigmoid(2) = 0.88


def conv(in_channels: int, out_channels: int, kernel: tuple[int, int, int]) -> nn.Conv3d:
    """Return a convolution that keeps t, h and w."""
    return nn.Conv3d(in_channels, out_channels, kernel, padding="same")


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Features) -> Features:
        """Normalize; the result is channels last in memory, which the convolutions preserve."""
        rows = self.norm(rearrange(x, "b c t h w -> b t h w c"))
        return rearrange(rows, "b t h w c -> b c t h w")


class ResidualBlock(nn.Module):
    """Norm, swish and convolution, twice; added to the input or to a 1x1x1 convolution of it.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel: kernel size of both convolutions.
        starts_as_identity: whether the second convolution starts from zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        starts_as_identity: bool = False,
    ):
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(in_channels), ChannelNorm(out_channels)
        self.conv1 = conv(in_channels, out_channels, kernel)
        self.conv2 = conv(out_channels, out_channels, kernel)
        if starts_as_identity:
            for parameter in self.conv2.parameters():
                nn.init.zeros_(parameter)
        is_same = in_channels == out_channels
        self.shortcut = nn.Identity() if is_same else conv(in_channels, out_channels, (1, 1, 1))

    def forward(self, x: Features) -> Features:
        """Return the sum of the shortcut and the residual branch."""
        y = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


def factorised(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a block over space, which may change the number of channels, and one over time."""
    return nn.Sequential(
        ResidualBlock(in_channels, out_channels, SPACE),
        ResidualBlock(out_channels, out_channels, TIME, starts_as_identity=True),
    )


class FrameAttention(nn.Module):
    """Single-head attention among the positions of each frame, added to the input."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.query, self.key, self.value, self.output = (
            conv(width, width, (1, 1, 1)) for _ in range(4)
        )

    def forward(self, x: Features) -> Features:
        """Apply self-attention within each frame, and add the result to the input."""
        normed = self.norm(x)
        query, key, value = (
            rearrange(product(normed), "b c t h w -> b t (h w) c")
            for product in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.output(rearrange(mixed, "b t (h w) c -> b c t h w", h=x.shape[-2]))


def bottom(width: int) -> nn.Sequential:
    """Return the blocks at the coarsest level."""
    return nn.Sequential(
        ResidualBlock(width, width, BOTH), FrameAttention(width), ResidualBlock(width, width, BOTH)
    )


class HalveSpace(nn.Module):
    """A convolution of size 3 and stride 2 on each frame, padded at the far edges."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv3d(width, width, SPACE, stride=(1, 2, 2))

    def forward(self, x: Features) -> Features:
        """Halve h and w."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class HalveTime(nn.Module):
    """A learned blend of the mean of three frames and a 3D convolution, both with stride 2."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, stride=(2, 1, 1), padding=(0, 1, 1))
        self.mix = nn.Parameter(torch.tensor(FIRST_MIX))

    def forward(self, x: Features) -> Features:
        """Halve t, after appending a frame of zeros."""
        x = F.pad(x, (0, 0, 0, 0, 0, 1))
        share = self.mix.sigmoid()
        return share * F.avg_pool3d(x, TIME, stride=(2, 1, 1)) + (1 - share) * self.conv(x)


class DoubleSpace(nn.Module):
    """Nearest-neighbor upsampling of h and w, then a 2D convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = conv(width, width, SPACE)

    def forward(self, x: Features) -> Features:
        """Double h and w."""
        return self.conv(F.interpolate(x, scale_factor=(1.0, 2.0, 2.0)))


class DoubleTime(nn.Module):
    """A learned blend of repeated frames and a 3D convolution of them."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = conv(width, width, BOTH)
        self.mix = nn.Parameter(torch.tensor(FIRST_MIX))

    def forward(self, x: Features) -> Features:
        """Double t."""
        x = F.interpolate(x, scale_factor=(2.0, 1.0, 1.0))
        share = self.mix.sigmoid()
        return share * x + (1 - share) * self.conv(x)


def make_encoder(widths: tuple[int, ...], depth: int, out_channels: int) -> nn.Sequential:
    """Return the encoder; each level but the last halves t, h and w."""
    layers: list[nn.Module] = [conv(3, widths[0], BOTH)]
    width = widths[0]
    for level, level_width in enumerate(widths):
        for _ in range(depth):
            layers.append(factorised(width, level_width))
            width = level_width
        if level < len(widths) - 1:
            layers += [HalveSpace(width), HalveTime(width)]
    end = [ChannelNorm(width), nn.SiLU(), conv(width, out_channels, BOTH)]
    return nn.Sequential(*layers, bottom(width), *end)


def make_decoder(widths: tuple[int, ...], depth: int, in_channels: int) -> nn.Sequential:
    """Return the decoder, with one more block on each level than the encoder."""
    width = widths[-1]
    layers: list[nn.Module] = [conv(in_channels, width, BOTH), bottom(width)]
    for level, level_width in reversed(list(enumerate(widths))):
        for _ in range(depth + 1):
            layers.append(factorised(width, level_width))
            width = level_width
        if level > 0:
            layers += [DoubleSpace(width), DoubleTime(width)]
    return nn.Sequential(*layers, ChannelNorm(width), nn.SiLU(), conv(width, 3, BOTH))


class VidTokTokenizer(Baseline):
    """Encoder, rounding to levels, decoder; there is no projection to or from the levels.

    Args:
        width: number of channels of the finest level.
        depth: number of factorized blocks on each level of the encoder.
        multipliers: channels of each level as a multiple of `width`.
        levels: number of levels of each channel of a code.
    """

    codes: Tensor
    outer_layers = re.compile(r"(encoder|decoder)\.0\.")  # for Muon, 3 channels are too few

    SHARPNESS = 100.0  # the inverse temperature of the entropies

    def __init__(
        self,
        width: int,
        depth: int = 2,
        multipliers: tuple[int, ...] = (1, 2, 4),
        levels: tuple[int, ...] = (8, 8, 8),
    ):
        super().__init__()
        widths = tuple(width * multiplier for multiplier in multipliers)
        self.encoder = make_encoder(widths, depth, len(levels))
        self.decoder = make_decoder(widths, depth, len(levels))
        self.codebook = FiniteCodebook(FiniteConfig(levels=levels))
        numbers = torch.arange(self.codebook.config.codebook_size)
        self.register_buffer("codes", self.codebook.lookup(numbers), persistent=False)

    def forward(self, video: Video) -> Reconstruction:
        """Reconstruct a video in [-1, 1]."""
        features = self.encoder(video).float()
        batch, _, *grid = features.shape
        with torch.autocast(video.device.type, enabled=False):
            latents = rearrange(features, "b d t h w -> (b t h w) d")
            bounded = self.codebook.bound(latents)
            rounded = bounded + (bounded.round() - bounded).detach()
            q = rounded / (self.codebook.levels // 2)
            codes = self.codebook.quantize(latents.detach()).codes.view(batch, *grid)
            losses = {
                "commitment": F.mse_loss(latents, q.detach()),
                "entropy": self.entropy(latents),
            }
        t, h, w = grid
        q = rearrange(q, "(b t h w) d -> b d t h w", t=t, h=h, w=w)
        nothing = latents.new_zeros(())
        return Reconstruction(self.decoder(q).float(), codes, nothing, losses)

    def entropy(self, latents: Float[Tensor, "n d"]) -> Loss:
        """Return the mean entropy of the code probabilities minus the entropy of their mean.

        As in the released code, latents are used before they are squashed, and the probabilities
        are the softmax of their scaled products with all codes.
        """
        choice = (2 * self.SHARPNESS * latents @ self.codes.T).softmax(1)

        def entropy(p: Tensor) -> Tensor:
            return -(p * p.clamp(min=1e-5).log()).sum(-1)

        return entropy(choice).mean() - entropy(choice.mean(0))


class VidTokLoss(nn.Module):
    """L1 loss per frame, in nats under a learned scale, plus the weighted losses of the quantizer.

    Attributes:
        log_scale: log of the scale of the Laplace density, trained with the model.
    """

    COMMITMENT = 0.25
    ENTROPY, FIRST_ENTROPY = 0.1, 0.3
    ENTROPY_FALLS = 0.04  # of the training: 2,000 of 50,000 steps

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, output: Reconstruction, video: Video, done: float) -> Loss:
        """Return the loss at a given progress of the training, `done`, from 0 to 1."""
        errors = (output.video - video).abs()
        nats = errors / self.log_scale.exp() + self.log_scale
        per_frame = nats.sum() / (video.shape[0] * video.shape[2])
        left = max(0.0, 1 - done / self.ENTROPY_FALLS)
        entropy = self.ENTROPY + (self.FIRST_ENTROPY - self.ENTROPY) * left
        losses = output.losses
        return per_frame + self.COMMITMENT * losses["commitment"] + entropy * losses["entropy"]


# Adam with PyTorch's default betas, as in the released code: AdamW without decay.
VIDTOK = Recipe(VidTokLoss, replace(ADAMW, betas=(0.9, 0.999), weight_decay=0.0, clip_norm=20.0))
