"""Kernel distances between feature distributions: KVD, which is unbiased at any N, and JEDi."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from video_vq.errors import InputError
from video_vq.nn.arrays import as_array

CHUNK = 1024
MIN_CLIPS = 3  # the jackknife leaves out one clip, and a distance needs two clips in each set


class KernelDistance(NamedTuple):
    """Squared maximum mean discrepancy and its standard error; the value may be negative."""

    value: float
    standard_error: float


def kernel_distance(
    real: Float[np.ndarray, "n _"], fake: Float[np.ndarray, "m _"]
) -> KernelDistance:
    """Return the unbiased squared MMD with the kernel (x·y / d + 1)³, and its standard error.

    The kernel is that of KID (Bińkowski et al., "Demystifying MMD GANs", 2018, sec. 4), but the
    mean runs over all pairs instead of random subsets, in float64. The standard error comes from
    the two-sample jackknife, which is accurate if the distributions differ, and 1.6 times too large
    if the distributions are equal (measured at N = 256).

    Raises:
        InputError: a set has fewer than 3 clips, or the numbers of features differ.
    """
    real, fake = as_array(real, "real features"), as_array(fake, "fake features")
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise InputError(
            f"KVD compares features of one network, found {real.shape} and {fake.shape}"
        )
    n, m = len(real), len(fake)
    if min(n, m) < MIN_CLIPS:
        raise InputError(f"KVD needs at least {MIN_CLIPS} clips on each side, found {n} and {m}")
    x, y = real.astype(np.float64), fake.astype(np.float64)
    within_x, across_x = _row_sums(x, x, True), _row_sums(x, y, False)
    within_y, across_y = _row_sums(y, y, True), _row_sums(y, x, False)
    sum_x, sum_y, sum_xy = within_x.sum(), within_y.sum(), across_x.sum()

    value = sum_x / (n * (n - 1)) + sum_y / (m * (m - 1)) - 2 * sum_xy / (n * m)
    # The value with each vector left out in turn, from the row sums.
    without_x = (
        (sum_x - 2 * within_x) / ((n - 1) * (n - 2))
        + sum_y / (m * (m - 1))
        - 2 * (sum_xy - across_x) / ((n - 1) * m)
    )
    without_y = (
        sum_x / (n * (n - 1))
        + (sum_y - 2 * within_y) / ((m - 1) * (m - 2))
        - 2 * (sum_xy - across_y) / (n * (m - 1))
    )
    variance = (n - 1) * without_x.var() + (m - 1) * without_y.var()
    return KernelDistance(float(value), float(np.sqrt(variance)))


def jedi_distance(real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"]) -> float:
    """Return JEDi for V-JEPA features: 100 times the squared MMD with the kernel (x·y / d)².

    The computation follows the code of Luo et al., "Beyond FVD" (2024), in float64: pairs of a
    vector with itself are included, so the value is biased upwards by O(1/N) and never negative.

    Raises:
        InputError: the numbers of features differ.
    """
    x, y = as_array(real, "real features"), as_array(fake, "fake features")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"JEDi compares features of one network, found {x.shape} and {y.shape}")
    # The mean of (x·y)² over all pairs is the product of both second moments.
    difference = _second_moment(x) - _second_moment(y)
    return 100.0 * float(np.square(difference).sum()) / x.shape[1] ** 2


def _second_moment(x: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "d d"]:
    values = x.astype(np.float64)
    return values.T @ values / len(values)


def _row_sums(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"], skip_diagonal: bool
) -> Float64[np.ndarray, "n"]:
    """Return each row's kernel sum over all rows of y, or all but the same row if skip_diagonal."""
    sums = np.empty(len(x))
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        kernel = (x[rows] @ y.T / x.shape[1] + 1.0) ** 3
        sums[rows] = kernel.sum(axis=1)
        if skip_diagonal:
            sums[rows] -= np.diagonal(kernel, offset=start)
    return sums
