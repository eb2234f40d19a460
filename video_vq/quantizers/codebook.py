"""The codebook: statistics of a batch, moving averages, first codes, restarts, over all ranks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.quantizers.quantizer_config import QuantizerConfig


class CodebookStatistics(NamedTuple):
    """What one forward pass of one rank says about the codebook; nothing has changed yet."""

    counts: Int[Tensor, "k"]
    sums: Float[Tensor, "k d"]
    latents: tuple[Float[Tensor, "n d"], ...]  # one entry per accumulated micro-batch


class CodebookUpdate(NamedTuple):
    """What an update did, alike on all ranks."""

    counts: Int[Tensor, " k"]  # hits of each code in the global batch
    restarted: Int[Tensor, " r"]  # the codes that were placed anew


def merge(parts: Sequence[CodebookStatistics]) -> CodebookStatistics:
    """Add the statistics of the micro-batches of one optimizer step, in their order."""
    return CodebookStatistics(
        counts=torch.stack([part.counts for part in parts]).sum(0),
        sums=torch.stack([part.sums for part in parts]).sum(0),
        latents=tuple(latents for part in parts for latents in part.latents),
    )


class Codebook(nn.Module):
    """K codes of dimension D and how they follow the latents.

    With `learning: ema` (VQ-VAE, van den Oord et al. 2017, appendix A.1) the codes are a buffer,
    moved by `update` once per optimizer step; with `learning: gradient` they are a parameter.
    The decay of the averages starts low, min(decay, (1 + t)/(10 + t)) at update t, so that codes
    which the first steps leave behind are restarted soon.

    All ranks must call `initialize` and `update` together, with equal numbers of latents; the
    results are bit-equal on all.
    """

    codes: Tensor
    average_count: Tensor
    average_sum: Tensor
    num_updates: Tensor
    is_initialized: Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        size, dim = config.codebook_size, config.codebook_dim
        codes = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        if config.learning == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        self.register_buffer("average_count", torch.zeros(size))
        self.register_buffer("average_sum", torch.zeros(size, dim))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("is_initialized", torch.tensor(config.init == "uniform"))

    def vectors(self) -> Float[Tensor, "k d"]:
        """Return the codes as they are compared and decoded, on the unit sphere if so set."""
        return F.normalize(self.codes, dim=1) if self.config.normalize else self.codes

    @torch.no_grad()
    def statistics(
        self, latents: Float[Tensor, "n d"], indices: Int[Tensor, "n"]
    ) -> CodebookStatistics:
        """Count and add up the latents of each code; changes nothing."""
        latents = latents.detach()
        counts = torch.bincount(indices, minlength=self.config.codebook_size)
        sums = torch.zeros_like(self.average_sum).index_add_(0, indices, latents.float())
        return CodebookStatistics(counts, sums, (latents,))

    @torch.no_grad()
    def initialize(self, latents: Float[Tensor, "n d"], seed: int) -> None:
        """Place the first codes on latents drawn from the global batch (init: data)."""
        size = self.config.codebook_size
        drawn = self._draw((latents.detach(),), size, seed)
        self.codes.copy_(drawn)
        self._reset(torch.arange(size, device=drawn.device), drawn, 1.0)
        self.is_initialized.fill_(True)

    @torch.no_grad()
    def update(self, statistics: CodebookStatistics, seed: int) -> CodebookUpdate:
        """Move the averages, the codes and the dead codes: once per optimizer step.

        Args:
            statistics: of this rank's whole step (`merge` for accumulated micro-batches).
            seed: with the number of updates and the position in the global batch it decides which
                latents take the place of dead codes.
        """
        counts, sums = statistics.counts.double(), statistics.sums
        _sum_over_ranks(counts)
        _sum_over_ranks(sums)
        total = float(counts.sum())
        step = int(self.num_updates)
        decay = min(self.config.decay, (1 + step) / (10 + step))
        self.average_count.lerp_(counts.float(), 1 - decay)
        self.average_sum.lerp_(sums, 1 - decay)
        if self.config.learning == "ema":
            self._follow_averages()
        restarted = self._restart(statistics.latents, total, seed)
        self.num_updates += 1
        return CodebookUpdate(counts.long(), restarted)

    def _follow_averages(self) -> None:
        heard = self.average_count > 1e-6
        means = self.average_sum / self.average_count.clamp(min=1e-6).unsqueeze(1)
        if self.config.normalize:
            means = F.normalize(means, dim=1)
        self.codes.copy_(torch.where(heard.unsqueeze(1), means, self.codes))

    def _restart(self, latents: tuple[Tensor, ...], total: float, seed: int) -> Tensor:
        mean_count = total / self.config.codebook_size
        dead = self.average_count < self.config.restart_threshold * mean_count
        rows = dead.nonzero().squeeze(1)
        if len(rows):
            drawn = self._draw(latents, len(rows), seed)
            self.codes.data[rows] = drawn
            self._reset(rows, drawn, mean_count)
        return rows

    def _reset(self, rows: Tensor, vectors: Tensor, count: float) -> None:
        """Give restarted codes a mean code's count, so that they live long enough to be found."""
        self.average_count[rows] = count
        self.average_sum[rows] = vectors * count

    def _draw(self, latents: tuple[Tensor, ...], number: int, seed: int) -> Float[Tensor, "m d"]:
        """Draw latents from the global batch, alike on all ranks and for any number of ranks.

        The global batch is ordered by micro-batch, then rank, then position.
        """
        rank, world = _rank_and_world()
        per_part = len(latents[0])
        total = per_part * len(latents) * world
        random = np.random.default_rng([seed, int(self.num_updates), 0x0C0DE])
        positions = torch.from_numpy(random.choice(total, number, replace=number > total))
        part, inside = positions // per_part, positions % per_part
        drawn = torch.zeros(number, self.config.codebook_dim, device=latents[0].device)
        for index, rows in enumerate(latents):
            mine = (part == index * world + rank).nonzero().squeeze(1)
            drawn[mine.to(drawn.device)] = rows.float()[inside[mine].to(rows.device)]
        _sum_over_ranks(drawn)
        return drawn

    @torch.no_grad()
    def lookup(self, indices: Int[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """Return the vectors of codes.

        Raises:
            InputError: an index is not a code.
        """
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(self.codes):
            raise InputError(
                f"codes must lie in 0..{len(self.codes) - 1}, "
                f"found {int(indices.min())}..{int(indices.max())}"
            )
        return F.embedding(indices, self.vectors())


def _rank_and_world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _sum_over_ranks(tensor: Tensor) -> None:
    if _rank_and_world()[1] > 1:
        dist.all_reduce(tensor)


def flatten_grid(latents: Float[Tensor, "b d *grid"]) -> Float[Tensor, "n d"]:
    """Flatten a channels-first grid to rows."""
    return rearrange(latents, "b d ... -> (b ...) d")
