"""Quantizers whose codes are points of a fixed grid, found without a nearest-code lookup."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from video_vq.quantizers import gradient
from video_vq.quantizers.module import FeaturesLike, QuantizerModule
from video_vq.quantizers.quantizer_config import BinaryConfig, FiniteConfig
from video_vq.quantizers.ranks import sum_over_ranks
from video_vq.quantizers.rows import (
    CodebookStatistics,
    CodebookUpdate,
    QuantizedRows,
    QuantizerOutput,
    counts_only,
)


class StillCodebook(nn.Module):
    """A codebook that is neither initialized from data nor changed by updates."""

    is_initialized = True

    def initialize(self, latents: tuple[Float[Tensor, "_ d"], ...], seed: int) -> None:
        """Do nothing, since the codes need no initialization."""

    def update(self, statistics: CodebookStatistics, seed: int) -> CodebookUpdate:
        """Sum the counts over all ranks without changing the codes.

        All ranks must call this method.
        """
        counts = sum_over_ranks(statistics.counts.clone())
        return CodebookUpdate(counts, counts.new_empty(0))

    def watch(self) -> None:
        """Do nothing, since the codes need no updates."""

    def code_rows(self, numbers: Int[Tensor, " m"]) -> dict[str, Int[Tensor, " m"]]:
        """Return an empty dictionary, since updates change no tensor of codes."""
        return {}


class FixedRows(NamedTuple):
    """The latents to compare with codes, the nearest code vectors, and the codes."""

    e: Float[Tensor, "n d"]
    q: Float[Tensor, "n d"]  # without a gradient
    codes: Int[Tensor, "n *level"]


class FixedCodebook(StillCodebook, ABC):
    """Base class of codebooks whose codes are grid points.

    Args:
        config: codebook settings, with `groups` codes per position.
        num_channels: number of latent channels, over all groups.
    """

    def __init__(self, config: FiniteConfig | BinaryConfig, num_channels: int):
        super().__init__()
        self.config = config
        self.num_channels = num_channels

    @abstractmethod
    def quantize(self, latents: Float[Tensor, "n d"]) -> FixedRows:
        """Quantize projected float32 latents; only `e` of the result carries a gradient."""

    @abstractmethod
    def losses(self, rows: FixedRows, is_training: bool) -> dict[str, Float[Tensor, ""]]:
        """Return the unweighted losses by name.

        In training mode with gradients, all ranks must call this method.
        """

    @abstractmethod
    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z of the commitment loss; see `VectorQuantizer.commitment_force`."""

    @abstractmethod
    def lookup(self, indices: Integer[Tensor, "n *level"]) -> Float[Tensor, "n d"]:
        """Return the vector of each code; raise an InputError if an index is out of range."""

    def split(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n groups c"]:
        """Split the channels of each row into groups."""
        return latents.unflatten(1, (self.config.groups, -1))

    def split_codes(self, codes: Integer[Tensor, "n *level"]) -> Int[Tensor, "n groups"]:
        """Return the codes with a group axis, even if there is only one group."""
        return codes.long().reshape(-1, self.config.groups)

    def merge_codes(self, codes: Int[Tensor, "n groups"]) -> Int[Tensor, "n *level"]:
        """Remove the group axis if there is only one group; the inverse of `split_codes`."""
        return codes.squeeze(1) if self.config.groups == 1 else codes


class FixedQuantizer(QuantizerModule):
    """Base class of quantizers that round projected latents to a grid of codes.

    The rounding passes gradients through unchanged. The interface matches `VectorQuantizer`, and
    the codebook defines the losses, if any.

    Args:
        dim: number of input and output channels.
        codebook: the grid of codes.
    """

    config: FiniteConfig | BinaryConfig
    codebook: FixedCodebook

    def __init__(self, dim: int, codebook: FixedCodebook):
        super().__init__(dim, codebook.config, codebook.num_channels)
        self.codebook = codebook

    def latents(self, features: FeaturesLike) -> Float[Tensor, "n d"]:
        """Return the projected rows, bounded or normalized as for the comparison with codes."""
        return self.codebook.quantize(self._project(features)).e

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; return `quantized` and `codes` as rows, too."""
        rows = self.codebook.quantize(latents)
        e, q, codes = rows
        passed = gradient.straight_through(e, q)
        return QuantizerOutput(
            quantized=passed,
            codes=codes,
            losses=self.codebook.losses(rows, self.training),
            statistics=counts_only(codes, self.config.vocabulary),
            rows=QuantizedRows(latents, e, q, e, q, passed),
        )

    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return the codebook's commitment force; see `VectorQuantizer.commitment_force`."""
        return self.codebook.commitment_force(rows)

    def codes_of(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n *level"]:
        """Return the codes for projected float32 rows."""
        return self.codebook.quantize(latents).codes
