"""FVD uncertainty: intervals for model differences, standard errors, and the limit at infinite N.

Standard errors come from split halves: the source videos are split at random into two halves, and
the average of (a − b)² / 4 over many splits, where a and b are the scores of the halves, estimates
the variance. For independent videos, the expectation of this estimate is exactly half of Var(score
at N/2). This expectation equals the variance at N for any score that behaves like a mean, and is
larger, never smaller, if higher-order terms matter (Efron & Stein, "The Jackknife Estimate of
Variance", 1981). The bias of FVD is equal in both halves and cancels. docs/results.md reports the
coverage of this method and of the alternatives that were tried.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import stdtrit

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.grouped import GroupedFeatures

CONFIDENCE = 0.95
MIN_VIDEOS = 8  # fewer videos have fewer than 35 different splits into halves
SIZE_TOLERANCE = 0.01

# Fit of a + b/N: a subset has at least a quarter of the clips and CLEARANCE clips per feature.
SMALLEST_FRACTION = 0.25
CLEARANCE = 1.1
NUM_SIZES = 4
NUM_WINDOWS = 4
NUM_BLOCKS = 10


class Interval(NamedTuple):
    """An estimate, its standard error and its 95 % confidence interval."""

    estimate: float
    standard_error: float
    low: float
    high: float


class DifferenceInterval(NamedTuple):
    """FVD(real, a) - FVD(real, b), which is negative if a is closer to the real clips.

    Attributes:
        at_n: difference of the expected FVDs of both models at the same number of clips. The bias
            of FVD depends on the model, so `at_n` is not the difference at infinite N: at N = 256,
            a model with too little variety beats a perfect model.
        population: difference at infinite N, without the bias (∝ 1/N); None if half of the smallest
            set has no more clips than features, because the bias is then not proportional to 1/N.
        num_clips: number of clips in the smallest of the three sets.
    """

    at_n: Interval
    population: Interval | None
    num_clips: int


class InfiniteFVD(NamedTuple):
    """FVD extrapolated to infinitely many clips, with its standard error.

    Attributes:
        value: limit a of a + b/N; may be negative for a very good model.
        standard_error: standard error over source videos, by the block jackknife.
        bias: term b/N for all clips, the part of the plain FVD that is due to the limited number of
            clips.
    """

    value: float
    standard_error: float
    bias: float


def difference_interval(
    real: GroupedFeatures,
    a: GroupedFeatures,
    b: GroupedFeatures,
    ddof: int,
    seed: int = 0,
    num_splits: int = 100,
) -> DifferenceInterval:
    """Return FVD(real, a) - FVD(real, b) with 95 % intervals.

    Both candidates are compared with the same halves of the real videos. The candidates themselves
    are split independently, or jointly if both have the same video names. At d = 400 and N = 2048,
    a split takes 0.09 s on one core.

    Args:
        ddof: 0 or 1; see `FVDProtocol`.
        seed: seed of the random splits; the same seed and videos give the same interval, regardless
            of the order of the clips.
        num_splits: number of random splits into halves; the relative error of the interval's width
            is 1 / √(2 num_splits).

    Raises:
        InputError: there are fewer than 8 source videos in a set, the candidates' numbers of clips
            differ by more than 1 %, or the numbers of features differ.
    """
    num_a, num_b = len(a.features), len(b.features)
    if abs(num_a - num_b) > SIZE_TOLERANCE * max(num_a, num_b):
        raise InputError(
            f"FVD depends on the number of clips, found {num_a} and {num_b}; score "
            f"{min(num_a, num_b)} of both"
        )
    halves = half_sample_distances(real, (a, b), ddof, seed, num_splits)
    moments = Moments.of(real.features)
    full_a, full_b = (
        frechet_distance(moments, Moments.of(candidate.features), ddof) for candidate in (a, b)
    )
    num_clips = min(len(real.features), num_a, num_b)
    has_limit = num_clips > 2 * real.features.shape[1]
    difference = full_a - full_b
    differences = halves[..., 0] - halves[..., 1]
    return DifferenceInterval(
        interval_at_n(difference, differences),
        population_interval(difference, differences) if has_limit else None,
        num_clips,
    )


def interval_at_n(full: float, halves: Float64[np.ndarray, "splits 2"]) -> Interval:
    """Return the confidence interval of a score's expectation at the scored number of clips.

    The interval is Student's t interval, extended on the side towards which the half scores are
    skewed: the error of a squared shift of the mean grows with the shift, so a symmetric interval
    is too short whenever the estimated shift is too small. For a mean with standard error e, the
    end of (mean ± 1.96 e)² lies (1.96² + 1) / 6 · skewness standard errors further out (the first
    term of the Edgeworth expansion).

    Args:
        full: score on all clips.
        halves: scores on both halves of each split.
    """
    error = split_half_error(halves)
    reach = float(stdtrit(len(halves), (1 + CONFIDENCE) / 2))
    stretch = _skewness(halves) * (reach**2 + 1) / 6
    low = full - error * (reach - min(stretch, 0.0))
    return Interval(full, error, low, full + error * (reach + max(stretch, 0.0)))


def _skewness(values: Float64[np.ndarray, "splits 2"]) -> float:
    deviations = values - values.mean()
    variance = float(np.mean(deviations**2))
    return float(np.mean(deviations**3)) / variance**1.5 if variance > 0 else 0.0


def population_interval(full: float, halves: Float64[np.ndarray, "splits 2"]) -> Interval:
    """Return the interval of a score's limit at infinite N, for a bias proportional to 1/N.

    The bias at N/2 is then twice the bias at N, so the mean half score minus the full score
    estimates the bias at N.
    """
    return interval_at_n(2 * full - float(halves.mean()), halves)


def split_half_error(halves: Float64[np.ndarray, "splits 2"]) -> float:
    """Return a score's standard error, given the scores on both halves of each split."""
    return float(np.sqrt(np.mean(np.square(halves[:, 0] - halves[:, 1])) / 4))


