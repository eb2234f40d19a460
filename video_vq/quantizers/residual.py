"""Several codes per position: residual levels, groups of channels, or both."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.quantizers import gradient
from video_vq.quantizers.codebook import Codebook, merge
from video_vq.quantizers.commitment import mean_square
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.module import FeaturesLike, QuantizerModule, plain_errors
from video_vq.quantizers.quantizer_config import Init, Learning, ResidualConfig, ResidualEstimator
from video_vq.quantizers.ranks import sum_over_ranks
from video_vq.quantizers.rows import (
    CodebookStatistics,
    CodebookUpdate,
    QuantizedRows,
    QuantizerOutput,
    check_codes,
    dot,
)

DROPOUT_STREAM = 0xD309


class _Level(NamedTuple):
    """The input, code vectors and codes of one codebook; `vector` passes gradients to the codes."""

    residual: Float[Tensor, "n d"]
    vector: Float[Tensor, "n d"]
    codes: Int[Tensor, " n"]


class ResidualCodebook(nn.Module):
    """One codebook per level and group; a level quantizes the residual of the previous level.

    With `shared`, all levels of a group use one codebook. The codes at a position go from coarse to
    fine: level 0 of all groups, then level 1 of all groups, and so on. Each codebook is a
    `Codebook` and learns only from its own input.
    """

    def __init__(self, config: ResidualConfig):
        super().__init__()
        self.config = config
        num_levels = 1 if config.shared else len(config.codebook_sizes)
        self.books = nn.ModuleList(
            Codebook(config.level_config(size))
            for size in config.codebook_sizes[:num_levels]
            for _ in range(config.groups)
        )

    @property
    def is_initialized(self) -> bool:
        """Return whether all codebooks are initialized."""
        return all(bool(book.is_initialized) for book in self._distinct())

    def book(self, index: int) -> Codebook:
        """Return the codebook for the code with the given index at each position."""
        found = self.books[index % len(self.books)]
        assert isinstance(found, Codebook)
        return found

    def _distinct(self) -> Iterator[Codebook]:
        return (self.book(index) for index in range(len(self.books)))

    def quantize(self, latents: Float[Tensor, "n d"]) -> list[_Level]:
        """Quantize projected float32 latents; gradients of the residuals reach the latents."""
        levels: list[_Level] = []
        residuals = list(latents.chunk(self.config.groups, dim=1))
        for index in range(len(self.config.vocabulary)):
            group = index % self.config.groups
            residual, vectors = residuals[group], self.book(index).vectors()
            codes = nearest_codes(residual, vectors)
            vector = F.embedding(codes, vectors)
            levels.append(_Level(residual, vector, codes))
            residuals[group] = residual - vector.detach()
        return levels

    def total(self, vectors: list[Float[Tensor, "n d"]]) -> Float[Tensor, "n d2"]:
        """Add up the levels of each group, from coarse to fine, and concatenate the groups."""
        groups = self.config.groups
        sums = list(vectors[:groups])
        for index, vector in enumerate(vectors[groups:]):
            sums[index % groups] = sums[index % groups] + vector
        return torch.cat(sums, dim=1)

    def depth(self) -> int:
        """Return the number of levels that the decoder sees in this step with dropout.

        The number is drawn uniformly and depends only on the number of updates, so all ranks, all
        micro-batches and a resumed run use the same number.
        """
        step = int(self.book(0).num_updates)
        draw = np.random.default_rng([step, DROPOUT_STREAM]).integers(
            len(self.config.codebook_sizes)
        )
        return 1 + int(draw)

    def statistics(self, levels: list[_Level]) -> CodebookStatistics:
        """Return the concatenated statistics of all codebooks, without changing the codebooks."""
        parts = [
            self.book(index).statistics(level.residual, level.codes)
            for index, level in enumerate(levels)
        ]
        return CodebookStatistics(
            counts=torch.cat([part.counts for part in parts]),
            sums=torch.cat([part.sums for part in parts]),
            latents=(torch.cat([level.residual.detach() for level in levels], dim=1),),
        )

    @torch.no_grad()
    def initialize(self, latents: tuple[Float[Tensor, "_ d"], ...], seed: int) -> None:
        """Set codes to latents at the first level, and to residuals at each later level.

        With `shared`, all levels use the first level's codes. All ranks must call this method.
        """
        groups = self.config.groups
        residuals = [list(rows.chunk(groups, dim=1)) for rows in latents]
        for index in range(len(self.config.vocabulary)):
            group, book = index % groups, self.book(index)
            if index < len(self.books):
                book.initialize(tuple(rows[group] for rows in residuals), _seed(seed, index))
            vectors = book.vectors()
            for rows in residuals:
                rows[group] = rows[group] - vectors[nearest_codes(rows[group], vectors)]

    @torch.no_grad()
    def update(self, statistics: CodebookStatistics, seed: int) -> CodebookUpdate:
        """Update each codebook, once per optimizer step.

        All ranks must call this method. In `restarted`, the codes of all levels are numbered
        consecutively, level by level.
        """
        sizes, dim = list(self.config.vocabulary), self.config.codebook_dim
        counts, sums = statistics.counts.split(sizes), statistics.sums.split(sizes)
        parts = []
        for index in range(len(sizes)):
            given = tuple(rows[:, index * dim : (index + 1) * dim] for rows in statistics.latents)
            parts.append(CodebookStatistics(counts[index], sums[index], given))
        restarted, start = [], 0
        for index in range(len(self.books)):
            book, given = self.book(index), merge(parts[index :: len(self.books)])
            restarted.append(start + book.update(given, _seed(seed, index)).restarted)
            start += sizes[index]
        return CodebookUpdate(sum_over_ranks(statistics.counts.clone()), torch.cat(restarted))

    def watch(self) -> None:
        """Raise an error if a training run never updates the codes; see `Codebook.watch`."""
        self.book(0).watch()

    def code_rows(self, numbers: Int[Tensor, " m"]) -> dict[str, Int[Tensor, " _"]]:
        """Return the row numbers of the given codes, by the name of the tensor that holds them."""
        rows, start = {}, 0
        for index in range(len(self.books)):
            end = start + self.config.vocabulary[index]
            rows[f"books.{index}.codes"] = numbers[(numbers >= start) & (numbers < end)] - start
            start = end
        return rows

    @torch.no_grad()
    def lookup(self, indices: Integer[Tensor, "n level"]) -> Float[Tensor, "n d"]:
        """Return the code vectors, summed over levels, with groups concatenated.

        Raises:
            InputError: an index is out of range.
        """
        check_codes(indices, self.config.vocabulary)
        codes = enumerate(indices.long().unbind(1))
        return self.total([F.embedding(some, self.book(i).vectors()) for i, some in codes])


class ResidualQuantizer(QuantizerModule):
    """Residual VQ (Zeghidour et al. 2021), grouped VQ, or both, with one gradient estimator.

    The estimator passes the gradient from the *sum* of a group's levels to the group's latents. If
    the gradient were copied level by level, as in some implementations, each level would add
    another copy. `forward` does not change the codes; call `step(output)` after each optimizer step
    to update the codes.

    Args:
        dim: number of input and output channels.
        codebook_sizes: number of codes of each level; a level quantizes the residual of the
            previous level.
        groups: number of groups into which latent channels are split; each group has its own
            codebooks.
        codebook_dim: code dimension within one group; features are projected to groups x
            codebook_dim channels and back. None splits the features themselves.
        shared: whether all levels of a group use one codebook.
        dropout: whether to decode only the first few levels in training; the number of levels is
            drawn for each step.
        estimator: name of the gradient estimator, which passes the gradient from the sum of a
            group's levels to the group's latent.
        learning, decay, decay_warmup, init, restart_threshold: see `VectorQuantizer`.

    Raises:
        InputError: an argument is out of range, or two arguments are incompatible.
    """

    config: ResidualConfig
    codebook: ResidualCodebook

    def __init__(
        self,
        dim: int,
        codebook_sizes: Sequence[int] = (1024, 1024),
        groups: int = 1,
        codebook_dim: int | None = None,
        *,
        shared: bool = False,
        dropout: bool = False,
        estimator: ResidualEstimator = "rotation",
        learning: Learning = "ema",
        decay: float = 0.99,
        decay_warmup: bool = True,
        init: Init = "data",
        restart_threshold: float = 0.1,
    ):
        with plain_errors("ResidualQuantizer", dim):
            if codebook_dim is None and groups > 0 and dim % groups:
                raise InputError(
                    f"ResidualQuantizer: dim = {dim} is not divisible by groups = {groups}; give a "
                    "codebook_dim, to which the features are projected"
                )
            config = ResidualConfig(
                codebook_sizes=tuple(codebook_sizes),
                groups=groups,
                codebook_dim=dim // max(groups, 1) if codebook_dim is None else codebook_dim,
                shared=shared,
                dropout=dropout,
                estimator=estimator,
                learning=learning,
                decay=decay,
                decay_warmup=decay_warmup,
                init=init,
                restart_threshold=restart_threshold,
            )
        super().__init__(dim, config, None if codebook_dim is None else groups * codebook_dim)
        self.codebook = ResidualCodebook(config)

    def latents(self, features: FeaturesLike) -> Float[Tensor, "n d"]:
        """Return the projected rows, with the channels of all groups concatenated."""
        return self._project(features)

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; return `quantized` and `codes` as rows, too.

        With `dropout`, in training mode, `quantized` is the sum of only the first
        `ResidualCodebook.depth` levels; codes, losses and statistics cover all levels.
        """
        levels = self.codebook.quantize(latents)
        drops = self.config.dropout and self.training
        used = levels[: self.codebook.depth() * self.config.groups] if drops else levels
        q = self.codebook.total([level.vector.detach() for level in used])
        passed = self._estimate(latents, q)
        return QuantizerOutput(
            quantized=passed,
            codes=torch.stack([level.codes for level in levels], dim=1),
            losses=self._losses(levels),
            statistics=self.codebook.statistics(levels),
            rows=QuantizedRows(latents, latents, q, latents, q, passed),
        )

    def _estimate(self, e: Tensor, q: Tensor) -> Tensor:
        dim = self.config.codebook_dim
        passed = gradient.ESTIMATORS[self.config.estimator](e.reshape(-1, dim), q.reshape(-1, dim))
        return passed.view(e.shape)

    def _losses(self, levels: list[_Level]) -> dict[str, Float[Tensor, ""]]:
        """Return the commitment and codebook losses, summed over levels, averaged over groups."""
        groups = self.config.groups
        commitment = torch.stack([mean_square(r, v.detach()) for r, v, _ in levels]).sum() / groups
        codebook = commitment.detach()
        if levels[0].vector.requires_grad:
            pulls = [mean_square(v, r.detach()) for r, v, _ in levels]
            codebook = torch.stack(pulls).sum() / groups
        return {"commitment": commitment, "codebook": codebook}

    @torch.no_grad()
    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z of the commitment loss; see `VectorQuantizer.commitment_force`."""
        groups, levels = self.config.groups, self.codebook.quantize(rows.latents)
        forces = [
            dot(rows.latents.chunk(groups, 1)[index % groups], level.residual - level.vector)
            for index, level in enumerate(levels)
        ]
        return torch.stack(forces).sum() * (2 / max(1, rows.latents.numel()))

    def codes_of(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n level"]:
        """Return the codes for projected float32 rows."""
        return torch.stack([level.codes for level in self.codebook.quantize(latents)], dim=1)


def _seed(seed: int, index: int) -> int:
    """Return a distinct seed per codebook, since equal draws would make all residuals zero."""
    return seed + (index << 40)
