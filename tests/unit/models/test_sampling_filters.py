"""Tests of top-k, top-p and drawing against Hugging Face and plain Python, and of noise."""

import math
import random

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from video_vq.models.prior_config import SamplingSettings
from video_vq.models.sampling import (
    adjusted_logits,
    invert,
    keep_top_k,
    keep_top_p,
    uniform_noise,
)


def reference_top_k(logits: list[float], k: int) -> list[float]:
    """Imitate Hugging Face's TopKLogitsWarper: keep the k-th largest logit and all not below it."""
    kth = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    return [logit if logit >= kth else -math.inf for logit in logits]


def reference_top_p(logits: list[float], p: float) -> list[float]:
    """Imitate Hugging Face's TopPLogitsWarper with min_tokens_to_keep = 1.

    Tokens are sorted in ascending order, equal ones by index. Those whose cumulative probability
    is at most 1 - p are removed, except for the last token, which is always kept.
    """
    order = sorted(range(len(logits)), key=lambda index: logits[index])
    top = max(logits)
    masses = [math.exp(logits[index] - top) for index in order]
    kept, reached = list(logits), 0.0
    for index, mass in list(zip(order, masses, strict=True))[:-1]:
        reached += mass / math.fsum(masses)
        if reached <= 1 - p:
            kept[index] = -math.inf
    return kept


def random_distributions():
    """Yield 1,000 random rows of logits, a third of them with ties, each with a random k and p."""
    generator = random.Random(0)
    for trial in range(1000):
        size = generator.choice([2, 3, 10, 57, 256])
        spread = generator.choice([0.1, 1.0, 5.0])
        logits = [generator.gauss(0, spread) for _ in range(size)]
        if trial % 3 == 0:
            logits = [float(round(logit)) for logit in logits]
        k = generator.randint(1, size)
        yield torch.tensor([logits]), k, generator.uniform(0.01, 0.999)


def test_top_k_and_top_p_agree_with_their_definition_on_1000_random_distributions():
    for logits, k, p in random_distributions():
        row = logits[0].tolist()
        assert keep_top_k(logits, k)[0].tolist() == reference_top_k(row, k)
        assert keep_top_p(logits, p)[0].tolist() == reference_top_p(row, p)


def test_top_k_and_top_p_agree_with_hugging_face_on_1000_random_distributions():
    """At the edge of top-p, Hugging Face keeps the equal logit its unstable sort puts last."""
    ids = torch.LongTensor([[0]])

    def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        assert torch.equal(ours.sort().values, theirs.sort().values)
        if len(logits.unique()) == logits.shape[1]:
            assert torch.equal(ours, theirs)

    for logits, k, p in random_distributions():
        assert torch.equal(keep_top_k(logits, k), TopKLogitsWarper(k)(ids, logits))
        same(keep_top_p(logits, p), TopPLogitsWarper(p)(ids, logits))
        settings = SamplingSettings(temperature=0.3 + p, top_k=k, top_p=p)
        scaled = TemperatureLogitsWarper(0.3 + p)(ids, logits)
        both = TopPLogitsWarper(p)(ids, TopKLogitsWarper(k)(ids, scaled))
        same(adjusted_logits(logits, settings), both)


def test_temperature_comes_first_then_top_k_then_top_p():
    for logits, k, p in random_distributions():
        temperature = 0.3 + p
        settings = SamplingSettings(temperature=temperature, top_k=k, top_p=p)
        scaled = (logits / temperature)[0].tolist()
        expected = reference_top_p(reference_top_k(scaled, k), p)
        assert adjusted_logits(logits, settings)[0].tolist() == expected


def test_the_likeliest_token_stays_whatever_top_p():
    kept = keep_top_p(torch.tensor([[0.0, 3.0, 1.0]]), 1e-6)
    assert kept[0].tolist() == [-math.inf, 3.0, -math.inf]
    all_equal = keep_top_p(torch.zeros(1, 4), 1e-6)
    assert all_equal[0].tolist() == [-math.inf, -math.inf, -math.inf, 0.0]


def test_drawing_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7]).log().expand(8, 4)
    noise = torch.tensor([0.0, 0.0999, 0.1001, 0.2999, 0.3001, 0.9, 1 - 2**-53, 0.5]).double()
    tokens, usable = invert(logits, noise)
    assert tokens.tolist() == [0, 0, 1, 1, 3, 3, 3, 3]
    assert usable.all()


def test_a_masked_token_is_never_drawn_even_at_the_ends():
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]]).expand(2, 4)
    assert invert(logits, ends)[0].tolist() == [1, 2]


def test_rows_without_a_distribution_are_reported():
    logits = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [-math.inf, -math.inf]])
    tokens, usable = invert(logits, torch.full((3,), 0.5, dtype=torch.float64))
    assert usable.tolist() == [True, False, False]
    assert tokens.max() < 2


def test_drawn_frequencies_are_the_probabilities():
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125])
    noise = torch.from_numpy(uniform_noise(7, 40000))
    tokens, _ = invert(probabilities.log().expand(40000, 4), noise)
    found = torch.bincount(tokens, minlength=4) / 40000
    torch.testing.assert_close(found, probabilities, atol=0.01, rtol=0)


def test_noise_is_a_function_of_seed_and_position_alone():
    long = uniform_noise(3, 1000)
    assert np.array_equal(uniform_noise(3, 10), long[:10])
    assert not np.array_equal(uniform_noise(4, 10), long[:10])
    assert 0 <= long.min() <= long.max() < 1
    # These numbers may never change: samples already made could not be made again.
    assert uniform_noise(0, 3).tolist() == [
        0.011546754286331562,
        0.24154919656271812,
        0.11142585551493822,
    ]


@pytest.mark.parametrize(("p", "kept"), [(0.25, 1), (0.5, 2), (0.75, 3), (0.76, 4), (1 - 1e-9, 4)])
def test_a_tail_of_exactly_1_minus_p_is_cut(p, kept):
    found = keep_top_p(torch.zeros(1, 4), p)  # four quarters, which floats add up exactly
    assert found[0].tolist() == [-math.inf] * (4 - kept) + [0.0] * kept


def test_the_likeliest_token_stays_where_p_is_lost_in_rounding():
    # 1 - 1e-9 is 1 in float32: the whole distribution would be the tail.
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 2.0]])
    kept = keep_top_p(logits, 1e-9)
    assert kept.tolist() == [[-math.inf, 3.0, -math.inf], [5.0, -math.inf, -math.inf]]


def test_no_noise_draws_a_masked_token_from_any_of_1000_distributions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1000, 50, generator=generator) * 5
    logits[:, :3] = logits[:, -3:] = -torch.inf
    for noise in (0.0, 2**-53, 0.5, 1 - 2**-52, 1 - 2**-53):  # the last is the largest there is
        tokens, usable = invert(logits, torch.full((1000,), noise, dtype=torch.float64))
        assert usable.all()
        assert ((tokens >= 3) & (tokens < 47)).all()
    assert uniform_noise(0, 1).dtype == np.float64
