"""Tests of token predictors: sources of known entropy, and plain leave-one-out."""

import math

import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.metrics.predictors import score_predictors, token_entropy

GRID = (3, 2, 2)


def copying_source(number: int, codebook_size: int, change: float, seed: int) -> np.ndarray:
    """Return grids whose cells start uniform and are redrawn with rate `change` in each frame."""
    generator = np.random.default_rng(seed)
    frames = [generator.integers(0, codebook_size, (number, *GRID[1:]))]
    while len(frames) < GRID[0]:
        fresh = generator.integers(0, codebook_size, frames[0].shape)
        frames.append(np.where(generator.random(fresh.shape) < change, fresh, frames[-1]))
    return np.stack(frames, axis=1)


def test_a_copying_source_is_predicted_at_its_entropy_rate_by_copying_alone():
    k, change = 16, 0.3
    scores = score_predictors(
        copying_source(4000, k, change, 0), copying_source(4000, k, change, 1), k
    )
    kept, other = 1 - change + change / k, change / k
    later = -kept * math.log2(kept) - (k - 1) * other * math.log2(other)
    assert scores.copy_previous_curve == pytest.approx([4, later, later], rel=0.02)
    assert scores.copy_previous == pytest.approx((4 + 2 * later) / 3, rel=0.02)
    assert scores.copy_error_rate == pytest.approx(change, abs=0.01)
    assert scores.unigram == pytest.approx(4, rel=0.002)
    assert scores.per_position == pytest.approx(4, rel=0.005)
    assert scores.best == scores.copy_previous


def test_tokens_that_depend_on_their_place_alone_cost_nothing_per_position():
    k = 12
    places = np.arange(12).reshape(GRID)
    grids = np.broadcast_to(places, (200, *GRID))
    scores = score_predictors(grids, grids[:5], k)
    assert scores.unigram == pytest.approx(math.log2(12), rel=1e-6)
    assert scores.per_position < 1e-4
    assert scores.best == min(scores[:3])


def test_frequencies_are_coded_at_their_entropy():
    generator = np.random.default_rng(0)
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    train, held_out = generator.choice(4, size=(2, 3000, *GRID), p=probabilities)
    scores = score_predictors(train, held_out, 4)
    assert scores.unigram == pytest.approx(1.75, rel=0.01)
    assert scores.per_position == pytest.approx(1.75, rel=0.01)
    assert scores.unigram_curve.shape == (3,)
    assert scores.unigram_curve.mean() == pytest.approx(scores.unigram)


def test_entropy_is_that_of_the_frequencies_found():
    grids = np.repeat([0, 1, 5, 7], [16, 8, 4, 4]).reshape(2, 2, 2, 4)
    assert token_entropy(grids, 8) == pytest.approx(1.75)
    assert token_entropy(np.zeros((2, *GRID), int), 8) == 0
    scores = score_predictors(copying_source(50, 9, 0.5, 0), copying_source(50, 9, 0.5, 1), 9)
    assert token_entropy(copying_source(50, 9, 0.5, 1), 9) < scores.unigram


def literal_probabilities(
    train: np.ndarray, grids: np.ndarray, k: int, alpha: float, beta: float
) -> np.ndarray:
    """Return p(x | s) of every token of `grids`, counting from scratch for each token."""
    result = np.empty(grids.shape)
    for index, token in np.ndenumerate(grids):
        everywhere = (train == token).sum()
        unigram = (everywhere + beta / k) / (train.size + beta)
        here = (train[(slice(None), *index[1:])] == token).sum()
        result[index] = (here + alpha * unigram) / (len(train) + alpha)
    return result


def without_group(train: np.ndarray, groups: np.ndarray, k: int, alpha: float, beta: float):
    """Return the mean nats per token of the training grids, each group coded by the others."""
    nats = [
        -np.log(literal_probabilities(train[groups != g], train[groups == g], k, alpha, beta))
        for g in np.unique(groups)
    ]
    return np.concatenate(nats).mean()


def test_counts_and_leave_one_group_out_are_those_of_a_literal_count():
    k = 5
    generator = np.random.default_rng(3)
    weights = generator.dirichlet(np.full(k, 0.5), size=12)

    def draw(number: int) -> np.ndarray:
        rows = [generator.choice(k, size=number, p=weight) for weight in weights]
        return np.stack(rows, axis=1).reshape(number, *GRID)

    train, held_out = draw(12), draw(6)
    groups = np.array([0, 0, 0, 7, 7, 2, 3, 3, 4, 5, 5, 5])
    scores = score_predictors(train, held_out, k, groups)
    alpha, beta = scores.position_smoothing, scores.unigram_smoothing
    literal = -np.log2(literal_probabilities(train, held_out, k, alpha, beta))
    assert scores.per_position == pytest.approx(literal.mean(), rel=1e-9)
    assert scores.per_position_curve == pytest.approx(literal.mean(axis=(0, 2, 3)), rel=1e-9)
    fitted = without_group(train, groups, k, alpha, beta)
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert fitted < without_group(train, groups, k, alpha * factor, beta)


def test_near_duplicates_fool_the_smoothing_unless_they_are_grouped():
    generator = np.random.default_rng(0)
    k = 64
    train = generator.integers(0, k, (30, *GRID)).repeat(8, axis=0)  # eight windows of a video
    held_out = generator.integers(0, k, (200, *GRID))
    grouped = score_predictors(train, held_out, k, np.arange(30).repeat(8))
    fooled = score_predictors(train, held_out, k)
    assert grouped.per_position < 6.2 < 8 < fooled.per_position


def test_clips_of_one_latent_frame_have_nothing_to_copy():
    grids = np.random.default_rng(0).integers(0, 4, (50, 1, 2, 2))
    scores = score_predictors(grids, grids, 4)
    assert scores.copy_previous == scores.per_position
    assert scores.copy_error_rate == 1


def test_a_still_source_leaves_room_for_the_first_change():
    train = np.random.default_rng(0).integers(0, 4, (50, 1, 2, 2)).repeat(3, axis=1)
    held_out = train[:5].copy()
    held_out[0, 2, 0, 0] = (held_out[0, 2, 0, 0] + 1) % 4
    scores = score_predictors(train, held_out, 4)
    assert 0 < scores.copy_error_rate < 0.01
    assert np.isfinite(scores.copy_previous)


def test_tokens_never_seen_in_training_cost_finitely_much():
    train = np.zeros((4, *GRID), dtype=np.int64)
    scores = score_predictors(train, train + 7, 8)
    assert np.isfinite(scores[:3]).all()
    assert scores.unigram > 3


def test_grids_that_do_not_fit_are_refused():
    grids = np.zeros((4, *GRID), dtype=np.uint16)
    with pytest.raises(InputError, match="same tokenizer"):
        score_predictors(grids, grids[:, :2], 8)
    with pytest.raises(InputError, match="0 to 7"):
        score_predictors(grids, grids + np.uint16(8), 8)
    with pytest.raises(InputError, match="0 to 7"):
        score_predictors(grids.astype(np.int64) - 1, grids, 8)
    with pytest.raises(InputError, match="1 training videos"):
        score_predictors(grids[:1], grids, 8)
    with pytest.raises(InputError, match="1 training videos"):
        score_predictors(grids, grids, 8, np.zeros(4, dtype=np.int64))
    with pytest.raises(InputError, match="0 held-out"):
        score_predictors(grids, grids[:0], 8)
    with pytest.raises(InputError, match="groups"):
        score_predictors(grids, grids, 8, np.arange(3))
