from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.grouped import GroupedFeatures
from video_vq.metrics.uncertainty import (
    DifferenceInterval,
    Interval,
    describe_difference,
    difference_interval,
    fvd_at_infinity,
    half_sample_distances,
    interval_at_n,
    jackknife_error,
    population_interval,
    resampled_distances,
    split_half_error,
)

SMALL = 12


def deviations(dimension: int = SMALL, exponent: float = 1.5, trace: float = 100.0) -> np.ndarray:
    eigenvalues = np.arange(1, dimension + 1) ** -exponent
    return np.sqrt(eigenvalues * trace / eigenvalues.sum())


def grouped(features: np.ndarray, name: str) -> GroupedFeatures:
    return GroupedFeatures(features, [f"{name} {i}" for i in range(len(features))])


def draw(
    random: np.random.Generator, count: int, scales: Sequence[float], dimension: int = SMALL
) -> list[GroupedFeatures]:
    """Return features of real clips, and of models with `scales` times the real deviations."""
    spread = deviations(dimension)
    return [
        grouped(random.normal(size=(count, dimension)) * spread * scale, f"set {number}")
        for number, scale in enumerate((1.0, *scales))
    ]


def shuffled(one: GroupedFeatures, seed: int) -> GroupedFeatures:
    order = np.random.default_rng(seed).permutation(len(one.features))
    return GroupedFeatures(one.features[order], [one.groups[int(place)] for place in order])


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("num_real", "num_fake"), [(50, 60), (50, 9), (9, 50), (9, 7), (7, 9)])
def test_distances_for_resampling_are_frechet_distances(num_real, num_fake, ddof):
    random = np.random.default_rng(0)
    real = random.normal(size=(num_real, SMALL)) * deviations()
    fakes = [random.normal(size=(num_fake, SMALL)) * deviations() + shift for shift in (0, 1)]
    expected = [frechet_distance(Moments.of(real), Moments.of(fake), ddof) for fake in fakes]
    np.testing.assert_allclose(resampled_distances(real, fakes, ddof), expected, rtol=1e-6)


def test_distances_for_resampling_take_features_that_never_change():
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(2, 50, SMALL))
    real[:, 3], fake[:, 3] = 1.0, 1.5
    expected = frechet_distance(Moments.of(real), Moments.of(fake), 0)
    assert resampled_distances(real, [fake], 0)[0] == pytest.approx(expected, rel=1e-6)


def test_intervals_have_their_closed_form():
    halves = np.array([[11.0, 13.0], [12.0, 12.0]])
    assert split_half_error(halves) == pytest.approx(np.sqrt(0.5))
    reach = 4.302653 * np.sqrt(0.5)  # Student's t with 2 degrees of freedom
    assert interval_at_n(7.0, halves) == pytest.approx((7, np.sqrt(0.5), 7 - reach, 7 + reach))
    # Halves are 5 above the whole, so the whole is 5 above the limit.
    assert population_interval(7.0, halves)[:2] == pytest.approx((2, np.sqrt(0.5)))


def test_the_interval_of_a_squared_mean_is_stretched_as_its_closed_form():
    # Means of 0 ± 1 about 2.8: halves of the clips have means off by as much, up and down.
    random = np.random.default_rng(12)
    held, held_symmetric = [], []
    for _ in range(400):
        mean, halves = 2.8 + random.normal(), random.normal(size=(100, 1)) * [1, -1]
        found = interval_at_n(mean**2, np.square(mean + halves))
        expected = 2.8**2 + 1
        held.append(found.low <= expected <= found.high)
        held_symmetric.append(abs(expected - found.estimate) <= 1.98 * found.standard_error)
    assert np.mean(held) >= 0.93
    assert np.mean(held_symmetric) < 0.91


def test_of_means_the_error_is_the_textbook_one():
    # One direction, equal spreads: the distance of sets with means m and 0 is m² to first order.
    random = np.random.default_rng(1)
    noise = random.normal(size=(2000, 1))
    real, fake = grouped(np.zeros((2000, 1)), "real"), grouped(noise * 1e-3 + 5.0, "fake")
    error = jackknife_error(real, fake, 0, num_splits=400)
    assert error == pytest.approx(2 * 5.0 * 1e-3 / np.sqrt(2000), rel=0.12)


