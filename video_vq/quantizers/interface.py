"""The interface of quantizers and codebooks on which a tokenizer and its training rely."""

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
    """The K codes of a quantizer, with their initialisation and updates."""

    @property
    def is_initialized(self) -> Tensor | bool:
        """Whether the codes can be used; if not, a training run first calls `initialize`."""
        ...

    def initialize(self, latents: tuple[Float[Tensor, "n d"], ...], seed: int) -> None:
        """Place the first codes on latents of the global batch; collective."""
        ...

    def update(self, statistics: CodebookStatistics, seed: int) -> CodebookUpdate:
        """Move the codes, once per optimizer step, equally on all ranks; collective."""
        ...

    def watch(self) -> None:
        """Refuse to continue a training run that never calls `update`."""
        ...

    def lookup(self, indices: Integer[Tensor, "n *level"]) -> Float[Tensor, "n d"]:
        """Return the vectors of codes; an index that is not a code is an InputError."""
        ...

    def code_rows(self, numbers: Int[Tensor, " m"]) -> dict[str, Int[Tensor, " _"]]:
        """Return, by name, the tensors of codes that move, and their rows for the given codes.

        The codes of all levels are numbered consecutively, level by level.
        """
        ...


@runtime_checkable
class Quantizer(Protocol):
    """A module between encoder and decoder, whose forward pass changes neither codes nor counts.

    All computation is in float32, regardless of autocast. Features of the wrong width, non-finite
    latents and codes that do not exist raise an InputError.

    Attributes:
        dim: number of channels of the features, both input and output.
        project_in: map from features to the latents.
        project_out: map from codes, or the latents themselves, to features.
    """

    dim: int
    project_in: nn.Module
    project_out: nn.Module

    @property
    def codebook(self) -> CodebookInterface:
        """Return the codes."""
        ...

    def __call__(self, features: Float[Tensor, "b c *grid"], check: bool = True) -> QuantizerOutput:
        """Quantize for training; `check=False` lets latents that are not finite through."""
        ...

    def step(self, *outputs: QuantizerOutput, seed: int = 0) -> CodebookUpdate:
        """Initialise or move the codes, after an optimizer step of any loop; collective."""
        ...

    def latents(self, features: Float[Tensor, "b c *grid"]) -> Float[Tensor, "n d"]:
        """Return the rows that are compared with the codes."""
        ...

    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z of the commitment loss over the projected latents z; 0 without one."""
        ...

    def encode(self, features: Float[Tensor, "b c *grid"]) -> Int[Tensor, "b *grid_and_level"]:
        """Return the codes of features; where a position has several, they are the last axis."""
        ...

    def decode(self, codes: Shaped[Tensor, "b *grid_and_level"]) -> Float[Tensor, "b c *grid"]:
        """Return the features that the codes represent.

        They are bitwise those of a call, except for estimators whose calls decode something other
        than the code; see `VectorQuantizer.forward`.
        """
        ...
