"""Token sampling from a masked prior, with the most certain tokens first (MaskGIT)."""

import copy
import math
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models.cached_prior import same_bits
from video_vq.models.masked_prior import MaskedPrior
from video_vq.models.prior_config import ParallelSettings, SamplingSettings
from video_vq.models.sampling import (
    ClipSampler,
    PaddedBatch,
    adjusted_logits,
    guided_logits,
    hidden_per_pass,
    invert,
    require_distributions,
)
from video_vq.models.token_transformer import Condition

CHUNK = 1 << 24  # number of logits in memory at once
LEAST = 2.0**-54  # replaces noise of 0, so that the Gumbel noise is finite


class Drawn(NamedTuple):
    """Tokens drawn for every position in one pass.

    Attributes:
        sub_codes: sub-codes drawn for all positions, including those of visible tokens.
        log_probability: log probability of the whole token, before temperature, top-k and top-p.
        usable: mask of the clips with valid distributions at all positions.
    """

    sub_codes: Int[Tensor, "b n s"]
    log_probability: Float[Tensor, "b n"]
    usable: Bool[Tensor, " b"]


def still_hidden(num_tokens: int, steps: int) -> list[int]:
    """Return the number of hidden tokens after each step, num_tokens · cos(π/2 · step / steps).

    The number is rounded down, and lowered where necessary so that each step draws at least one
    token. It is raised where necessary so that each later step can still draw a token. If `steps`
    exceeds num_tokens, num_tokens steps are taken.
    """
    steps, left, found = min(steps, num_tokens), num_tokens, []
    for step in range(1, steps + 1):
        planned = math.floor(num_tokens * math.cos(math.pi / 2 * step / steps))
        left = max(steps - step, min(left - 1, planned))
        found.append(left)
    return found