def test_the_squared_error_has_the_expectation_of_half_the_variance_at_half_n():
    random = np.random.default_rng(2)
    squares, halved = [], []
    for _ in range(100):
        real, fake = draw(random, 40, [0.7])
        squares.append(jackknife_error(real, fake, 0, num_splits=5) ** 2)
        real, fake = draw(random, 20, [0.7])
        halved.append(resampled_distances(real.features, [fake.features], 0)[0])
    assert np.mean(squares) == pytest.approx(np.var(halved) / 2, rel=0.3)


def test_the_interval_depends_on_the_seed_and_the_videos_alone():
    sets = draw(np.random.default_rng(3), 40, [1.0, 0.7])
    first = difference_interval(*sets, ddof=1, seed=5, num_splits=10)
    again = difference_interval(*sets, ddof=1, seed=5, num_splits=10)
    other = difference_interval(*sets, ddof=1, seed=6, num_splits=10)
    mixed = [shuffled(one, number) for number, one in enumerate(sets)]
    reordered = difference_interval(*mixed, ddof=1, seed=5, num_splits=10)

    assert first == again
    assert first.at_n.estimate == pytest.approx(other.at_n.estimate)
    assert first.at_n.standard_error != other.at_n.standard_error
    assert reordered.at_n == pytest.approx(first.at_n, rel=1e-6)
    real, a, b = (Moments.of(one.features) for one in sets)
    expected = frechet_distance(real, a, 1) - frechet_distance(real, b, 1)
    assert first.at_n.estimate == pytest.approx(expected, rel=1e-12)


def test_clips_of_one_video_count_as_one():
    sets = draw(np.random.default_rng(4), 40, [1.0, 0.7])
    copies = [
        GroupedFeatures(np.repeat(one.features, 3, axis=0), np.repeat(one.groups, 3).tolist())
        for one in sets
    ]
    once = difference_interval(*sets, ddof=0, num_splits=50)
    thrice = difference_interval(*copies, ddof=0, num_splits=50)
    assert thrice.at_n == pytest.approx(once.at_n, rel=1e-6)

    apart = [grouped(one.features, f"copies {number}") for number, one in enumerate(copies)]
    naive = difference_interval(*apart, ddof=0, num_splits=50)
    assert naive.at_n.standard_error < 0.75 * once.at_n.standard_error


def test_pairing_narrows_the_interval_of_reconstructions_of_the_same_clips():
    random = np.random.default_rng(5)
    real = random.normal(size=(200, SMALL)) * deviations()
    a = grouped(real * 0.9 + random.normal(size=real.shape) * 0.2, "real")
    b = grouped(real * 0.8 + random.normal(size=real.shape) * 0.2, "real")
    paired = difference_interval(grouped(real, "real"), a, b, ddof=0)
    apart = difference_interval(
        grouped(real, "real"), grouped(a.features, "a"), grouped(b.features, "b"), ddof=0
    )
    both = difference_interval(
        grouped(real, "real"), grouped(a.features, "same"), grouped(b.features, "same"), ddof=0
    )
    assert paired.at_n.estimate == apart.at_n.estimate
    assert paired.at_n.standard_error < 0.5 * apart.at_n.standard_error
    assert both.at_n.standard_error < 0.9 * apart.at_n.standard_error


def test_equal_candidates_cannot_be_told_apart_and_swapping_turns_the_sign():
    real, a, b = draw(np.random.default_rng(6), 60, [0.7, 1.0])
    same = difference_interval(real, a, a, ddof=0, num_splits=10)
    assert same.at_n == (0, 0, 0, 0)
    assert "cannot be told apart" in describe_difference(same, "a", "b")
    forth = difference_interval(real, a, b, ddof=0, num_splits=10).at_n
    back = difference_interval(real, b, a, ddof=0, num_splits=10).at_n
    assert back.estimate == -forth.estimate


