"""The base class of all quantizers, with projections, decoding and codebook updates."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from pydantic import ValidationError
from torch import Tensor, nn

from video_vq.errors import InputError
from video_vq.nn.inputs import as_tensor
from video_vq.nn.precision import Float32Module
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.ranks import sum_over_ranks
from video_vq.quantizers.rows import (
    CodebookUpdate,
    QuantizerOutput,
    check_channels,
    check_finite,
    decode_grid,
    features_of,
    flatten_grid,
)

FeaturesLike = Float[Tensor, "b c *grid"] | Float[np.ndarray, "b c *grid"]
GridLike = Shaped[Tensor, "b *grid_and_level"] | Shaped[np.ndarray, "b *grid_and_level"]


class QuantizerModule(Float32Module):
    """Base class of quantizers, with projections to the codebook dimension and back.

    A subclass defines `codebook`, `quantize` and `codes_of`.

    Args:
        dim: number of input and output channels.
        config: codebook settings.
        width: number of latent channels; None compares the features themselves with the codes,
            without projections.
    """

    config: Any
    codebook: Any
    project_in: nn.Module
    project_out: nn.Module

    def __init__(self, dim: int, config: Any, width: int | None):
        super().__init__()
        self.dim = dim
        self.config = config
        self.project_in = nn.Identity() if width is None else nn.Linear(dim, width)
        self.project_out = nn.Identity() if width is None else nn.Linear(width, dim)

    @property
    def codebook_size(self) -> int:
        """Return the number of codes, K, or of combinations if a position has several codes."""
        return self.config.codebook_size

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the codebook size of each code at a position."""
        return self.config.vocabulary

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; return `quantized` and `codes` as rows, too."""
        raise NotImplementedError

    def codes_of(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n *level"]:
        """Return the codes for projected float32 rows."""
        raise NotImplementedError

    def forward(self, features: Float[Tensor, "b c *grid"], check: bool = True) -> QuantizerOutput:
        """Quantize a grid of features; `quantized` represents exactly the returned codes.

        There are exceptions: `estimator: none` decodes the latents; in training mode, diveq,
        noise_substitution and gumbel_softmax decode substitutes if a gradient is needed, and
        residual dropout omits levels. The returned codes are still the nearest codes.

        Args:
            features: encoder output, with `dim` channels.
            check: whether to raise an error for NaN and infinite latents, and for training that
                never updates the codebook. A training loop that handles non-finite losses itself,
                identically on all ranks, passes False.

        Raises:
            InputError: the number of channels is wrong; or, if `check` is set, latents are not
                finite, or there were too many training passes without a `step`.
        """
        rows = self._project(features)
        batch, _, *grid = features.shape
        if check:
            check_finite(rows)
            self.codebook.watch()
        with torch.autocast(features.device.type, enabled=False):
            output = self.quantize(rows)
            return output._replace(
                quantized=features_of(output.quantized, self.project_out, batch, grid),
                codes=output.codes.view(batch, *grid, *output.codes.shape[1:]),
            )

    def encode(self, features: FeaturesLike) -> Int[Tensor, "b *grid_and_level"]:
        """Return the codes for a grid of features, given as a tensor or a NumPy array.

        Raises:
            InputError: the number of channels is wrong, or latents are not finite.
        """
        rows = self._project(features)
        batch, _, *grid = features.shape
        check_finite(rows)
        codes = self.codes_of(rows)
        return codes.view(batch, *grid, *codes.shape[1:])

    def step(self, *outputs: QuantizerOutput, seed: int = 0) -> CodebookUpdate:
        """Update the codebook; call this method on all ranks after each optimizer step.

        With `init="data"`, the first call sets the codes to latents of the batch; before that call,
        the codes are close to zero. With a codebook that needs no data (FSQ, BSQ, SimVQ), a call
        only counts how often each code is used.

        Args:
            outputs: quantizer outputs of this step, one for each accumulated micro-batch.
            seed: seed that determines which latents become initial codes or replace unused codes.

        Returns:
            The number of uses of each code on all ranks together, and the restarted codes.

        Raises:
            InputError: no output was given, or the outputs come from a quantizer of another size.
        """
        if not outputs:
            raise InputError("step takes what the quantizer returned: quantizer.step(output)")
        statistics = merge([output.statistics for output in outputs])
        if len(statistics.counts) != sum(self.vocabulary):
            raise InputError(
                f"this quantizer has {sum(self.vocabulary)} codes, the output is of one with "
                f"{len(statistics.counts)}"
            )
        if self.codebook.is_initialized:
            return self.codebook.update(statistics, seed)
        self.codebook.initialize(tuple(output.rows.compared.detach() for output in outputs), seed)
        counts = sum_over_ranks(statistics.counts.clone())
        placed = torch.arange(len(counts), device=counts.device)
        return CodebookUpdate(counts, placed if self.codebook.is_initialized else placed[:0])

    def decode(self, codes: GridLike) -> Float[Tensor, "b c *grid"]:
        """Return the features that a grid of codes represents.

        Args:
            codes: grid of codes, as returned by `encode`, as a tensor or a NumPy array.

        Raises:
            InputError: a code is out of range, the codes are not integers, or the number of codes
                per position is wrong.
        """
        found = as_tensor(codes, "codes").to(self._device)
        return decode_grid(found, self.vocabulary, self.codebook.lookup, self.project_out)

    def _project(self, features: FeaturesLike) -> Float[Tensor, "n d"]:
        found = as_tensor(features, "features").to(self._device)
        check_channels(found, self.dim)
        with torch.autocast(found.device.type, enabled=False):
            return self.project_in(flatten_grid(found).float())

    @property
    def _device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers())).device


@contextmanager
def plain_errors(name: str, dim: int) -> Iterator[None]:
    """Report on one line which constructor arguments of a quantizer are wrong.

    Args:
        name: class name, with which the message begins.
        dim: first constructor argument, which is not part of the settings.

    Raises:
        InputError: an argument is wrong; this error replaces pydantic's multi-line error.
    """
    if not isinstance(dim, int) or dim < 1:
        raise InputError(f"{name}: dim = {dim!r} should be a whole number of channels, at least 1")
    try:
        yield
    except ValidationError as error:
        problems = "; ".join(_problem(dict(detail)) for detail in error.errors())
        raise InputError(f"{name}: {problems}") from None


def _problem(detail: dict[str, Any]) -> str:
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not detail["loc"]:  # the message names the arguments
        return message
    return f"{'.'.join(map(str, detail['loc']))} = {detail['input']!r} {message}"
