"""Gaussian statistics of features, and the Fréchet distance between two Gaussians, in float64."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from video_vq.errors import InputError
from video_vq.nn.arrays import as_array


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter matrix of n feature vectors, which determine the Fréchet distance.

    Attributes:
        count: number of vectors, n.
        mean: mean of the vectors.
        scatter: sum of the outer products of the deviations from the mean.
    """

    count: int
    mean: Float64[np.ndarray, "d"]
    scatter: Float64[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> "Moments":
        """Return the moments of an array with one feature vector per row.

        Raises:
            InputError: the array is not n x d or has no rows, or a value is not finite.
        """
        features = as_array(features, "features")
        if features.ndim != 2 or len(features) == 0:
            raise InputError(
                f"statistics need at least one feature vector, found an array of {features.shape}"
            )
        values = features.astype(np.float64)
        mean = values.mean(axis=0)
        deviations = values - mean
        return cls(len(values), mean, deviations.T @ deviations)._checked()

    @classmethod
    def from_sums(
        cls, count: int, total: Float64[np.ndarray, "d"], outer: Float64[np.ndarray, "d d"]
    ) -> "Moments":
        """Return the moments, given the sums of the vectors and of their outer products.

        Both sums can be added across ranks. Subtracting the mean afterwards loses precision if
        |mean| is large compared with the standard deviation: 2·log10(|mean| / std) of the 16
        digits are lost.

        Raises:
            InputError: the count is 0, or a sum is not finite.
        """
        if count == 0:
            raise InputError("statistics need at least one feature vector, found none")
        mean = total / count
        scatter = outer - np.outer(mean, total)
        return cls(count, mean, (scatter + scatter.T) / 2)._checked()

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets combined (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def covariance(self, ddof: int) -> Float64[np.ndarray, "d d"]:
        """Return the covariance matrix, scatter / (n - ddof).

        Raises:
            InputError: n is not greater than ddof.
        """
        if self.count <= ddof:
            raise InputError(
                f"a covariance with ddof {ddof} needs more than {ddof} clips, found {self.count}"
            )
        return self.scatter / (self.count - ddof)

    def _checked(self) -> "Moments":
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scatter).all()):
            raise InputError("features hold NaN or infinity: the clips or the network are broken")
        return self


def frechet_distance(a: Moments, b: Moments, ddof: int) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance between two fitted Gaussians.

    The distance is |mu_a - mu_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2) (Dowson & Landau 1982).
    With S = L Lᵀ, the last trace is the sum of the singular values of L_aᵀ L_b. Unlike a matrix
    square root of S_a S_b, this sum stays accurate with fewer clips than features. The distance is
    symmetric. For equal moments, the result is zero up to rounding and may be slightly negative.

    Args:
        a, b: moments of features from the same network under the same protocol.
        ddof: 0 or 1; see `FVDProtocol`.

    Raises:
        InputError: `a` and `b` have different numbers of features, or too few clips for ddof.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"the two sets have {a.mean.size} and {b.mean.size} features; "
            "they come from different networks"
        )
    difference = a.mean - b.mean
    covariance_a, covariance_b = a.covariance(ddof), b.covariance(ddof)
    root_a = _root(covariance_a, a.count - 1)
    root_b = _root(covariance_b, b.count - 1)
    cross = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * cross
    return float(difference @ difference + spread)


def _root(covariance: Float64[np.ndarray, "d d"], max_rank: int) -> Float64[np.ndarray, "d r"]:
    """Return L with L Lᵀ = covariance and as many columns as the rank of the covariance.

    For a null direction, eigh returns an eigenvalue of about ±1e-16 times the largest eigenvalue.
    The square root, about 1e-8, is noise that would add up in the sum of singular values. Null
    directions are therefore dropped by the rule of numpy's matrix_rank, and n vectors never give a
    rank above n - 1.
    """
    values, vectors = np.linalg.eigh(covariance)
    threshold = values[-1] * len(values) * np.finfo(np.float64).eps
    rank = min(int((values > max(threshold, 0.0)).sum()), max_rank)
    keep = slice(len(values) - rank, None)
    return vectors[:, keep] * np.sqrt(values[keep])