def share_that_holds(
    count: int, num_draws: int, dimension: int, which: str, truth: float | None = None
) -> float:
    """Return the share of intervals that contain the true difference between two models.

    The models have 0.7 and 1 times the real deviations. If `truth` is None, the mean estimate
    over the draws takes its place, as the best estimate of the difference of E[FVD at N].
    """
    random = np.random.default_rng([count, dimension])
    found = []
    for number in range(num_draws):
        sets = draw(random, count, [0.7, 1.0], dimension)
        halves = half_sample_distances(sets[0], sets[1:], 0, number, num_splits=6)
        full = resampled_distances(*(sets[0].features, [one.features for one in sets[1:]]), 0)
        rule = {"at n": interval_at_n, "population": population_interval}[which]
        found.append(rule(float(full[0] - full[1]), halves[..., 0] - halves[..., 1]))
    if truth is None:
        truth = float(np.mean([interval.estimate for interval in found]))
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize("count", [10, 80])
def test_intervals_hold_the_difference_of_expected_fvds_in_93_of_100_draws(count):
    assert share_that_holds(count, 200, SMALL, "at n") >= 0.93


def test_intervals_without_bias_hold_the_difference_of_the_distributions():
    truth = 0.3**2 * np.square(deviations()).sum()
    assert share_that_holds(100, 200, SMALL, "population", truth) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("count", "num_draws"), [(256, 200), (2048, 60)])
def test_intervals_hold_the_difference_of_expected_fvds_at_400_features(count, num_draws):
    assert share_that_holds(count, num_draws, 400, "at n") >= 0.93


def test_at_400_features_and_256_clips_the_bias_hides_the_order_of_two_models():
    # What `population` is None for: the model of 0.8 times the spread is at FVD 100, the perfect
    # one at 0, and yet the perfect one scores worse.
    random = np.random.default_rng(7)
    spread = deviations(400, 1.0, 2500.0)
    real, perfect, narrow = random.normal(size=(3, 256, 400)) * spread
    found = difference_interval(
        grouped(real, "real"),
        grouped(narrow * 0.8, "narrow"),
        grouped(perfect, "perfect"),
        ddof=0,
        num_splits=10,
    )
    assert found.at_n.high < 0
    assert found.population is None
    assert "more may reverse it" in describe_difference(found, "narrow", "perfect")


def sentence(at_n: tuple[float, float], population: tuple[float, float] | None) -> str:
    def interval(low: float, high: float) -> Interval:
        return Interval((low + high) / 2, 1.0, low, high)

    limit = None if population is None else interval(*population)
    return describe_difference(DifferenceInterval(interval(*at_n), limit, 2048), "ours", "theirs")


@pytest.mark.parametrize(
    ("at_n", "population", "expected"),
    [
        ((-2, 4), (-3, 3), "ours and theirs cannot be told apart at N = 2048"),
        ((-6, -2), (-6, -2), "ours has a lower FVD than theirs at N = 2048, by 4.0"),
        ((2, 6), (2, 6), "theirs has a lower FVD than ours at N = 2048, by 4.0"),
        ((2, 6), (2, 6), "and also once the bias at this N is removed."),
        ((2, 6), (-1, 3), "but not with certainty once the bias at this N is removed."),
        ((2, 6), (-6, -2), "but not with certainty once the bias at this N is removed."),
        ((2, 6), None, "so few clips favour models of little variety, and more may reverse it."),
    ],
)
def test_the_sentence_says_what_is_known(at_n, population, expected):
    assert expected in sentence(at_n, population)


def test_the_error_of_one_fvd_is_the_spread_of_repeated_draws_and_never_much_less():
    random = np.random.default_rng(8)
    values, errors = [], []
    for _ in range(100):
        real, fake = draw(random, 60, [0.6])
        values.append(resampled_distances(real.features, [fake.features], 0)[0])
        errors.append(jackknife_error(real, fake, 0, num_splits=6))
    assert 0.85 < np.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.5


def test_at_infinity_the_bias_is_gone_and_the_error_is_that_of_repeated_draws():
    random = np.random.default_rng(9)
    found, plain = [], []
    for number in range(16):
        real, fake = draw(random, 120, [0.8])
        found.append(fvd_at_infinity(real, fake, 0, seed=number))
        plain.append(resampled_distances(real.features, [fake.features], 0)[0])
    truth = 0.2**2 * np.square(deviations()).sum()
    values, errors = (np.array([one[i] for one in found]) for i in (0, 1))
    spread = values.std(ddof=1)
    assert abs(values.mean() - truth) < 3 * spread / np.sqrt(len(found))
    assert np.mean(plain) - truth > 6 * spread / np.sqrt(len(found))
    assert 0.6 < np.sqrt(np.mean(np.square(errors))) / spread < 2.0


