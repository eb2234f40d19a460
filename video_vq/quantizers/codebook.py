"""A codebook with batch statistics, moving averages, initialization and restarts over all ranks."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.quantizers.ranks import rank_and_world, sum_over_ranks
from video_vq.quantizers.rows import CodebookStatistics, CodebookUpdate, check_codes
from video_vq.quantizers.scale import divide_by_rms

MAX_PASSES = 100  # largest number of training passes between two codebook updates
ROWS = 1024  # rows processed at a time, to avoid temporary arrays as large as the codebook


def merge(parts: Sequence[CodebookStatistics]) -> CodebookStatistics:
    """Add the counts and sums of a step's micro-batches, and join their latents in order."""
    if len(parts) == 1:
        return parts[0]
    return CodebookStatistics(
        counts=torch.stack([part.counts for part in parts]).sum(0),
        sums=torch.stack([part.sums for part in parts]).sum(0),
        latents=tuple(latents for part in parts for latents in part.latents),
    )


def _slices(number: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, number, ROWS))


class Codebook(nn.Module):
    """K codes of dimension D, with the rules by which the codes follow the latents.

    With `learning: ema` (VQ-VAE, van den Oord et al. 2017, appendix A.1) the codes are a buffer,
    which `update` changes once per optimizer step; with `learning: gradient`, the codes are a
    parameter, and `update` only restarts dead codes; with `learning: frozen`, `update` only counts
    how often each code is used. With `rms_scaling`, `initialize` and `update` also track the mean
    square of the latents, averaged over steps and ranks.

    All ranks must call `initialize`, `refine` and `update` together, with equal numbers of
    micro-batches; the number of latents may differ between ranks, and a rank may have no latents.
    The results are bitwise equal on all ranks. Sums are computed in float64, so the results hardly
    depend on how latents are distributed over ranks and micro-batches.
    """

    codes: Tensor
    average_count: Tensor
    average_sum: Tensor
    num_updates: Tensor
    is_initialized: Tensor
    mean_square: Tensor  # only with `rms_scaling`

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self._passes = 0  # training passes since the last update
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
        if config.rms_scaling != "none":
            self.register_buffer("mean_square", torch.ones(()))

    def vectors(self) -> Float[Tensor, "k d"]:
        """Return the codes, normalized if `normalize` is set."""
        return F.normalize(self.codes, dim=1) if self.config.normalize else self.codes

    def comparable(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the projected latents to compare with codes: normalized, scaled or unchanged."""
        if self.config.normalize:
            return F.normalize(latents, dim=1)
        if self.config.rms_scaling == "none":
            return latents
        with_gradient = self.config.rms_scaling == "with_gradient"
        return divide_by_rms(latents, self.mean_square.sqrt(), with_gradient)

    def center(self) -> Float[Tensor, "1 d"]:
        """Return the moving average of the latents, or 0 before any latents are seen."""
        return self.average_sum.sum(0, keepdim=True) / self.average_count.sum().clamp(min=1e-6)

    @torch.no_grad()
    def statistics(
        self, latents: Float[Tensor, "n d"], indices: Int[Tensor, "n"]
    ) -> CodebookStatistics:
        """Return the number and the sum of each code's latents, without changing the codebook."""
        latents = latents.detach()
        counts = torch.bincount(indices, minlength=self.config.codebook_size)
        sums = torch.zeros_like(self.average_sum, dtype=torch.float64)
        for rows in _slices(len(latents)):
            sums.index_add_(0, indices[rows], latents[rows].double())
        return CodebookStatistics(counts, sums, (latents,))

    def watch(self) -> None:
        """Raise an error if a training run never updates the codebook.

        Each call in training mode with gradients counts as one pass, unless the codes are frozen
        and initialized. `initialize` and `update` reset the count.

        Raises:
            InputError: there were more than `MAX_PASSES` passes since the last reset.
        """
        trains = self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not trains or (self.config.learning == "frozen" and bool(self.is_initialized)):
            return
        self._passes += 1
        if self._passes > MAX_PASSES:
            raise InputError(
                f"the codebook has not moved in {MAX_PASSES} training passes: call "
                "quantizer.step(output) after each optimizer.step(); if a step has more "
                'micro-batches than that, pass check=False, and learning="frozen" leaves the codes '
                "where they are"
            )

    @torch.no_grad()
    def initialize(self, latents: tuple[Float[Tensor, "_ d"], ...], seed: int) -> None:
        """Set the codes to latents drawn from the global batch (`init: data`).

        Args:
            latents: this rank's latents of the whole step, one entry per accumulated micro-batch.
                The codebook stays unchanged if no rank has latents, or if a drawn latent is not
                finite (with `rms_scaling`, any latent); a later call can then initialize the codes.
            seed: seed that determines which latents are drawn.
        """
        self._passes = 0
        size = self.config.codebook_size
        drawn = self._draw(latents, size, seed)
        if len(drawn) == 0 or not torch.isfinite(drawn).all():
            return
        if self.config.rms_scaling != "none":
            mean_square = self._mean_square(latents)
            if not torch.isfinite(mean_square):
                return
            self.mean_square.mul_(mean_square)
            drawn = drawn / mean_square.sqrt()
        self.codes.copy_(drawn)
        self._reset(torch.arange(size, device=drawn.device), drawn, 1.0)
        self.is_initialized.fill_(True)

    @torch.no_grad()
    def refine(self, latents: Float[Tensor, "n d"], iterations: int) -> None:
        """Refine the initial codes with Lloyd's k-means algorithm on the global batch."""
        for _ in range(iterations):
            found = self.statistics(latents, nearest_codes(latents, self.vectors()))
            self.average_count.copy_(sum_over_ranks(found.counts))
            self.average_sum.copy_(sum_over_ranks(found.sums))
            self._follow_averages()

    @torch.no_grad()
    def update(
        self, statistics: CodebookStatistics, seed: int, restart_below: float | None = None
    ) -> CodebookUpdate:
        """Update averages and codes, and restart dead codes, once per optimizer step.

        Args:
            statistics: this rank's statistics of the whole step; use `merge` to combine accumulated
                micro-batches.
            seed: seed that, together with the number of updates, determines which latents of the
                global batch replace dead codes.
            restart_below: averaged count below which a code is dead; None for the config's
                `restart_threshold` times the mean count.

        Raises:
            InputError: the statistics come from a codebook of another size.
        """
        if statistics.sums.shape != self.average_sum.shape:
            raise InputError(
                f"this codebook has {len(self.codes)} codes of dimension {self.codes.shape[1]}, "
                f"the statistics are of {' x '.join(map(str, statistics.sums.shape))}"
            )
        self._passes = 0
        counts = sum_over_ranks(statistics.counts.clone())
        restarted = counts.new_empty(0)
        if self.config.rms_scaling != "none":  # these latents were divided by the current scale
            decay, mean_square = self._decay(), self._mean_square(statistics.latents)
            self.mean_square.mul_(decay + (1 - decay) * mean_square)
        if self.config.learning != "frozen":
            mean_count = float(counts.sum()) / self.config.codebook_size
            if restart_below is None:
                restart_below = self.config.restart_threshold * mean_count
            decay = self._decay()
            self.average_count.lerp_(counts.float(), 1 - decay)
            sums = statistics.sums.clone() if rank_and_world()[1] > 1 else statistics.sums
            sum_over_ranks(sums)
            for rows in _slices(len(sums)):
                self.average_sum[rows].lerp_(sums[rows].float(), 1 - decay)
            if self.config.learning == "ema":
                self._follow_averages()
            restarted = self._restart(statistics.latents, restart_below, mean_count, seed)
        self.num_updates += 1
        return CodebookUpdate(counts, restarted)

    def _mean_square(self, latents: tuple[Tensor, ...]) -> Float[Tensor, ""]:
        """Return the mean square over the global batch, or 1 if the batch is empty.

        All ranks must call this method.
        """
        sums = [rows.square().sum(dtype=torch.float64) for rows in latents]
        numbers = torch.tensor(float(sum(rows.numel() for rows in latents)), dtype=torch.float64)
        total = sum_over_ranks(torch.stack([torch.stack(sums).sum(), numbers.to(sums[0].device)]))
        mean = (total[0] / total[1]).clamp(min=1e-12)
        return torch.where(total[1] > 0, mean, 1.0).float()

    def _decay(self) -> float:
        step = int(self.num_updates)
        warm = (1 + step) / (10 + step)
        return min(self.config.decay, warm) if self.config.decay_warmup else self.config.decay

    def _follow_averages(self) -> None:
        heard = (self.average_count > 1e-6).unsqueeze(1)
        counts = self.average_count.clamp(min=1e-6).unsqueeze(1)
        for rows in _slices(len(self.codes)):
            means = self.average_sum[rows] / counts[rows]
            if self.config.normalize:
                means = F.normalize(means, dim=1)
            self.codes[rows] = torch.where(heard[rows], means, self.codes[rows])

    def _restart(
        self, latents: tuple[Tensor, ...], restart_below: float, mean_count: float, seed: int
    ) -> Tensor:
        rows = (self.average_count < restart_below).nonzero().squeeze(1)
        if len(rows):
            drawn = self._draw(latents, len(rows), seed)
            rows = rows[: len(drawn)]
            self.codes.data[rows] = drawn
            self._reset(rows, drawn, mean_count)
        return rows

    def _reset(self, rows: Tensor, vectors: Tensor, count: float) -> None:
        """Reset averages; restarted codes get the mean count, so they do not die again at once."""
        self.average_count[rows] = count
        self.average_sum[rows] = vectors * count

    def _draw(self, latents: tuple[Tensor, ...], number: int, seed: int) -> Float[Tensor, "m d"]:
        """Draw latents from the global batch, identically on all ranks and for any rank count.

        The global batch is ordered by micro-batch, then rank, then position. If the batch is empty,
        no latents are drawn.
        """
        rank, world = rank_and_world()
        lengths = torch.zeros(len(latents), world, dtype=torch.int64)
        lengths[:, rank] = torch.tensor([len(rows) for rows in latents])
        lengths = sum_over_ranks(lengths.to(latents[0].device)).cpu().flatten()
        ends = lengths.cumsum(0)
        total = int(ends[-1])
        if total == 0:
            return latents[0].new_zeros(0, self.config.codebook_dim)
        random = np.random.default_rng([seed, int(self.num_updates), 0x0C0DE])
        positions = torch.from_numpy(random.choice(total, number, replace=number > total))
        part = torch.searchsorted(ends, positions, right=True)
        inside = positions - (ends - lengths)[part]
        drawn = torch.zeros(number, self.config.codebook_dim, device=latents[0].device)
        for index, rows in enumerate(latents):
            mine = (part == index * world + rank).nonzero().squeeze(1)
            drawn[mine.to(drawn.device)] = rows.float()[inside[mine].to(rows.device)]
        return sum_over_ranks(drawn)

    def code_rows(self, numbers: Int[Tensor, " m"]) -> dict[str, Int[Tensor, " m"]]:
        """Return the given numbers, which are also the row numbers in the tensor `codes`."""
        return {"codes": numbers}

    @torch.no_grad()
    def lookup(self, indices: Integer[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """Return the vector of each code.

        Raises:
            InputError: an index is out of range.
        """
        check_codes(indices, (len(self.codes),))
        return F.embedding(indices.long(), self.vectors())
