"""Token sampling from a prior, with guidance, temperature, top-k, top-p and noise per sample."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models.cached_prior import CachedPrior
from video_vq.models.conditions import Conditions, Integers, as_conditions, as_seeds, check_sampling
from video_vq.models.prior import Prior
from video_vq.models.prior_config import SamplingSettings
from video_vq.models.token_transformer import Condition, TokenTransformer
from video_vq.nn.cards import is_verified
from video_vq.nn.precision import exact_float32

AnyKind = TypeVar("AnyKind", bound=TokenTransformer)
PADDINGS = (1, 8, 16, 32)  # candidate multiples to which batches are padded, so that rows agree


def uniform_noise(seed: int, number: int, window: int = 0, step: int = 0) -> np.ndarray:
    """Return uniform numbers in [0, 1) that depend only on the arguments.

    The numbers come from the raw 64-bit Philox stream with the seed as key; NumPy guarantees that
    this stream does not change. Separate windows of a long sample, and separate sampling steps of a
    masked prior, have separate streams, at least 2^66 numbers apart in the same cycle.
    """
    raw = np.random.Philox(key=seed, counter=[0, window, step, 0]).random_raw(number)
    return (raw >> np.uint64(11)) * 2.0**-53


def keep_top_k(logits: Float[Tensor, "b v"], k: int) -> Float[Tensor, "b v"]:
    """Mask all logits below the k-th largest logit of the row (Fan et al. 2018)."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Float[Tensor, "b v"], p: float) -> Float[Tensor, "b v"]:
    """Mask the least likely tokens whose total probability is at most 1 - p.

    The most likely token is never masked (nucleus sampling, Holtzman et al. 2020).
    """
    ascending, order = logits.sort(dim=-1, stable=True)
    tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    tail[:, -1] = False
    return logits.masked_fill(torch.zeros_like(tail).scatter(1, order, tail), -torch.inf)


def adjusted_logits(
    logits: Float[Tensor, "b v"], settings: SamplingSettings
) -> Float[Tensor, "b v"]:
    """Apply the temperature, then top-k, then top-p, to logits."""
    logits = logits / settings.temperature
    if settings.top_k is not None:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    return logits


def invert(
    logits: Float[Tensor, "b v"], noise: Float[Tensor, " b"]
) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
    """Draw one token per row by inverting the row's cumulative distribution in float64.

    Returns:
        The tokens, and a mask of the rows with a valid distribution (finite, not all masked).
    """
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Even for the largest noise, 1 - 2^-53, the rounded product is below the total, so the first
    # cumulative value above the product belongs to a token with nonzero probability.
    tokens = torch.searchsorted(cumulative, noise[:, None] * total, right=True).squeeze(1)
    usable = total.squeeze(1).isfinite()  # if all logits are masked, softmax returns NaN
    return tokens.clamp(max=logits.shape[-1] - 1), usable


class PaddedBatch(NamedTuple):
    """Samples that are drawn together, including samples that only pad the batch.

    Attributes:
        tokens: sub-codes of all tokens, of which the first `num_given` tokens of each sample are
            given.
        condition: embedded conditions, stacked for all passes that guidance needs.
        seeds: seed of each sample.
        window: index of the window in a longer sample.
        progress: function that is called with the number of newly drawn tokens.
    """

    tokens: Int[Tensor, "b n s"]
    num_given: int
    condition: Condition
    seeds: list[int]
    window: int
    progress: Callable[[int], object] | None

    def noise(self, number: int, step: int = 0) -> Float[Tensor, "b m"]:
        """Return `number` uniform numbers for each sample; see `uniform_noise`."""
        rows = [uniform_noise(seed, number, self.window, step) for seed in self.seeds]
        return torch.from_numpy(np.stack(rows)).to(self.tokens.device)


