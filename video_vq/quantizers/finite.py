"""Finite scalar quantization: the codebook is a grid, and nothing needs to learn it."""

import math

import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor, nn

from video_vq.nn.precision import Float32Module
from video_vq.quantizers import gradient
from video_vq.quantizers.quantizer_config import FiniteConfig
from video_vq.quantizers.rows import (
    CodebookStatistics,
    CodebookUpdate,
    QuantizedRows,
    QuantizerOutput,
    check_channels,
    check_codes,
    check_finite,
    counts_only,
    decode_grid,
    features_of,
    flatten_grid,
    update_of_fixed,
)


class FiniteCodebook(nn.Module):
    """The grid of all levels, and its numbering: the first channel runs fastest."""

    levels: Tensor
    strides: Tensor
    is_initialized = True

    def __init__(self, config: FiniteConfig):
        super().__init__()
        self.config = config
        levels = config.levels
        strides = [math.prod(levels[:index]) for index in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def bound(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Squash each channel to the range of its levels (Mentzer et al. 2023, appendix A.1)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(latents + torch.atanh(offset / half)) * half - offset

    def numbers(self, rounded: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        """Return the codes of rounded latents."""
        return ((rounded.long() + self.levels // 2) * self.strides).sum(1)

    def lookup(self, indices: Integer[Tensor, "n"]) -> Float[Tensor, "n d"]:
        """Return the grid points of codes, in [-1, 1].

        Raises:
            InputError: an index is not a code.
        """
        check_codes(indices, self.config.codebook_size)
        level = indices.long().unsqueeze(1) // self.strides % self.levels
        half_width = self.levels // 2
        return (level - half_width).float() / half_width

    def initialize(self, latents: tuple[Float[Tensor, "_ d"], ...], seed: int) -> None:
        """Do nothing: the grid is fixed."""

    def update(self, statistics: CodebookStatistics, seed: int) -> CodebookUpdate:
        """Sum the counts over the ranks; the grid is fixed."""
        return update_of_fixed(statistics)


class FiniteQuantizer(Float32Module):
    """Finite scalar quantization (Mentzer et al. 2023) behind the interface of `VectorQuantizer`.

    The gradient is copied past the rounding; there is no commitment and no codebook loss.

    Args:
        dim: channels of the latents that come in and of the vectors that go out.
        config: the levels.
    """

    def __init__(self, dim: int, config: FiniteConfig):
        super().__init__()
        self.dim = dim
        self.config = config
        self.project_in = nn.Linear(dim, len(config.levels))
        self.project_out = nn.Linear(len(config.levels), dim)
        self.codebook = FiniteCodebook(config)

    def latents(self, features: Float[Tensor, "b c *grid"]) -> Float[Tensor, "n d"]:
        """Project to one channel per level list and squash: the rows that are rounded."""
        return self.codebook.bound(self._project(features))

    def forward(self, features: Float[Tensor, "b c *grid"], check: bool = True) -> QuantizerOutput:
        """Quantize a grid of features; see `VectorQuantizer.forward`."""
        latents = self._project(features)
        batch, _, *grid = features.shape
        if check:
            check_finite(latents)
        with torch.autocast(features.device.type, enabled=False):
            bounded = self.codebook.bound(latents)
            rounded = bounded.detach().round()
            half_width = self.codebook.levels // 2
            e, q = bounded / half_width, rounded / half_width
            passed = gradient.straight_through(e, q)
            # A training loop sees latents that are not finite in its loss, not as a wild index.
            indices = self.codebook.numbers(rounded.nan_to_num(0.0))
            return QuantizerOutput(
                quantized=features_of(passed, self.project_out, batch, grid),
                codes=indices.view(batch, *grid),
                losses={},
                statistics=counts_only(indices, self.config.codebook_size),
                rows=QuantizedRows(latents, e, q, e, q, passed),
            )

    def _project(self, features: Tensor) -> Tensor:
        check_channels(features, self.dim)
        with torch.autocast(features.device.type, enabled=False):
            return self.project_in(flatten_grid(features).float())

    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return 0: there is no commitment loss; see `VectorQuantizer.commitment_force`."""
        return rows.e.new_zeros(())

    def encode(self, features: Float[Tensor, "b c *grid"]) -> Int[Tensor, "b *grid"]:
        """Return the codes of a grid of features.

        Raises:
            InputError: another number of channels, or latents that are not finite.
        """
        rows = self.latents(features)
        batch, _, *grid = features.shape
        check_finite(rows)
        return self.codebook.numbers(rows.round()).view(batch, *grid)

    def decode(self, codes: Shaped[Tensor, "b *grid"]) -> Float[Tensor, "b c *grid"]:
        """Return the features that codes stand for: what `forward` gives for the same codes.

        Raises:
            InputError: a code lies outside the codebook, or they are not integers.
        """
        size = self.config.codebook_size
        return decode_grid(codes, size, self.codebook.lookup, self.project_out)
