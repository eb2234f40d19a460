"""A reimplementation of a tokenizer like MAGVIT's 3D-VQ (Yu et al. 2023), as a baseline.

It follows the paper and the released config for BAIR, whose three levels give 4x4x4 pixels per
token: 3D convolutions of size 3, residual blocks with group norm and swish before each of two
convolutions, average pooling for downsampling, nearest neighbors and a convolution for upsampling,
and a codebook that learns by its gradient. The released base model has 64 channels and two blocks
per level, and starts from the weights of an image tokenizer; this one starts from random weights.

The loss consists of the released terms for squared error, codebook, commitment and entropy; a few
minutes of CPU time are too short for the perceptual and adversarial terms. Averaged weights (decay
0.999) are also left out, because they would lag by more steps than a short run has.
"""

import itertools
import re
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float, Int
from recipes import ADAMW, OURS, RECONSTRUCTION, Baseline, Loss, Recipe, Reconstruction, Video
from torch import Tensor, nn
from torch.nn import functional as F

Features = Float[Tensor, "b c t h w"]


def conv(in_channels: int, out_channels: int, size: int = 3, bias: bool = True) -> nn.Conv3d:
    """Return a convolution that keeps t, h and w, with weights of variance 1 / fan-in."""
    layer = nn.Conv3d(in_channels, out_channels, size, padding=size // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm(width: int) -> nn.GroupNorm:
    """Return group norm with 32 groups, or one group per channel if there are fewer channels."""
    return nn.GroupNorm(min(32, width), width, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, swish and convolution, twice; added to the input or to a 1x1x1 convolution of it."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.change = nn.Sequential(
            norm(in_channels),
            nn.SiLU(),
            conv(in_channels, out_channels, bias=False),
            norm(out_channels),
            nn.SiLU(),
            conv(out_channels, out_channels, bias=False),
        )
        is_same = in_channels == out_channels
        self.shortcut = nn.Identity() if is_same else conv(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Features) -> Features:
        """Return the sum of the shortcut and the residual branch."""
        return self.shortcut(x) + self.change(x)


def blocks(in_channels: int, out_channels: int, depth: int) -> list[nn.Module]:
    """Return residual blocks, the first of which may change the number of channels."""
    widths = [in_channels] + [out_channels] * depth
    return [ResidualBlock(*pair) for pair in itertools.pairwise(widths)]


def make_encoder(widths: tuple[int, ...], depth: int, out_channels: int) -> nn.Sequential:
    """Return the encoder; each level but the last halves t, h and w."""
    width = widths[0]
    layers: list[nn.Module] = [conv(3, width, bias=False)]
    for level, level_width in enumerate(widths):
        layers += blocks(width, level_width, depth)
        width = level_width
        if level < len(widths) - 1:
            layers.append(nn.AvgPool3d(2))
    end = [norm(width), nn.SiLU(), conv(width, out_channels, 1)]
    return nn.Sequential(*layers, *blocks(width, width, depth), *end)


def make_decoder(widths: tuple[int, ...], depth: int, in_channels: int) -> nn.Sequential:
    """Return the decoder; each level but the finest doubles t, h and w."""
    width = widths[-1]
    layers: list[nn.Module] = [conv(in_channels, width), *blocks(width, width, depth)]
    for level, level_width in reversed(list(enumerate(widths))):
        layers += blocks(width, level_width, depth)
        width = level_width
        if level > 0:
            layers += [nn.Upsample(scale_factor=2), conv(width, width)]
    return nn.Sequential(*layers, norm(width), nn.SiLU(), conv(width, 3))


class LearnedCodebook(nn.Module):
    """A codebook whose codes are parameters and learn from the codebook and entropy losses."""

    TEMPERATURE = 0.01  # of the entropies

    def __init__(self, size: int, dim: int):
        super().__init__()
        bound = (3 / size) ** 0.5  # the released code takes the number of codes as their fan-in
        self.codes = nn.Parameter(torch.empty(size, dim).uniform_(-bound, bound))

    def forward(
        self, latents: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"], dict[str, Loss]]:
        """Return quantized rows with the straight-through gradient, their codes and the losses."""
        squares = latents.square().sum(1, keepdim=True) + self.codes.square().sum(1)
        distances = torch.addmm(squares, latents, self.codes.T, alpha=-2)
        indices = distances.argmin(1)
        q = F.embedding(indices, self.codes)
        losses = {
            "commitment": F.mse_loss(latents, q.detach()),
            "codebook": F.mse_loss(q, latents.detach()),
            "entropy": self.entropy(distances),
        }
        return latents + (q - latents).detach(), indices, losses

    def entropy(self, distances: Float[Tensor, "n k"]) -> Loss:
        """Return the mean entropy of the code probabilities minus the entropy of their mean."""
        logs = (-distances / self.TEMPERATURE).log_softmax(1)
        choice = logs.exp()
        mean = choice.mean(0)
        return -(choice * logs).sum(1).mean() + (mean * (mean + 1e-5).log()).sum()


class MagvitTokenizer(Baseline):
    """Encoder, codebook and decoder; the networks work on pixels scaled to [0, 1].

    Args:
        width: number of channels of the finest level.
        depth: number of residual blocks on each level, and at the bottom.
        multipliers: channels of each level as a multiple of `width`.
        codebook_size: number of codes.
        codebook_dim: dimension of a code.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        multipliers: tuple[int, ...] = (1, 2, 4),
        codebook_size: int = 512,
        codebook_dim: int = 256,
    ):
        super().__init__()
        widths = tuple(width * multiplier for multiplier in multipliers)
        self.encoder = make_encoder(widths, depth, codebook_dim)
        self.codebook = LearnedCodebook(codebook_size, codebook_dim)
        self.decoder = make_decoder(widths, depth, codebook_dim)
        last = len(self.encoder) - 1
        self.outer_layers = re.compile(rf"encoder\.(0|{last})\.|decoder\.0\.")

    def forward(self, video: Video) -> Reconstruction:
        """Reconstruct a video in [-1, 1]."""
        features = self.encoder((video + 1) / 2).float()
        batch, _, *grid = features.shape
        with torch.autocast(video.device.type, enabled=False):
            rows, indices, losses = self.codebook(rearrange(features, "b d t h w -> (b t h w) d"))
        t, h, w = grid
        q = rearrange(rows, "(b t h w) d -> b d t h w", t=t, h=h, w=w)
        video, codes = self.decoder(q).float() * 2 - 1, indices.view(batch, *grid)
        return Reconstruction(video, codes, rows.new_zeros(()), losses)


class MagvitLoss(nn.Module):
    """Mean squared error and the quantizer's losses.

    Args:
        reconstruction: weight of the mean squared error of pixels in [-1, 1]. The default is that
            of the released code, whose pixels span half of this range.
    """

    COMMITMENT, CODEBOOK, ENTROPY = 0.25, 1.0, 0.1

    def __init__(self, reconstruction: float = 0.25):
        super().__init__()
        self.reconstruction = reconstruction

    def forward(self, output: Reconstruction, video: Video, done: float) -> Loss:
        """Return the loss, which does not depend on the progress of training, `done`."""
        losses = output.losses
        return (
            self.reconstruction * F.mse_loss(output.video, video)
            + self.COMMITMENT * losses["commitment"]
            + self.CODEBOOK * losses["codebook"]
            + self.ENTROPY * losses["entropy"]
        )


# Adam, which is AdamW without decay; gradients are not clipped.
MAGVIT = Recipe(MagvitLoss, replace(ADAMW, betas=(0.0, 0.99), weight_decay=0.0, clip_norm=1e9))
# Our weight of the squared error and our optimizer; the codes still learn from MAGVIT's losses.
MAGVIT_WITH_OURS = Recipe(lambda: MagvitLoss(RECONSTRUCTION), OURS.optimizer)
