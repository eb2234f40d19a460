"""The base class of every quantizer: its projections, its decoding of codes, and its step."""

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
    """Features of `dim` channels, projected to a codebook and back.

    A subclass adds the codebook, `quantize` and `codes_of`.

    Args:
        dim: number of channels of the input and of the output.
        config: settings of the codebook.
        width: number of channels of the latents that are compared with the codes; None for `dim`,
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
        """Return the number of codes, K, or of combinations where a position has several codes."""
        return self.config.codebook_size

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the codebook size of each code at a position."""
        return self.config.vocabulary

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; `quantized` and `codes` are rows too."""
        raise NotImplementedError

    def codes_of(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n *level"]:
        """Return the codes of projected float32 rows."""
        raise NotImplementedError

    def forward(self, features: Float[Tensor, "b c *grid"], check: bool = True) -> QuantizerOutput:
        """Quantize a grid of features; the forward value is exactly the code.

        Exceptions are `estimator: none`, and diveq, noise_substitution and gumbel_softmax in
        training mode if a gradient is needed. The codes are still the nearest ones.

        Args:
            features: output of the encoder, with `dim` channels.
            check: whether to refuse NaN and infinite latents, and training that never moves the
                codes. A training loop that skips and counts steps with a non-finite loss, the same
                on all ranks, passes False.

        Raises:
            InputError: the number of channels is wrong, latents are not finite, or there were many
                training passes without a `step`.
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
        """Return the codes of a grid of features, a tensor or a NumPy array.

        Raises:
            InputError: the number of channels is wrong, or latents are not finite.
        """
        rows = self._project(features)
        batch, _, *grid = features.shape
        check_finite(rows)
        codes = self.codes_of(rows)
        return codes.view(batch, *grid, *codes.shape[1:])

    def step(self, *outputs: QuantizerOutput, seed: int = 0) -> CodebookUpdate:
        """Move the codebook; call this once after each optimizer step, on all ranks.

        The first call places the codes on latents of its batch (`init="data"`); until then they are
        close to zero. With a codebook that needs no data (FSQ, BSQ, SimVQ), a call only counts the
        use of the codes.

        Args:
            outputs: the outputs of the quantizer in this step: one, or one for each accumulated
                micro-batch.
            seed: seed that determines which latents become the first codes and replace unused ones.

        Returns:
            The number of uses of each code, over all ranks, and the codes that were restarted.

        Raises:
            InputError: no output was given, or an output comes from another quantizer.
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
        """Return the features that the codes represent, as `forward` does for the same codes.

        Args:
            codes: grid of codes as returned by `encode`; a tensor or a NumPy array.

        Raises:
            InputError: a code lies outside its codebook, the codes are not integers, or they have
                other levels than this quantizer.
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
    """Report in one sentence which argument of a quantizer's constructor is wrong.

    Args:
        name: name of the class.
        dim: the constructor's first argument, which is not among the settings.

    Raises:
        InputError: an argument is wrong; replaces pydantic's error of several lines.
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
    if not detail["loc"]:  # of several arguments, which the message names
        return message
    return f"{'.'.join(map(str, detail['loc']))} = {detail['input']!r} {message}"