def describe_difference(difference: DifferenceInterval, name_a: str, name_b: str) -> str:
    """Say in one sentence which model has the lower FVD, or that the two cannot be told apart."""
    _, _, low, high = difference.at_n
    count = f"at N = {difference.num_clips}"
    interval = f"95 % interval {low:.1f} to {high:.1f}"
    if low <= 0 <= high:
        return (
            f"{name_a} and {name_b} cannot be told apart {count}: their FVDs differ by "
            f"{difference.at_n.estimate:.1f} ({interval}), which contains zero."
        )
    better, worse = (name_a, name_b) if high < 0 else (name_b, name_a)
    sentence = (
        f"{better} has a lower FVD than {worse} {count}, by "
        f"{abs(difference.at_n.estimate):.1f} (FVD({name_a}) - FVD({name_b}): {interval})"
    )
    limit = difference.population
    if limit is None:
        return f"{sentence}; so few clips favour models of little variety, and more may reverse it."
    if limit.low <= 0 <= limit.high or (limit.high < 0) != (high < 0):
        return f"{sentence}, but not with certainty once the bias at this N is removed."
    return f"{sentence}, and also once the bias at this N is removed."


def jackknife_error(
    real: GroupedFeatures, fake: GroupedFeatures, ddof: int, seed: int = 0, num_splits: int = 100
) -> float:
    """Return the standard error of an FVD, from split halves.

    The error is relative to the expectation at this N, not to the limit at infinite N. For the
    arguments, see `difference_interval`.

    Raises:
        InputError: as for `half_sample_distances`.
    """
    return split_half_error(half_sample_distances(real, (fake,), ddof, seed, num_splits)[..., 0])


def half_sample_distances(
    real: GroupedFeatures,
    candidates: Sequence[GroupedFeatures],
    ddof: int,
    seed: int,
    num_splits: int,
) -> Float64[np.ndarray, "splits 2 k"]:
    """Return each candidate's FVD on both halves of random splits of the source videos.

    Raises:
        InputError: a set has fewer than 8 source videos, or the numbers of features differ.
    """
    sets = (real, *candidates)
    names, codes = _name_codes(sets, MIN_VIDEOS)
    strata = _strata(len(names), codes)
    features = [one.features.astype(np.float64) for one in sets]
    random = np.random.default_rng([seed, 0x5917])
    distances = np.empty((num_splits, 2, len(candidates)))
    for split in range(num_splits):
        first = _random_half(len(names), strata, random)
        for side, chosen in enumerate((first, ~first)):
            half = [values[chosen[code]] for values, code in zip(features, codes, strict=True)]
            distances[split, side] = resampled_distances(half[0], half[1:], ddof)
    return distances