def test_at_infinity_a_straight_line_is_found_exactly_and_order_does_not_matter():
    # Constant clips: the distance is the squared shift at every N, so there is no bias to fit.
    real = grouped(np.zeros((60, 3)), "real")
    fake = grouped(np.ones((60, 3)), "fake")
    assert fvd_at_infinity(real, fake, 0) == pytest.approx((3.0, 0.0, 0.0), abs=1e-10)

    sets = draw(np.random.default_rng(10), 60, [0.8])
    expected = fvd_at_infinity(*sets, ddof=0, seed=1)
    mixed = [shuffled(one, number) for number, one in enumerate(sets)]
    assert fvd_at_infinity(*mixed, ddof=0, seed=1) == pytest.approx(expected, rel=1e-6)


def test_too_few_clips_for_the_limit_are_refused_with_the_number_needed():
    def of(count: int) -> GroupedFeatures:
        return grouped(np.zeros((count, 400)), "video")

    with pytest.raises(
        InputError, match="at least 538 clips for 400 features, found 400: up to N = 400"
    ):
        fvd_at_infinity(of(600), of(400), 0)
    with pytest.raises(InputError, match="at least 538 clips for 400 features, found 450"):
        fvd_at_infinity(of(450), of(600), 0)


def test_what_cannot_be_compared_is_refused():
    real, a, b = draw(np.random.default_rng(11), 40, [1.0, 0.7])
    with pytest.raises(InputError, match="found 40 and 30; score 30 of both"):
        difference_interval(real, a, grouped(b.features[:30], "b"), 0)
    with pytest.raises(InputError, match="at least 8 of them in each set, found 2"):
        jackknife_error(real, GroupedFeatures(a.features, ["x", "y"] * 20), 0)
    with pytest.raises(InputError, match="different networks"):
        jackknife_error(real, grouped(a.features[:, :5], "a"), 0)
    with pytest.raises(ValueError, match="3 groups for 40 clips"):
        jackknife_error(real, GroupedFeatures(a.features, ["x", "y", "z"]), 0)


def test_sets_may_differ_by_one_clip_in_a_hundred_and_no_more():
    random = np.random.default_rng(0)
    sets = {count: grouped(random.normal(size=(count, 2)), "set") for count in (98, 99, 100, 101)}
    for a, b in ((100, 99), (99, 100), (100, 100)):  # 1 % of the larger one, exactly
        difference_interval(sets[101], sets[a], sets[b], 1, num_splits=2)
    for a, b in ((100, 98), (98, 100), (99, 101)):
        with pytest.raises(InputError, match=f"found {a} and {b}; score {min(a, b)} of both"):
            difference_interval(sets[101], sets[a], sets[b], 1, num_splits=2)


@pytest.mark.parametrize("smallest", [0, 1, 2])
def test_the_limit_is_known_from_more_than_twice_as_many_clips_as_features(smallest):
    random = np.random.default_rng(0)
    dimension = 60
    for count, known in ((2 * dimension, False), (2 * dimension + 1, True)):
        sizes = [2 * dimension + 1] * 3
        sizes[smallest] = count
        sets = [
            grouped(random.normal(size=(size, dimension)), f"set {number}")
            for number, size in enumerate(sizes)
        ]
        found = difference_interval(*sets, ddof=1, num_splits=2)
        assert (found.population is not None) == known
        assert found.num_clips == count


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize("values", [[0.0, 1.0, 0.0, 0.0, 9.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
def test_an_interval_is_stretched_to_the_side_of_the_skew_and_never_shortened(mirror, values):
    halves = mirror * np.array(values).reshape(-1, 2)
    estimate, error, low, high = interval_at_n(mirror * 2.5, halves)
    reach = stats.t.ppf(0.975, len(halves))
    stretch = stats.skew(halves.ravel()) * (reach**2 + 1) / 6
    assert estimate == mirror * 2.5
    assert error == pytest.approx(np.sqrt(np.square(np.diff(halves)).mean() / 4))
    towards_low, towards_high = max(-stretch, 0), max(stretch, 0)
    assert estimate - low == pytest.approx(error * (reach + towards_low))
    assert high - estimate == pytest.approx(error * (reach + towards_high))
    is_skewed = values[-1] == 1.0
    assert (max(towards_low, towards_high) > 1) == is_skewed
