"""Predictors from simple token statistics: the baselines that a prior has to beat.

Three predictors are fitted to training grids and scored on held-out grids, in bits per token.
Counts and logarithms are float64 throughout.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import minimize_scalar

from video_vq.errors import InputError
from video_vq.nn.arrays import as_array

# The range in which smoothing is searched, in pseudo-observations.
SMOOTHING_RANGE = (1e-3, 1e6)


class PredictorScores(NamedTuple):
    """Cross entropies on held-out grids in bits per token, and the fitted parameters.

    Attributes:
        unigram: score of the smoothed token frequencies, regardless of position.
        per_position: score of the smoothed token frequencies at each position t h w.
        copy_previous: score of copying the token at the same h w in the previous latent frame, with
            an error rate.
        unigram_curve, per_position_curve, copy_previous_curve: the same scores per latent frame.
        copy_error_rate: error rate ε of copying; 1 if clips have a single latent frame.
        unigram_smoothing, position_smoothing: numbers of pseudo-observations, β and α, added to the
            counts.
    """

    unigram: float
    per_position: float
    copy_previous: float
    unigram_curve: Float[np.ndarray, " t"]
    per_position_curve: Float[np.ndarray, " t"]
    copy_previous_curve: Float[np.ndarray, " t"]
    copy_error_rate: float
    unigram_smoothing: float
    position_smoothing: float

    @property
    def best(self) -> float:
        """Return the lowest of the three scores."""
        return min(self.unigram, self.per_position, self.copy_previous)


class _Counts(NamedTuple):
    """Counts of each observation's token: over all positions, and at the observation's position."""

    token: Float[np.ndarray, " m"]
    token_total: Float[np.ndarray, " m"] | float
    cell: Float[np.ndarray, " m"]
    cell_total: Float[np.ndarray, " m"] | float


def score_predictors(
    train: Integer[np.ndarray, "n t h w"],
    held_out: Integer[np.ndarray, "m _ _ _"],
    codebook_size: int,
    train_groups: Integer[np.ndarray, " _"] | None = None,
) -> PredictorScores:
    """Fit the predictors to training grids and score them on held-out grids.

    With counts C, codebook size K, a token x and its position s:

    * unigram u(x) = (C(x) + β/K) / (C + β);
    * per position p(x | s) = (C(x, s) + α u(x)) / (C(s) + α);
    * copy previous c(x) = (1 - ε) [x = token at the same h w, one latent frame earlier] + ε p(x |
      s); the first latent frame is scored by p(x | s).

    β, then α, then ε are chosen to maximize the likelihood of the training grids. Each grid is
    scored with the counts of the *other* groups (leave-one-group-out in closed form: the grid's own
    group is subtracted from the counts). The held-out grids do not influence the fit.

    Args:
        train: training grids of tokens 0 … K - 1.
        held_out: held-out grids of the same t h w.
        codebook_size: number of codes, K.
        train_groups: group of each training grid; grids of the same group are near-duplicates
            (windows of the same video) and are left out together. None makes every grid its own
            group.

    Raises:
        InputError: there are fewer than two groups or no held-out grids, grids differ in size, or
            tokens are out of range.
    """
    train, held_out = as_array(train, "training grids"), as_array(held_out, "held-out grids")
    _check(train, held_out, codebook_size, train_groups)
    groups = np.arange(len(train)) if train_groups is None else train_groups
    groups = np.unique(groups, return_inverse=True)[1]
    _, frames, rows, columns = train.shape
    positions = frames * rows * columns
    train_flat = train.reshape(len(train), positions).astype(np.int64)
    held_flat = held_out.reshape(len(held_out), positions).astype(np.int64)

    without_own = _counts_without_own_group(train_flat, groups, codebook_size)
    beta = _fit_smoothing(lambda beta: _unigram(without_own, beta, codebook_size))
    others = _unigram(without_own, beta, codebook_size)
    alpha = _fit_smoothing(lambda alpha: _per_position(without_own, others, alpha))
    fitted = _per_position(without_own, others, alpha).reshape(train_flat.shape)
    cells = rows * columns
    error_rate = 1.0
    if frames > 1:
        copied = train_flat[:, cells:] == train_flat[:, :-cells]
        error_rate = _fit_error_rate(copied, fitted[:, cells:])

    counts = _counts(train_flat, held_flat, codebook_size)
    unigram = _unigram(counts, beta, codebook_size)
    per_position = _per_position(counts, unigram, alpha)
    copy_previous = per_position.reshape(held_flat.shape).copy()
    if frames > 1:
        copied = held_flat[:, cells:] == held_flat[:, :-cells]
        copy_previous[:, cells:] = _mixture(copied, copy_previous[:, cells:], error_rate)
    curves = [
        -np.log2(probability).reshape(len(held_flat), frames, cells).mean(axis=(0, 2))
        for probability in (unigram, per_position, copy_previous)
    ]
    return PredictorScores(
        unigram=float(curves[0].mean()),
        per_position=float(curves[1].mean()),
        copy_previous=float(curves[2].mean()),
        unigram_curve=curves[0],
        per_position_curve=curves[1],
        copy_previous_curve=curves[2],
        copy_error_rate=error_rate,
        unigram_smoothing=beta,
        position_smoothing=alpha,
    )


def token_entropy(grids: Integer[np.ndarray, "n t h w"], codebook_size: int) -> float:
    """Return the entropy of the token frequencies, regardless of position, in bits per token.

    The entropy is the length of the best code that knows the frequencies in advance. The `unigram`
    score is higher, because its frequencies come from other clips.
    """
    grids = as_array(grids, "token grids")
    counts = np.bincount(grids.ravel(), minlength=codebook_size)
    shares = counts[counts > 0] / grids.size
    return float(-(shares * np.log2(shares)).sum())


def _check(
    train: np.ndarray, held_out: np.ndarray, codebook_size: int, groups: np.ndarray | None
) -> None:
    if train.shape[1:] != held_out.shape[1:]:
        raise InputError(
            f"predictors: training grids of t h w = {train.shape[1:]}, held-out grids of "
            f"{held_out.shape[1:]}; encode both with the same tokenizer"
        )
    if groups is not None and groups.shape != (len(train),):
        raise InputError(f"predictors: {groups.shape} groups for {len(train)} training grids")
    num_groups = len(train) if groups is None else len(np.unique(groups))
    if num_groups < 2 or not held_out.size or not train.size:
        raise InputError(
            f"predictors: {num_groups} training videos and {len(held_out)} held-out grids; "
            "at least 2 and 1 are needed"
        )
    for name, grids in (("training", train), ("held-out", held_out)):
        if grids.min() < 0 or grids.max() >= codebook_size:
            raise InputError(
                f"predictors: {name} tokens lie in {grids.min()} to {grids.max()}, the codebook's "
                f"in 0 to {codebook_size - 1}; they belong to another tokenizer"
            )


def _cell_keys(flat: np.ndarray, codebook_size: int) -> np.ndarray:
    return (np.arange(flat.shape[1]) * codebook_size + flat).ravel()


def _counts(train: np.ndarray, held_out: np.ndarray, codebook_size: int) -> _Counts:
    keys, numbers = np.unique(_cell_keys(train, codebook_size), return_counts=True)
    wanted = _cell_keys(held_out, codebook_size)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    tokens = np.bincount(train.ravel(), minlength=codebook_size)
    return _Counts(
        token=tokens[held_out.ravel()].astype(np.float64),
        token_total=float(train.size),
        cell=np.where(keys[place] == wanted, numbers[place], 0).astype(np.float64),
        cell_total=float(len(train)),
    )


def _counts_without_own_group(train: np.ndarray, groups: np.ndarray, codebook_size: int) -> _Counts:
    """Count how often each training token occurs outside its own group."""
    num_positions = train.shape[1]
    group_sizes = np.bincount(groups)[groups].repeat(num_positions).astype(np.float64)
    own = groups.repeat(num_positions)
    return _Counts(
        token=_seen_by_others(train.ravel(), own, codebook_size),
        token_total=train.size - num_positions * group_sizes,
        cell=_seen_by_others(_cell_keys(train, codebook_size), own, num_positions * codebook_size),
        cell_total=len(train) - group_sizes,
    )


def _seen_by_others(keys: np.ndarray, groups: np.ndarray, num_keys: int) -> np.ndarray:
    """Return, for each observation, how often its key occurs outside its own group."""
    _, place, total = np.unique(keys, return_inverse=True, return_counts=True)
    _, own_place, own = np.unique(groups * num_keys + keys, return_inverse=True, return_counts=True)
    return (total[place] - own[own_place]).astype(np.float64)


def _unigram(counts: _Counts, beta: float, codebook_size: int) -> np.ndarray:
    return (counts.token + beta / codebook_size) / (counts.token_total + beta)


def _per_position(counts: _Counts, unigram: np.ndarray, alpha: float) -> np.ndarray:
    return (counts.cell + alpha * unigram) / (counts.cell_total + alpha)


def _mixture(copied: np.ndarray, otherwise: np.ndarray, error_rate: float) -> np.ndarray:
    return (1 - error_rate) * copied + error_rate * otherwise


def _fit_smoothing(probabilities: Callable[[float], np.ndarray]) -> float:
    """Return the number of pseudo-observations that maximizes the likelihood."""

    def nats(log: float) -> float:
        return float(-np.log(probabilities(float(np.exp(log)))).mean())

    # The search is coarse at first, because the likelihood may have several maxima.
    least, most = np.log(SMOOTHING_RANGE)
    grid = np.linspace(least, most, 22)
    start = int(np.argmin([nats(log) for log in grid]))
    bounds = (grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)])
    return float(np.exp(_minimum(nats, bounds, 1e-4)))


def _fit_error_rate(copied: np.ndarray, otherwise: np.ndarray) -> float:
    """Return the most likely ε, at least 1 / (n + 2) away from 0 and 1, for n observations."""
    least = 1 / (copied.size + 2)
    return _minimum(
        lambda rate: float(-np.log(_mixture(copied, otherwise, rate)).mean()),
        (least, 1 - least),
        least / 10,
    )


def _minimum(
    function: Callable[[float], float], bounds: tuple[float, float], tolerance: float
) -> float:
    """Return the minimizer of a function of one variable (Brent's bounded method)."""
    options = {"xatol": tolerance}
    found: Any = minimize_scalar(function, bounds=bounds, method="bounded", options=options)
    return float(found.x)
