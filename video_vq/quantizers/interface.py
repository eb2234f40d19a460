"""The quantizer and codebook interfaces on which a tokenizer and its training rely."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor, nn

from video_vq.quantizers.rows import (
    CodebookStatistics,
    CodebookUpdate,
    QuantizedRows,
    QuantizerOutput,
)


@runtime_checkable
class CodebookInterface(Protocol):
    """A quantizer's codebook, with initialization and updates."""

    @property
    def is_initialized(self) -> Tensor | bool:
        """Return whether the codes are initialized; if not, training first calls `initialize`."""
        ...

    def initialize(self, latents: tuple[Float[Tensor, "n d"], ...], seed: int) -> None:
        """Set the codes to latents of the global batch.

        All ranks must call this method.
        """
        ...

    def update(self, statistics: CodebookStatistics, seed: int) -> CodebookUpdate:
        """Update the codes after an optimizer step, identically on all ranks.

        All ranks must call this method.
        """
        ...

    def watch(self) -> None:
        """Raise an error if a training run never calls `update`."""
        ...

    def lookup(self, indices: Integer[Tensor, "n *level"]) -> Float[Tensor, "n d"]:
        """Return the vector of each code; raise an InputError if an index is out of range."""
        ...

    def code_rows(self, numbers: Int[Tensor, " m"]) -> dict[str, Int[Tensor, " _"]]:
        """Return the row numbers of the given codes, by the name of the tensor that holds them.

        Only tensors that `update` can change are listed. The codes of all levels are numbered
        consecutively, level by level.
        """
        ...


@runtime_checkable
class Quantizer(Protocol):
    """A module between encoder and decoder, whose forward pass changes neither codes nor counts.

    All computation is in float32, regardless of autocast. Features with the wrong number of
    channels, non-finite latents and out-of-range codes raise an InputError.

    Attributes:
        dim: number of input and output channels.
        project_in: projection from features to latents.
        project_out: projection from code vectors, or latents, to features.
    """

    dim: int
    project_in: nn.Module
    project_out: nn.Module

    @property
    def codebook(self) -> CodebookInterface:
        """Return the codebook."""
        ...

    def __call__(self, features: Float[Tensor, "b c *grid"], check: bool = True) -> QuantizerOutput:
        """Quantize features for training; `check=False` accepts non-finite latents."""
        ...

    def step(self, *outputs: QuantizerOutput, seed: int = 0) -> CodebookUpdate:
        """Initialize or update the codes after an optimizer step.

        All ranks must call this method.
        """
        ...

    def latents(self, features: Float[Tensor, "b c *grid"]) -> Float[Tensor, "n d"]:
        """Return the projected rows that are compared with the codes."""
        ...

    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z over projected latents z, or 0 if there is no commitment loss C."""
        ...

    def encode(self, features: Float[Tensor, "b c *grid"]) -> Int[Tensor, "b *grid_and_level"]:
        """Return the codes for the features, with a last axis if positions have several codes."""
        ...

    def decode(self, codes: Shaped[Tensor, "b *grid_and_level"]) -> Float[Tensor, "b c *grid"]:
        """Return the features that the codes represent.

        The features are bitwise equal to the output of a call, except with estimators that decode
        something other than the code; see `VectorQuantizer.forward`.
        """
        ...