class ClipSampler(Generic[AnyKind]):
    """Base class of samplers, which draw the tokens of clips in batches of equal shape."""

    prior: AnyKind
    settings: SamplingSettings
    batch_size: int

    def draw(
        self,
        seeds: Integers,
        class_labels: Integers | None = None,
        given: Integer[Tensor, "n p *level"] | Integer[np.ndarray, "n p *level"] | None = None,
        actions: Float[Tensor, "n t a"] | Float[np.ndarray, "n t a"] | None = None,
        progress: Callable[[int], object] | None = None,
        window: int = 0,
    ) -> Int[Tensor, "n t h w *level"]:
        """Draw the tokens of one clip per seed.

        Args:
            seeds: seed per sample, 0 … 2^63 - 1; seeds, labels and tokens may have any integer
                dtype.
            class_labels: 0 … num_classes - 1, or NO_CLASS.
            given: the first p tokens of each clip, in the order of a flattened grid; these tokens
                are kept.
            actions: action values per latent frame, in the data's units.
            progress: function that is called after each position, or after each step of a masked
                prior, with the number of newly drawn tokens.
            window: index of the window in a longer sample; each window has separate noise.

        Returns:
            int64 tokens on the CPU, with a last level axis if a position has several codes.

        Raises:
            InputError: conditions, given tokens, seeds or settings do not fit the prior, the
                prior's probabilities are invalid, or samples cannot be kept independent on this
                machine.
        """
        prior, split = self.prior, self.prior.sub_codes
        seeds = as_seeds(seeds)
        conditions = as_conditions(class_labels, given, actions)
        check_sampling(prior, seeds, conditions, self.settings, self.batch_size)
        num_given, device = conditions.num_given, prior.head.weight.device
        tokens = torch.zeros(len(seeds), prior.config.num_tokens, len(split), dtype=torch.int64)
        if conditions.given is not None:
            tokens[:, :num_given] = split.split(conditions.given)
        with torch.inference_mode(), exact_float32(device), self._precision():
            num_rows = self._rows(num_given)
            size = min(num_rows, self.batch_size)
            for start in range(0, len(seeds), size):
                end = min(start + size, len(seeds))
                # A short batch is padded with copies of the last sample, which are discarded later.
                index = torch.arange(start, start + num_rows).clamp(max=end - 1)
                batch = PaddedBatch(
                    tokens[index].to(device),
                    num_given,
                    embedded(prior, conditions.rows(index, device), self.settings, num_rows),
                    [seeds[row] for row in index.tolist()],
                    window,
                    None if progress is None else lambda count, n=end - start: progress(n * count),
                )
                tokens[start:end] = self._draw_batch(batch)[: end - start].cpu()
        _, rows, columns = prior.config.grid_thw
        return rearrange(split.join(tokens), "n (t h w) ... -> n t h w ...", h=rows, w=columns)

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _rows(self, num_given: int) -> int:
        """Return the number of samples per batch, including padding."""
        raise NotImplementedError

    def _draw_batch(self, batch: PaddedBatch) -> Int[Tensor, "b n s"]:
        """Return all sub-codes of the batch, both given and newly drawn."""
        raise NotImplementedError


class TokenSampler(ClipSampler[Prior]):
    """A sampler for autoregressive priors, which keeps packed weights between calls.

    Every batch is decoded at one padded shape, and the noise depends only on a sample's seed, the
    window and the position. For a given batch_size, dtype, machine and thread count, a sample's
    tokens do not depend on the other samples, the sample order or the number of samples in the
    batch.

    Args:
        prior: autoregressive prior, on any device and in either mode; a prior in bf16, fp16 or
            float64 is copied to float32.
        settings: guidance, temperature, top-k and top-p; None for plain sampling.
        batch_size: number of samples that are decoded together; record this number with the
            samples.
        dtype: dtype of weights, cache and products.
        graphs: whether to record decoding steps as CUDA graphs, which does not change samples. None
            uses graphs on GPUs where `make gpu` found graphs correct and faster (nn/cards.py).

    Raises:
        InputError: the prior is masked, or `graphs` is set for a prior that is not on a GPU.
    """

    def __init__(
        self,
        prior: TokenTransformer,
        settings: SamplingSettings | None = None,
        batch_size: int = 16,
        dtype: torch.dtype = torch.float32,
        graphs: bool | None = None,
    ):
        if not isinstance(prior, Prior):
            raise InputError(
                "this prior is masked, and does not draw one token after the other; draw "
                "from it with MaskedSampler (video_vq.models.masked_sampling)"
            )
        device = prior.head.weight.device
        if graphs and device.type != "cuda":
            raise InputError(f"CUDA graphs need a prior on a GPU, this one is on {device}")
        self.graphs = is_verified("sampling_graphs", device) if graphs is None else graphs
        if prior.head.weight.dtype != torch.float32:
            prior = copy.deepcopy(prior).float()
        self.prior, self.settings = prior, settings or SamplingSettings()
        self.batch_size, self.dtype = batch_size, dtype
        self._held: CachedPrior | None = None  # only one, as caches are large
        self._padded: dict[int, int] = {}  # rows of the batch, by the number of given tokens

    def _rows(self, num_given: int) -> int:
        return self._cached(num_given).num_rows // len(hidden_per_pass(self.settings))

    def _draw_batch(self, batch: PaddedBatch) -> Int[Tensor, "b n s"]:
        tokens, num_given = batch.tokens, batch.num_given
        return sample_batch(
            self._cached(num_given),
            batch.condition,
            tokens[:, :num_given] if num_given else None,
            batch.noise(tokens[0].numel()).view(tokens.shape),
            self.settings,
            None if batch.progress is None else partial(batch.progress, 1),
        )

    def _cached(self, num_given: int) -> CachedPrior:
        if self._held is None or self._padded.get(num_given) != self._held.num_rows:
            self._held = prepared_prior(
                *(self.prior, self.settings, self.batch_size, num_given, self.dtype, self.graphs),
                self._held,
            )
            self._padded[num_given] = self._held.num_rows
        return self._held


