import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.metrics import kernel
from video_vq.metrics.kernel import kernel_distance


def draw(random: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    return random.normal(size=(count, 8)) + shift


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    def k(u: np.ndarray, v: np.ndarray) -> float:
        return float((u @ v / len(u) + 1) ** 3)

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(k(u, v) for u in x for v in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def jackknife(x: np.ndarray, y: np.ndarray) -> float:
    n, m = len(x), len(y)
    without_x = [by_definition(np.delete(x, i, 0), y) for i in range(n)]
    without_y = [by_definition(x, np.delete(y, j, 0)) for j in range(m)]
    return float(np.sqrt((n - 1) * np.var(without_x) + (m - 1) * np.var(without_y)))


@pytest.mark.parametrize("chunk", [3, 1024])
def test_value_and_error_are_those_of_the_definition(chunk, monkeypatch):
    monkeypatch.setattr(kernel, "CHUNK", chunk)
    random = np.random.default_rng(0)
    x, y = draw(random, 9), draw(random, 6, 0.5)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(by_definition(x, y), rel=1e-10)
    assert found.standard_error == pytest.approx(jackknife(x, y), rel=1e-10)


@pytest.mark.parametrize("count", [10, 40])
def test_the_value_is_unbiased_at_any_number_of_clips(count):
    random = np.random.default_rng(1)
    values = np.array(
        [kernel_distance(draw(random, count), draw(random, count))[0] for _ in range(400)]
    )
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert (values < 0).any()


@pytest.mark.parametrize(("shift", "lowest", "highest"), [(0.0, 0.9, 1.7), (0.6, 0.85, 1.2)])
def test_the_standard_error_is_that_of_repeated_draws_and_not_too_small(shift, lowest, highest):
    random = np.random.default_rng(2)
    found = [kernel_distance(draw(random, 100), draw(random, 100, shift)) for _ in range(300)]
    spread = np.std([distance.value for distance in found])
    typical = np.mean([distance.standard_error for distance in found])
    assert lowest < typical / spread < highest


def test_the_distance_is_symmetric_and_ignores_the_order():
    random = np.random.default_rng(3)
    x, y = draw(random, 20), draw(random, 30, 1.0)
    value, error = kernel_distance(x, y)
    assert kernel_distance(y, x[::-1]) == pytest.approx((value, error), rel=1e-10)


def test_too_few_clips_or_another_network_are_refused():
    with pytest.raises(InputError, match="at least 3 clips on each side, found 2 and 5"):
        kernel_distance(np.zeros((2, 4)), np.zeros((5, 4)))
    with pytest.raises(InputError, match="one network"):
        kernel_distance(np.zeros((5, 4)), np.zeros((5, 3)))