def _name_codes(
    sets: Sequence[GroupedFeatures], min_videos: int
) -> tuple[Sequence[str], list[Int[np.ndarray, "_"]]]:
    """Return the sorted names of all videos, and for each set the index of each clip's video."""
    for one in sets:
        if len(one.groups) != len(one.features):
            raise ValueError(f"{len(one.groups)} groups for {len(one.features)} clips")
        if one.features.shape[1] != sets[0].features.shape[1]:
            raise InputError(
                f"the sets have {sets[0].features.shape[1]} and {one.features.shape[1]} features; "
                "they come from different networks"
            )
        if len(set(one.groups)) < min_videos:
            raise InputError(
                f"an error over source videos needs at least {min_videos} of them in each set, "
                f"found {len(set(one.groups))}"
            )
    names = sorted({name for one in sets for name in one.groups})
    places = {name: place for place, name in enumerate(names)}
    return names, [np.array([places[name] for name in one.groups]) for one in sets]


def _strata(num_names: int, codes: Sequence[Int[np.ndarray, "_"]]) -> list[Int[np.ndarray, "_"]]:
    """Group the videos that occur in the same sets; return the video indices of each group."""
    member = np.zeros((num_names, len(codes)), dtype=bool)
    for column, code in enumerate(codes):
        member[code, column] = True
    _, stratum = np.unique(member, axis=0, return_inverse=True)
    stratum = stratum.ravel()
    return [np.flatnonzero(stratum == number) for number in range(stratum.max() + 1)]


def _random_half(
    num_names: int, strata: Sequence[Int[np.ndarray, "_"]], random: np.random.Generator
) -> Bool[np.ndarray, "_"]:
    """Return a mask of the videos in the first half, a random half of each group (stratum)."""
    first = np.zeros(num_names, dtype=bool)
    for places in strata:
        size = (len(places) + int(random.integers(2))) // 2
        first[random.permutation(places)[:size]] = True
    return first


class _Gaussian(NamedTuple):
    """Mean, trace and covariance; for few clips, R with Rᵀ R = covariance instead of the latter."""

    mean: Float64[np.ndarray, "d"]
    trace: float
    root: Float64[np.ndarray, "r d"] | None
    covariance: Float64[np.ndarray, "d d"] | None


def resampled_distances(
    real: Float64[np.ndarray, "n d"], candidates: Sequence[Float64[np.ndarray, "_ d"]], ddof: int
) -> Float64[np.ndarray, "_"]:
    """Return each candidate's FVD, faster than `frechet_distance` and equal up to 1e-6.

    All candidates share the root R of the real covariance. The singular values that
    `frechet_distance` adds up are the square roots of the eigenvalues of R S Rᵀ, where S is the
    candidate's covariance.
    """
    reference = _gaussian(real, ddof)
    root = _root(reference)
    return np.array([_distance(reference, root, _gaussian(one, ddof)) for one in candidates])


def _gaussian(values: Float64[np.ndarray, "n d"], ddof: int) -> _Gaussian:
    mean = values.mean(axis=0)
    deviations = (values - mean) / np.sqrt(len(values) - ddof)
    if len(values) <= values.shape[1]:
        return _Gaussian(mean, float(np.vdot(deviations, deviations)), deviations, None)
    covariance = deviations.T @ deviations
    return _Gaussian(mean, float(np.trace(covariance)), None, covariance)


def _root(gaussian: _Gaussian) -> Float64[np.ndarray, "r d"]:
    if gaussian.covariance is None:
        assert gaussian.root is not None
        return gaussian.root
    try:
        return np.linalg.cholesky(gaussian.covariance).T
    except np.linalg.LinAlgError:  # singular: constant features or repeated clips
        values, vectors = np.linalg.eigh(gaussian.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0.0))).T


