"""Quantizers whose codes are the points of a fixed grid and are found without a lookup."""

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
    """A codebook that neither starts from data nor moves with steps."""

    is_initialized = True

    def initialize(self, latents: tuple[Float[Tensor, "_ d"], ...], seed: int) -> None:
        """Do nothing: the codes are given from the start."""

    def update(self, statistics: CodebookStatistics, seed: int) -> CodebookUpdate:
        """Sum the counts over the ranks, and change nothing. Collective."""
        counts = sum_over_ranks(statistics.counts.clone())
        return CodebookUpdate(counts, counts.new_empty(0))

    def watch(self) -> None:
        """Do nothing, since no step has to move the codes."""

    def code_rows(self, numbers: Int[Tensor, " m"]) -> dict[str, Int[Tensor, " m"]]:
        """Return nothing: no tensor of codes changes in an update."""
        return {}


class FixedRows(NamedTuple):
    """Latents as they are compared with codes, the vectors of their codes, and the codes."""

    e: Float[Tensor, "n d"]
    q: Float[Tensor, "n d"]  # without a gradient
    codes: Int[Tensor, "n *level"]


class FixedCodebook(StillCodebook, ABC):
    """Codes that are points of a grid.

    Args:
        config: settings of the codes, with `groups` codes per position.
        num_channels: number of channels of the latents, over all groups.
    """

    def __init__(self, config: FiniteConfig | BinaryConfig, num_channels: int):
        super().__init__()
        self.config = config
        self.num_channels = num_channels

    @abstractmethod
    def quantize(self, latents: Float[Tensor, "n d"]) -> FixedRows:
        """Find the codes of projected float32 latents; the gradient reaches only `e`."""

    @abstractmethod
    def losses(self, rows: FixedRows, is_training: bool) -> dict[str, Float[Tensor, ""]]:
        """Return the losses by name, unweighted; collective in training mode with gradients."""

    @abstractmethod
    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z of the commitment loss; see `VectorQuantizer.commitment_force`."""

    @abstractmethod
    def lookup(self, indices: Integer[Tensor, "n *level"]) -> Float[Tensor, "n d"]:
        """Return the vectors of codes; raise an InputError for an index that is not a code."""

    def split(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n groups c"]:
        """Give each group its channels."""
        return latents.unflatten(1, (self.config.groups, -1))

    def split_codes(self, codes: Integer[Tensor, "n *level"]) -> Int[Tensor, "n groups"]:
        """Return codes with an axis of groups, which the codes of a single group lack."""
        return codes.long().reshape(-1, self.config.groups)

    def merge_codes(self, codes: Int[Tensor, "n groups"]) -> Int[Tensor, "n *level"]:
        """Undo `split_codes`."""
        return codes.squeeze(1) if self.config.groups == 1 else codes


class FixedQuantizer(QuantizerModule):
    """Projects, rounds to the codebook's grid, and copies the gradient past the rounding.

    It has the interface of `VectorQuantizer`; its losses are those of the codebook, if any.

    Args:
        dim: number of channels of the input and of the output.
        codebook: the grid of codes.
    """

    config: FiniteConfig | BinaryConfig
    codebook: FixedCodebook

    def __init__(self, dim: int, codebook: FixedCodebook):
        super().__init__(dim, codebook.config, codebook.num_channels)
        self.codebook = codebook

    def latents(self, features: FeaturesLike) -> Float[Tensor, "n d"]:
        """Project, then bound or normalise, the rows that are compared with the codes."""
        return self.codebook.quantize(self._project(features)).e

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; `quantized` and `codes` are rows too."""
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
        """Return the force of the codebook; see `VectorQuantizer.commitment_force`."""
        return self.codebook.commitment_force(rows)

    def codes_of(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n *level"]:
        """Return the codes of projected float32 rows."""
        return self.codebook.quantize(latents).codes
