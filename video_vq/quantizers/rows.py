"""Common parts of all quantizers: result types, grid-to-row conversion and input checks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from video_vq.errors import InputError


class CodebookStatistics(NamedTuple):
    """Codebook statistics of one rank's forward pass, which does not change the codebook.

    If a position has several codes, the counts and sums of all levels are concatenated.
    """

    counts: Int[Tensor, "k"]
    sums: Float[Tensor, "k d"]  # float64; k x 0 for a codebook that does not follow its latents
    latents: tuple[Float[Tensor, "_ d"], ...]  # one entry per accumulated micro-batch


class CodebookUpdate(NamedTuple):
    """The result of a codebook update, identical on all ranks."""

    counts: Int[Tensor, " k"]  # number of uses of each code in the global batch
    restarted: Int[Tensor, " r"]  # codes that were moved to latents of the batch


class QuantizedRows(NamedTuple):
    """Rows of a forward pass, one per token, from which metrics of the estimator are computed."""

    latents: Float[Tensor, "n d"]  # projected, before any normalization
    compared: Float[Tensor, "n d"]  # latents as compared with the codes
    code: Float[Tensor, "n d"]  # nearest code vector, without a gradient
    e: Float[Tensor, "n d"]  # latents as given to the estimator
    q: Float[Tensor, "n d"]
    passed: Float[Tensor, "n d"]  # q̃, the output of the estimator


class QuantizerOutput(NamedTuple):
    """The output of a quantizer for a grid of features.

    Attributes:
        quantized: the features that the codes represent.
        codes: code of each grid cell; if a cell has several codes, the last axis is the level.
        losses: unweighted float32 losses by name; a training run weights each loss by the setting
            of the same name in the config's `loss` section.
        statistics: input to `codebook.update`, which is called once per optimizer step.
        rows: rows from which `mechanism` and `exactness` compute metrics.
    """

    quantized: Float[Tensor, "b c *grid"]
    codes: Int[Tensor, "b *grid_and_level"]
    losses: dict[str, Float[Tensor, ""]]
    statistics: CodebookStatistics
    rows: QuantizedRows


def dot(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the sum of the elementwise product of two arrays."""
    return torch.dot(x.reshape(-1), y.reshape(-1))


def flatten_grid(features: Float[Tensor, "b c *grid"]) -> Float[Tensor, "n c"]:
    """Flatten a channels-first grid into rows."""
    return rearrange(features, "b c ... -> (b ...) c")


def to_grid(rows: Float[Tensor, "n c"], batch: int, grid: list[int]) -> Float[Tensor, "b c *grid"]:
    """Turn rows back into a channels-first grid."""
    return rows.view(batch, *grid, rows.shape[1]).movedim(-1, 1).contiguous()


def features_of(
    rows: Float[Tensor, "n d"], project_out: nn.Module, batch: int, grid: list[int]
) -> Float[Tensor, "b c *grid"]:
    """Project code vectors, or latents, to a grid of features, with autocast disabled."""
    with torch.autocast(rows.device.type, enabled=False):
        return to_grid(project_out(rows), batch, grid)


def unquantized(output: QuantizerOutput, project_out: nn.Module) -> QuantizerOutput:
    """Return the output with features projected from the latents instead of the codes."""
    batch, _, *grid = output.quantized.shape
    rows = output.rows._replace(passed=output.rows.compared)
    return output._replace(quantized=features_of(rows.passed, project_out, batch, grid), rows=rows)


def decode_grid(
    codes: Shaped[Tensor, "b *grid_and_level"],
    vocabulary: Sequence[int],
    lookup: Callable[[Int[Tensor, "n *level"]], Float[Tensor, "n d"]],
    project_out: nn.Module,
) -> Float[Tensor, "b c *grid"]:
    """Return the features of a grid of codes, in float32 regardless of autocast.

    Args:
        codes: grid of codes; if a cell has several codes, the last axis is the level.
        vocabulary: number of codes of each level.
        lookup: function that maps rows of codes to code vectors.
        project_out: projection from code vectors to features.

    Raises:
        InputError: a code is out of range, the codes are not integers, or the number of levels is
            wrong.
    """
    check_codes(codes, vocabulary)
    levels = codes.shape[-1:] if len(vocabulary) > 1 else ()
    batch, *grid = codes.shape[: codes.ndim - len(levels)]
    with torch.autocast(codes.device.type, enabled=False):
        rows = lookup(codes.long().reshape(-1, *levels))
    return features_of(rows, project_out, batch, grid)


def count_codes(
    indices: Int[Tensor, "n *level"], vocabulary: Sequence[int]
) -> Int[Tensor, " total"]:
    """Count how often each code is used; the counts of all levels are concatenated."""
    levels = indices.reshape(-1, len(vocabulary)).unbind(1)
    counts = [
        torch.bincount(level, minlength=size)
        for level, size in zip(levels, vocabulary, strict=True)
    ]
    return torch.cat(counts)


def counts_only(indices: Int[Tensor, "n *level"], vocabulary: Sequence[int]) -> CodebookStatistics:
    """Return statistics with only code counts, for a codebook that does not follow its latents."""
    counts = count_codes(indices, vocabulary)
    return CodebookStatistics(counts, torch.zeros(len(counts), 0, device=indices.device), ())


def check_channels(features: Tensor, dim: int) -> None:
    """Check that features have `dim` channels.

    Raises:
        InputError: the features are not b c *grid with c = dim.
    """
    if features.ndim < 3 or features.shape[1] != dim:
        hint = ""
        if features.ndim > 2 and features.shape[-1] == dim:
            hint = "; channels come second: pass features.movedim(-1, 1)"
        raise InputError(
            f"the quantizer takes features of {dim} channels, b c *grid with c = {dim}; "
            f"found {tuple(features.shape)}{hint}"
        )


def check_finite(latents: Float[Tensor, "n d"]) -> None:
    """Check that all latents are finite.

    Raises:
        InputError: latents contain NaN or infinite values; the message gives the number of such
            rows.
    """
    low, high = latents.detach().aminmax() if latents.numel() else (torch.zeros(()),) * 2
    if not torch.isfinite(low + high):
        bad = int((~torch.isfinite(latents)).any(1).sum())
        raise InputError(
            f"{bad} of {len(latents)} latents hold NaN or infinite values, which have no nearest "
            "code; look for a loss that diverged, or a float16 overflow in the encoder"
        )


def check_codes(codes: Shaped[Tensor, "..."], vocabulary: Sequence[int]) -> None:
    """Check that codes are integers within the range of the codebook.

    Args:
        codes: codes of any shape; if a position has several codes, the last axis is the level.
        vocabulary: number of codes of each level.

    Raises:
        InputError: codes are not integers, are out of range, or have the wrong number of levels.
    """
    kind = codes.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise InputError(f"codes must be integers, found {kind}")
    codes = codes.long()  # torch has no minimum for uint16, the dtype of token stores
    if len(vocabulary) == 1:
        _check_range(codes, vocabulary[0], "codes")
        return
    if codes.ndim < 1 or codes.shape[-1] != len(vocabulary):
        raise InputError(
            f"codes must have {len(vocabulary)} levels along their last axis, one for each code of "
            f"a position; found the shape {tuple(codes.shape)}; they belong to another quantizer"
        )
    for level, size in enumerate(vocabulary):
        _check_range(codes[..., level], size, f"codes of level {level}")


def _check_range(codes: Int[Tensor, "..."], size: int, what: str) -> None:
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
        raise InputError(
            f"{what} must lie in 0..{size - 1}, found {int(codes.min())}.."
            f"{int(codes.max())}; they belong to a codebook of another size"
        )