def _distance(
    real: _Gaussian, real_root: Float64[np.ndarray, "r d"], candidate: _Gaussian
) -> float:
    if candidate.covariance is not None:
        product = real_root @ candidate.covariance @ real_root.T
    else:
        assert candidate.root is not None
        cross = candidate.root @ real_root.T
        product = cross @ cross.T if len(cross) <= cross.shape[1] else cross.T @ cross
    squares = np.linalg.eigvalsh(product)
    threshold = squares[-1] * len(squares) * np.finfo(np.float64).eps
    overlap = np.sqrt(squares[squares > max(threshold, 0.0)]).sum()
    shift = real.mean - candidate.mean
    return float(shift @ shift + real.trace + candidate.trace - 2.0 * overlap)


def fvd_at_infinity(
    real: GroupedFeatures, fake: GroupedFeatures, ddof: int, seed: int = 0
) -> InfiniteFVD:
    """Return the limit of FVD at infinite N with its standard error, and the bias at this N.

    The limit is a in a fit of a + b/N to subsets of the clips, as in Chong & Forsyth, "Effectively
    Unbiased FID and Inception Score", 2020. The subsets are cyclic windows of a shuffled list of
    the source videos. All subsets have more clips than features (N > d), because below N = d the
    bias is not proportional to 1/N.

    Args:
        ddof: 0 or 1; see `FVDProtocol`.
        seed: seed for shuffling the source videos.

    Raises:
        InputError: a set has too few clips for the number of features, or fewer than 20 source
            videos, or the numbers of features differ.
    """
    _check_enough_clips(real, fake)
    names, codes = _name_codes((real, fake), 2 * NUM_BLOCKS)
    order = np.random.default_rng([seed, 0x1F1D]).permutation(len(names))
    places = [_places(order[code]) for code in codes]
    features = [one.features.astype(np.float64) for one in (real, fake)]
    value, bias = _fit(features, places, ddof)
    left_out = []
    for block in range(NUM_BLOCKS):
        low, high = block / NUM_BLOCKS, (block + 1) / NUM_BLOCKS
        kept = [(place < low) | (place >= high) for place in places]
        rest = [values[keep] for values, keep in zip(features, kept, strict=True)]
        rest_places = [_places(place[keep]) for place, keep in zip(places, kept, strict=True)]
        left_out.append(_fit(rest, rest_places, ddof)[0])
    error = float(np.sqrt((NUM_BLOCKS - 1) * np.var(left_out)))
    return InfiniteFVD(value, error, bias)


def _check_enough_clips(real: GroupedFeatures, fake: GroupedFeatures) -> None:
    num_features = real.features.shape[1]
    fewest = min(len(real.features), len(fake.features))
    least = int(np.ceil(num_features * CLEARANCE**2 * NUM_BLOCKS / (NUM_BLOCKS - 1)))
    if fewest < least:
        raise InputError(
            f"FVD at infinite N needs at least {least} clips for {num_features} features, found "
            f"{fewest}: up to N = {num_features} the bias does not fall like 1/N, and just "
            "above that there is too little to fit a + b/N to"
        )


def _places(values: Float[np.ndarray, "n"] | Int[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    distinct, ranks = np.unique(values, return_inverse=True)
    return ranks.ravel() / len(distinct)


def _fit(
    features: Sequence[Float64[np.ndarray, "_ d"]],
    places: Sequence[Float64[np.ndarray, "_"]],
    ddof: int,
) -> tuple[float, float]:
    """Fit a line a + b/N to the scores of subsets by least squares, and return a and b/N."""
    fewest, num_features = min(map(len, features)), features[0].shape[1]
    smallest = max(SMALLEST_FRACTION, CLEARANCE * num_features / fewest)
    inverse = np.linspace(1.0, 1.0 / smallest, NUM_SIZES + 1)
    scores = [resampled_distances(features[0], features[1:], ddof)[0]]
    for fraction in 1.0 / inverse[1:]:
        windows = []
        for start in np.arange(NUM_WINDOWS) / NUM_WINDOWS:
            chosen = [(place - start) % 1.0 < fraction for place in places]
            part = [values[keep] for values, keep in zip(features, chosen, strict=True)]
            windows.append(resampled_distances(part[0], part[1:], ddof)[0])
        scores.append(np.mean(windows))
    slope, limit = np.polyfit(inverse, scores, 1)
    return float(limit), float(slope)
