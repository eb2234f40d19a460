import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance

DIMENSION = 60


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    """Return moments of 10¹² vectors, so that ddof and the rank bound do not matter."""
    count = 10**12
    return Moments(count, mean, covariance * count)


def rotated(eigenvalues: np.ndarray, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(len(eigenvalues), len(eigenvalues))))
    covariance = (axes * eigenvalues) @ axes.T
    return (covariance + covariance.T) / 2


def falling_spectrum() -> np.ndarray:
    return 1000.0 * np.arange(1, DIMENSION + 1) ** -1.5


def features(seed: int, count: int, dimension: int = DIMENSION, mean: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    scale = np.arange(1, dimension + 1) ** -0.75
    return random.normal(size=(count, dimension)) * scale + mean


def test_equal_gaussians_are_at_distance_zero():
    mean, covariance = np.linspace(-3, 3, DIMENSION), rotated(falling_spectrum())
    distance = frechet_distance(gaussian(mean, covariance), gaussian(mean, covariance), 0)
    assert distance == pytest.approx(0, abs=1e-8)


def test_a_shifted_gaussian_is_at_the_squared_shift():
    covariance, shift = rotated(falling_spectrum()), np.linspace(0, 2, DIMENSION)
    distance = frechet_distance(
        gaussian(np.zeros(DIMENSION), covariance), gaussian(shift, covariance), 1
    )
    assert distance == pytest.approx(np.square(shift).sum(), abs=1e-8)


@pytest.mark.parametrize("scale", [0.0, 0.25, 9.0])
def test_a_scaled_gaussian_is_at_the_difference_of_the_spreads(scale):
    zero, covariance = np.zeros(DIMENSION), rotated(falling_spectrum())
    distance = frechet_distance(gaussian(zero, covariance), gaussian(zero, scale * covariance), 0)
    expected = (1 - np.sqrt(scale)) ** 2 * falling_spectrum().sum()
    assert distance == pytest.approx(expected, abs=1e-8)


def test_rank_deficient_gaussians_with_common_axes_have_their_closed_form():
    first, second = falling_spectrum(), np.linspace(0.1, 5, DIMENSION)
    first[DIMENSION // 2 :] = 0
    second[: DIMENSION // 4] = 0
    zero = np.zeros(DIMENSION)
    distance = frechet_distance(gaussian(zero, rotated(first)), gaussian(zero, rotated(second)), 0)
    expected = np.square(np.sqrt(first) - np.sqrt(second)).sum()
    assert distance == pytest.approx(expected, abs=1e-8)


def test_orthogonal_planes_are_at_the_sum_of_the_traces():
    first, second = np.zeros(DIMENSION), np.zeros(DIMENSION)
    first[:20], second[20:] = 3.0, 0.5
    zero = np.zeros(DIMENSION)
    distance = frechet_distance(gaussian(zero, rotated(first)), gaussian(zero, rotated(second)), 0)
    assert distance == pytest.approx(20 * 3.0 + 40 * 0.5, abs=1e-8)


def test_fewer_vectors_than_features_have_the_closed_form_of_two_points():
    # Of two vectors each: S = u uᵀ / 2 with u their difference (ddof 1), so tr (S_a S_b)^(1/2)
    # is |u·v| / 2.
    a, b = features(1, 2), features(2, 2)
    u, v = a[0] - a[1], b[0] - b[1]
    expected = np.square(a.mean(0) - b.mean(0)).sum() + (u @ u + v @ v) / 2 - abs(u @ v)
    distance = frechet_distance(Moments.of(a), Moments.of(b), ddof=1)
    assert distance == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("count", [2, 30, 500])
def test_a_set_is_at_distance_zero_from_itself_and_the_distance_is_symmetric(count):
    a, b = Moments.of(features(1, count)), Moments.of(features(2, count, mean=0.1))
    assert abs(frechet_distance(a, a, 0)) < 1e-10
    assert frechet_distance(a, b, 0) == pytest.approx(frechet_distance(b, a, 0), rel=1e-12)


@pytest.mark.parametrize("ddof", [0, 1])
def test_distance_agrees_with_a_matrix_square_root(ddof):
    a, b = features(1, 500), features(2, 400, mean=0.1)
    cov_a, cov_b = (np.cov(values, rowvar=False, ddof=ddof) for values in (a, b))
    root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    distance = frechet_distance(Moments.of(a), Moments.of(b), ddof)
    assert distance == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 49), max_size=4, unique=True), seed=st.integers(0, 1000))
def test_merged_moments_are_those_of_the_whole(cuts, seed):
    values = features(seed, 50, dimension=7, mean=100.0)
    parts = [Moments.of(part) for part in np.split(values, sorted(cuts))]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    whole = Moments.of(values)

    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(whole.covariance(1), np.cov(values, rowvar=False), rtol=1e-9)


@pytest.mark.parametrize(("ratio", "tolerance"), [(0, 1e-13), (5, 1e-11), (1000, 1e-7)])
def test_plain_sums_lose_only_the_digits_that_the_mean_costs(ratio, tolerance):
    def by_sums(values: np.ndarray) -> Moments:
        return Moments.from_sums(len(values), values.sum(0), values.T @ values)

    a, b = features(1, 300, 400, mean=ratio), features(2, 300, 400, mean=ratio) * 1.001
    exact = frechet_distance(Moments.of(a), Moments.of(b), 1)
    assert frechet_distance(by_sums(a), by_sums(b), 1) == pytest.approx(exact, rel=tolerance)


def test_broken_or_missing_features_are_refused():
    good = Moments.of(features(0, 5, 4))
    with pytest.raises(InputError, match="NaN"):
        Moments.of(np.array([[np.nan, 1.0]]))
    with pytest.raises(InputError, match="at least one"):
        Moments.of(np.zeros((0, 4)))
    with pytest.raises(InputError, match="at least one"):
        Moments.from_sums(0, np.zeros(4), np.zeros((4, 4)))
    with pytest.raises(InputError, match="more than 1 clips, found 1"):
        frechet_distance(Moments.of(features(0, 1, 4)), good, 1)
    with pytest.raises(InputError, match="different networks"):
        frechet_distance(good, Moments.of(features(0, 5, 3)), 1)