def sample_tokens(
    prior: Prior,
    seeds: Integers,
    class_labels: Integers | None = None,
    given: Integer[Tensor, "n p *level"] | Integer[np.ndarray, "n p *level"] | None = None,
    actions: Float[Tensor, "n t a"] | Float[np.ndarray, "n t a"] | None = None,
    settings: SamplingSettings | None = None,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Int[Tensor, "n t h w *level"]:
    """Draw the tokens of one clip per seed; see `TokenSampler` and `TokenSampler.draw`."""
    sampler = TokenSampler(prior, settings, batch_size, dtype)
    return sampler.draw(seeds, class_labels, given, actions, progress)


def hidden_per_pass(settings: SamplingSettings) -> tuple[bool, ...]:
    """Return whether the conditions are hidden, for each pass that guidance needs."""
    if settings.guidance == 1:
        return (False,)
    return (True,) if settings.guidance == 0 else (False, True)


def guided_logits(
    logits: Float[Tensor, "rows *n v"], settings: SamplingSettings
) -> Float[Tensor, "b *n v"]:
    """Return null + g · (conditional - null) of two stacked passes, or a single pass unchanged."""
    if len(hidden_per_pass(settings)) == 1:
        return logits
    conditional, null = logits.chunk(2)
    # One rounding per operation (no fused product), so that every row is rounded alike.
    return (conditional - null) * settings.guidance + null


def embedded(
    prior: TokenTransformer, conditions: Conditions, settings: SamplingSettings, num_rows: int
) -> Condition:
    """Embed the conditions of one padded batch once per pass, and stack the results.

    Clips are embedded one at a time, so that rounding does not depend on a clip's position in the
    batch.
    """
    device = prior.head.weight.device
    clips = [conditions.rows(torch.tensor([row]), device) for row in range(num_rows)]
    embeddings = [
        prior.condition(1, clip.class_labels, clip.actions, torch.tensor([hidden], device=device))
        for hidden in hidden_per_pass(settings)
        for clip in clips
    ]
    per_frame = [clip.per_frame for clip in embeddings if clip.per_frame is not None]
    return Condition(
        torch.cat([clip.start for clip in embeddings]), torch.cat(per_frame) if per_frame else None
    )


def prepared_prior(
    prior: Prior,
    settings: SamplingSettings,
    batch_size: int,
    num_given: int,
    dtype: torch.dtype,
    graphs: bool = False,
    held: CachedPrior | None = None,
) -> CachedPrior:
    """Return a cached prior whose results do not depend on row positions.

    The number of rows is padded if necessary.

    Args:
        held: existing cached prior with the same weights and settings, which is returned if its
            number of rows is suitable.

    Raises:
        InputError: no padding makes rows independent of their position on this machine.
    """
    for padding in PADDINGS:
        num_rows = -(-batch_size // padding) * padding * len(hidden_per_pass(settings))
        if held is None or held.num_rows != num_rows:
            held = CachedPrior(prior, num_rows, dtype, graphs)
        if batch_size == 1 or held.rows_agree(num_given):
            return held
    raise InputError(
        f"samples of one batch of {batch_size} cannot be kept apart on this machine: its matrix "
        "products round a row by its place in the batch; use batch size 1, or one thread "
        "(OMP_NUM_THREADS=1)"
    )


def sample_batch(
    cached: CachedPrior,
    condition: Condition,
    given: Int[Tensor, "b p s"] | None,
    noise: Float[Tensor, "b n s"],
    settings: SamplingSettings,
    progress: Callable[[], object] | None,
) -> Int[Tensor, "b n s"]:
    """Draw the sub-codes of one padded batch; `progress` is called after each position.

    Raises:
        InputError: the prior's probabilities are not finite, or all tokens are masked.
    """
    num_rows, num_tokens, num_sub_codes = noise.shape
    num_passes = len(hidden_per_pass(settings))
    tokens = torch.zeros(noise.shape, dtype=torch.int64, device=noise.device)
    first = 0
    if given is not None:
        first = given.shape[1]
        tokens[:, :first] = given
        given = given.repeat(num_passes, 1, 1)
    usable = torch.ones(num_rows, dtype=torch.bool, device=noise.device)
    logits = cached.begin(condition, given)
    for position in range(first, num_tokens):
        for place in range(num_sub_codes):
            if place:
                before = tokens[:, position, place - 1].repeat(num_passes)
                logits = cached.further(place, before)
            adjusted = adjusted_logits(guided_logits(logits, settings), settings)
            drawn, had_mass = invert(adjusted, noise[:, position, place])
            tokens[:, position, place] = drawn
            usable &= had_mass
        if position + 1 < num_tokens:
            logits = cached.step(tokens[:, position].repeat(num_passes, 1))
        if progress is not None:
            progress()
    require_distributions(usable, settings)
    return tokens


def require_distributions(usable: Bool[Tensor, " b"], settings: SamplingSettings) -> None:
    """Check that all samples were drawn from valid distributions.

    Args:
        usable: mask of the samples with valid probabilities (finite, not all masked).

    Raises:
        InputError: a sample had invalid probabilities.
    """
    if not bool(usable.all()):
        raise InputError(
            "the prior's probabilities are not a distribution (not finite, or all masked) at "
            f"temperature {settings.temperature:g} and guidance {settings.guidance:g}; take a "
            "temperature nearer to 1; if that does not help, its weights are damaged: restore its "
            "folder, or train it again"
        )
