"""A reimplementation of a VideoGPT-like VQ-VAE (Yan et al. 2021), as a baseline.

It has strided convolutions of 240 channels down to 1/4 of t, h and w, four residual blocks with
axial attention in each of encoder and decoder, 2048 codes of 256 dimensions that are moving
averages, and the straight-through gradient. It has 21.1 million parameters. The sizes are those of
the paper; the code is ours.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Features = Float[Tensor, "b c t h w"]
HALVINGS = 2  # of each axis: 4 x 4 x 4 in all


class Output(NamedTuple):
    """A reconstruction, its codes and the unweighted commitment loss."""

    video: Float[Tensor, "b 3 t h w"]
    codes: Int[Tensor, "b lt lh lw"]
    commitment: Float[Tensor, ""]


class Halve(nn.Module):
    """A convolution of size 4 and stride 2.

    Args:
        pad_first: whether to pad by a copy, like the released code; padding inside the
            convolution gives the same values faster.
    """

    def __init__(self, in_channels: int, out_channels: int, pad_first: bool):
        super().__init__()
        self.pad_first = pad_first
        padding = 0 if pad_first else 1
        self.conv = nn.Conv3d(in_channels, out_channels, 4, stride=2, padding=padding)

    def forward(self, x: Features) -> Features:
        """Halve t, h and w."""
        return self.conv(F.pad(x, (1,) * 6) if self.pad_first else x)


class Double(nn.Module):
    """A transposed convolution of size 4 and stride 2; `pad_first` as for `Halve`.

    Padding first adds a border of zeros to the input and crops the output accordingly.
    """

    def __init__(self, in_channels: int, out_channels: int, pad_first: bool):
        super().__init__()
        self.pad_first = pad_first
        padding = 3 if pad_first else 1
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, 4, stride=2, padding=padding)

    def forward(self, x: Features) -> Features:
        """Double t, h and w."""
        return self.conv(F.pad(x, (1,) * 6) if self.pad_first else x)


class AxisAttention(nn.Module):
    """Full attention along one axis of a channels-last grid."""

    def __init__(self, width: int, heads: int, axis: str):
        super().__init__()
        self.heads = heads
        others = " ".join(name for name in "thw" if name != axis)
        self.split = f"b t h w (heads c) -> b {others} heads {axis} c"
        self.join = f"b {others} heads {axis} c -> b t h w (heads c)"
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w c"]:
        """Apply self-attention along the axis."""
        query, key, value = (
            rearrange(product(x), self.split, heads=self.heads)
            for product in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return self.output(rearrange(weights @ value, self.join))


class AxialAttention(nn.Module):
    """The sum of attention along w, h and t, with two heads each."""

    def __init__(self, width: int):
        super().__init__()
        self.axes = nn.ModuleList(AxisAttention(width, 2, axis) for axis in "wht")

    def forward(self, x: Features) -> Features:
        """Return the sum of self-attention along the three axes."""
        grid = rearrange(x, "b c t h w -> b t h w c")
        mixed = self.axes[0](grid) + self.axes[1](grid) + self.axes[2](grid)
        return rearrange(mixed, "b t h w c -> b c t h w")


class ResidualBlock(nn.Module):
    """Norm, ReLU, convolution to half the width and back, axial attention; added to the input."""

    def __init__(self, width: int):
        super().__init__()
        self.change = nn.Sequential(
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.Conv3d(width, width // 2, 3, padding=1, bias=False),
            nn.BatchNorm3d(width // 2),
            nn.ReLU(),
            nn.Conv3d(width // 2, width, 1, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            AxialAttention(width),
        )

    def forward(self, x: Features) -> Features:
        """Return the sum of the input and the residual branch."""
        return x + self.change(x)


def residual_stack(width: int, depth: int) -> nn.Sequential:
    """Return residual blocks, then norm and ReLU."""
    blocks = [ResidualBlock(width) for _ in range(depth)]
    return nn.Sequential(*blocks, nn.BatchNorm3d(width), nn.ReLU())


class AveragedCodebook(nn.Module):
    """Codes that are moving averages of latents, updated by each forward pass in training mode.

    The decay is 0.99. The first codes are latents of the first batch. A code with an averaged count
    below one per batch is replaced by a latent of the batch.
    """

    codes: Tensor
    average_count: Tensor
    average_sum: Tensor
    is_initialized: Tensor

    DECAY, SMOOTHING, NOISE = 0.99, 1e-7, 0.01

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("codes", torch.randn(size, dim))
        self.register_buffer("average_count", torch.zeros(size))
        self.register_buffer("average_sum", torch.zeros(size, dim))
        self.register_buffer("is_initialized", torch.tensor(False))

    def forward(
        self, latents: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"], Float[Tensor, ""]]:
        """Return the straight-through quantized rows, the code indices and the commitment loss."""
        if self.training and not self.is_initialized:
            self._initialize(latents.detach())
        indices = self.nearest(latents.detach())
        q = F.embedding(indices, self.codes)
        commitment = F.mse_loss(latents, q)
        if self.training:
            self._update(latents.detach(), indices)
        return latents + (q - latents).detach(), indices, commitment

    def nearest(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        """Return the nearest codes' indices, from the complete matrix of squared distances."""
        squares = latents.square().sum(1, keepdim=True) + self.codes.square().sum(1)
        return torch.addmm(squares, latents, self.codes.T, alpha=-2).argmin(1)

    def _initialize(self, latents: Tensor) -> None:
        self.codes.copy_(self._draw(latents))
        self.average_sum.copy_(self.codes)
        self.average_count.fill_(1.0)
        self.is_initialized.fill_(True)

    def _draw(self, latents: Tensor) -> Tensor:
        """Return as many latents as there are codes, repeated with noise if necessary."""
        size, dim = self.codes.shape
        if len(latents) < size:
            latents = latents.repeat(-(-size // len(latents)), 1)
            latents = latents + torch.randn_like(latents) * self.NOISE * dim**-0.5
        return latents[torch.randperm(len(latents), device=latents.device)[:size]]

    @torch.no_grad()
    def _update(self, latents: Tensor, indices: Tensor) -> None:
        size = len(self.codes)
        counts = torch.bincount(indices, minlength=size).float()
        sums = torch.zeros_like(self.average_sum).index_add_(0, indices, latents)
        self.average_count.lerp_(counts, 1 - self.DECAY)
        self.average_sum.lerp_(sums, 1 - self.DECAY)
        total = self.average_count.sum()
        smoothed = (self.average_count + self.SMOOTHING) / (total + size * self.SMOOTHING) * total
        is_used = (self.average_count >= 1).unsqueeze(1)
        means = self.average_sum / smoothed.unsqueeze(1)
        self.codes.copy_(torch.where(is_used, means, self._draw(latents)))


class VideoGPTTokenizer(nn.Module):
    """Encoder, codebook and decoder.

    Args:
        width: number of channels of all convolutions.
        depth: number of residual blocks in the encoder, and in the decoder.
        codebook_size: number of codes.
        codebook_dim: dimension of a code.
        pad_first: whether to pad like the released code; see `Halve`.
    """

    def __init__(
        self,
        width: int = 240,
        depth: int = 4,
        codebook_size: int = 2048,
        codebook_dim: int = 256,
        pad_first: bool = False,
    ):
        super().__init__()
        down: list[nn.Module] = []
        for level in range(HALVINGS):
            down += [Halve(3 if level == 0 else width, width, pad_first), nn.ReLU()]
        up: list[nn.Module] = []
        for _ in range(HALVINGS - 1):
            up += [Double(width, width, pad_first), nn.ReLU()]
        self.encoder = nn.Sequential(
            *down,
            nn.Conv3d(width, width, 3, padding=1),
            residual_stack(width, depth),
            nn.Conv3d(width, codebook_dim, 1),
        )
        self.codebook = AveragedCodebook(codebook_size, codebook_dim)
        self.decoder = nn.Sequential(
            nn.Conv3d(codebook_dim, width, 1),
            residual_stack(width, depth),
            *up,
            Double(width, 3, pad_first),
        )

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Output:
        """Reconstruct a video in [-1, 1]; in training mode, this also updates the codebook."""
        features = self.encoder(video).float()
        batch, _, *grid = features.shape
        with torch.autocast(video.device.type, enabled=False):
            rows = rearrange(features, "b c t h w -> (b t h w) c")
            quantized, indices, commitment = self.codebook(rows)
        codes = indices.view(batch, *grid)
        return Output(self.decoder(self._to_grid(quantized, codes)).float(), codes, commitment)

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "b 3 t h w"]) -> Int[Tensor, "b lt lh lw"]:
        """Return the codes of a video in [-1, 1]."""
        features = self.encoder(video).float()
        batch, _, *grid = features.shape
        with torch.autocast(video.device.type, enabled=False):
            rows = rearrange(features, "b c t h w -> (b t h w) c")
            return self.codebook.nearest(rows).view(batch, *grid)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b lt lh lw"]) -> Float[Tensor, "b 3 t h w"]:
        """Return the video that codes represent."""
        rows = F.embedding(codes.flatten(), self.codebook.codes)
        return self.decoder(self._to_grid(rows, codes)).float().clamp(-1, 1)

    def _to_grid(self, rows: Tensor, codes: Tensor) -> Tensor:
        batch, t, h, w = codes.shape
        return rearrange(rows, "(b t h w) c -> b c t h w", b=batch, t=t, h=h, w=w)