class MaskedSampler(ClipSampler[MaskedPrior]):
    """A sampler for masked priors, which draws several tokens per step.

    Each step draws all hidden tokens, and keeps the tokens with the largest sum of log probability
    and noise; the noise falls to 0 at the last step. The noise depends only on a sample's seed, the
    window, the step and the position, and every batch has the same shape. If rounding depends on
    batch positions on this machine, samples are drawn one at a time. A sample's tokens therefore do
    not depend on the other samples at all.

    Args:
        prior: masked prior, on any device; a prior that is not in float32 or not in eval mode is
            copied and the copy converted.
        settings: guidance, temperature, top-k and top-p; None for plain sampling.
        parallel: number of steps and confidence temperature; None for the defaults.
        batch_size: number of samples that are drawn together; record this number with the samples.
        dtype: dtype of the matrix products, float32 or bfloat16.

    Raises:
        InputError: there are more steps than tokens.
    """

    def __init__(
        self,
        prior: MaskedPrior,
        settings: SamplingSettings | None = None,
        parallel: ParallelSettings | None = None,
        batch_size: int = 16,
        dtype: torch.dtype = torch.float32,
    ):
        if prior.head.weight.dtype != torch.float32 or prior.training:
            prior = copy.deepcopy(prior).float().eval()
        self.prior, self.settings = prior, settings or SamplingSettings()
        self.parallel = parallel or ParallelSettings()
        self.batch_size, self.dtype = batch_size, dtype
        if self.parallel.steps > prior.config.num_tokens:
            raise InputError(
                f"{self.parallel.steps} steps for a clip of {prior.config.num_tokens} tokens: name "
                f"at most {prior.config.num_tokens}, as each step draws at least one token"
            )
        self._num_rows: int | None = None

    def _precision(self) -> AbstractContextManager[Any]:
        device = self.prior.head.weight.device
        is_bf16 = self.dtype == torch.bfloat16
        return torch.autocast(device.type, torch.bfloat16, enabled=is_bf16)

    def _draw_batch(self, batch: PaddedBatch) -> Int[Tensor, "b n s"]:
        tokens, num_given = batch.tokens, batch.num_given
        num_tokens, each = tokens.shape[1], tokens.shape[2] + 1  # includes confidence noise
        hidden = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        hidden[:, :num_given] = False
        usable = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        before = num_tokens - num_given
        plan = still_hidden(before, self.parallel.steps)
        for step, left in enumerate(plan):
            noise = batch.noise(num_tokens * each, step).unflatten(1, (num_tokens, each))
            drawn = self._drawn(tokens, hidden, batch.condition, noise[..., :-1])
            usable &= drawn.usable
            gumbel = -torch.log(-torch.log(noise[..., -1].clamp(min=LEAST)))
            heat = self.parallel.confidence_temperature * (1 - (step + 1) / len(plan))
            confidence = drawn.log_probability.double() + heat * gumbel
            confidence = confidence.masked_fill(~hidden, torch.inf)
            order = confidence.argsort(dim=1, stable=True)
            stay = torch.zeros_like(hidden).scatter(1, order[:, :left], True)
            tokens = torch.where((hidden & ~stay)[..., None], drawn.sub_codes, tokens)
            hidden = stay
            if batch.progress is not None:
                batch.progress(before - left)
            before = left
        require_distributions(usable, self.settings)
        return tokens

    def _drawn(
        self,
        tokens: Int[Tensor, "b n s"],
        hidden: Bool[Tensor, "b n"],
        condition: Condition,
        noise: Float[Tensor, "b n s"],
    ) -> Drawn:
        """Draw a token for every position from one pass, in chunks of positions to save memory."""
        passes = len(hidden_per_pass(self.settings))
        outputs = self.prior.outputs(
            tokens.repeat(passes, 1, 1), hidden.repeat(passes, 1), condition
        )
        width = max(1, CHUNK // (len(outputs) * max(self.prior.sub_codes.sizes)))
        parts = [
            self._drawn_of(x, uniform)
            for x, uniform in zip(outputs.split(width, 1), noise.split(width, 1), strict=True)
        ]
        sub_codes, log_probability, usable = zip(*parts, strict=True)
        return Drawn(
            torch.cat(sub_codes, 1), torch.cat(log_probability, 1), torch.stack(usable).all(0)
        )

    def _drawn_of(self, x: Float[Tensor, "rows n d"], noise: Float[Tensor, "b n s"]) -> Drawn:
        batch, num_positions, num_places = noise.shape
        passes = len(hidden_per_pass(self.settings))
        sub_codes = torch.zeros(noise.shape, dtype=torch.int64, device=noise.device)
        log_probability = torch.zeros(batch, num_positions, device=noise.device)
        usable = torch.ones(batch, dtype=torch.bool, device=noise.device)
        for place in range(num_places):
            before = sub_codes[..., place - 1].repeat(passes, 1) if place else None
            x, logits = self.prior.next_logits(x, place, before)
            guided = guided_logits(logits.float(), self.settings).flatten(0, 1)
            adjusted = adjusted_logits(guided, self.settings)
            found, had_mass = invert(adjusted, noise[..., place].flatten())
            of_found = guided.log_softmax(-1).gather(1, found[:, None])
            sub_codes[..., place] = found.view(batch, num_positions)
            log_probability += of_found.view(batch, num_positions)
            usable &= had_mass.view(batch, num_positions).all(1)
        return Drawn(sub_codes, log_probability, usable)

    def _rows(self, num_given: int) -> int:
        """Return the number of samples drawn together: 1 if results depend on batch positions."""
        if self._num_rows is None:
            agree = self.batch_size == 1 or self._rows_agree(self.batch_size)
            self._num_rows = self.batch_size if agree else 1
        return self._num_rows

    def _rows_agree(self, num_rows: int) -> bool:
        """Return whether equal clips give bitwise equal results at all batch positions."""
        device = self.prior.head.weight.device
        sizes, passes = self.prior.sub_codes.sizes, len(hidden_per_pass(self.settings))
        generator = torch.Generator().manual_seed(0)
        num_tokens, rows = self.prior.config.num_tokens, num_rows * passes
        clip = [torch.randint(0, size, (num_tokens,), generator=generator) for size in sizes]
        tokens = torch.stack(clip, dim=-1).expand(rows, -1, -1).to(device)
        hidden = (torch.arange(num_tokens, device=device) % 2 == 0).expand(rows, -1)
        start = self.prior.class_embedding.weight[-1].expand(rows, -1)
        x = self.prior.outputs(tokens, hidden, Condition(start, None))
        return same_bits(x, 0) and same_bits(self.prior.logits(x, tokens), 0)
