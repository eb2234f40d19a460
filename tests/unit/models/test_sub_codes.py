"""Tests of tokens with several sub-codes: conversion, likelihood and sampling."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from video_vq.errors import ConfigError, InputError
from video_vq.models import sampling
from video_vq.models.prior import Prior, prior_loss, token_nats
from video_vq.models.prior_config import (
    PriorConfig,
    SamplingSettings,
    TransformerConfig,
    config_for,
    factorise,
)
from video_vq.models.sampling import sample_tokens
from video_vq.models.sub_codes import SubCodes
from video_vq.stores.tokens import TokenHeader

GRID = (2, 2, 2)
SIZES = TransformerConfig(width=16, depth=2, heads=2, dropout=0.0)
LEVELS = PriorConfig(
    codebook_size=12 * 5,
    grid_thw=GRID,
    num_classes=2,
    transformer=SIZES,
    levels=(12, 5),
    sub_codes=((4, 3), (5,)),
)
DIGITS = PriorConfig(
    codebook_size=12, grid_thw=GRID, num_classes=2, transformer=SIZES, sub_codes=((3, 4),)
)


def made(config: PriorConfig) -> Prior:
    """Return a prior with random weights in its head, so that its logits differ."""
    torch.manual_seed(0)
    prior = Prior(config).eval()
    torch.nn.init.normal_(prior.head.weight, std=0.3)
    torch.nn.init.normal_(prior.sub_code_embedding.weight, std=0.5)
    return prior


def tokens_of(config: PriorConfig, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randint(size, (number, 8), generator=generator) for size in config.vocabulary]
    return torch.stack(levels, -1) if len(levels) > 1 else levels[0]


def test_sub_codes_are_digits_the_highest_first_and_join_again():
    split = SubCodes(((4, 3), (5,)))
    assert (split.sizes, split.starts, len(split)) == ([4, 3, 5], [0, 4, 7], 3)
    tokens = torch.tensor(list(itertools.product(range(12), range(5)))).view(6, 10, 2)
    found = split.split(tokens)
    assert torch.equal(found[..., 0], tokens[..., 0] // 3)
    assert torch.equal(found[..., 1], tokens[..., 0] % 3)
    assert torch.equal(found[..., 2], tokens[..., 1])
    assert torch.equal(split.join(found), tokens)
    assert split.in_a_row(found[0, 0]).tolist() == [0, 4, 7]
    one = SubCodes(((512, 512),))
    codes = torch.tensor([[0, 511, 512, (1 << 18) - 1]])
    assert one.split(codes)[0].tolist() == [[0, 0], [0, 511], [1, 0], [511, 511]]
    assert torch.equal(one.join(one.split(codes)), codes)
    with pytest.raises(InputError, match="2 codes per position along their last axis"):
        split.split(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        (1024, 1 << 14, (1024,)),
        (1 << 18, 1 << 14, (512, 512)),
        (1 << 17, 1 << 14, (256, 512)),
        (64000, 1 << 14, (250, 256)),
        (1 << 18, 100, (64, 64, 64)),
    ],
)
def test_codes_split_into_few_and_even_factors(size, most, expected):
    assert sorted(factorise(size, most)) == sorted(expected)
    assert math.prod(factorise(size, most)) == size


def test_a_prime_number_of_codes_is_refused_with_what_to_set():
    with pytest.raises(InputError, match=r"20011 values does not split.*sub_code_size=20011"):
        factorise(20011, 1 << 14)


def test_the_store_decides_what_a_prior_predicts():
    header = TokenHeader("h", 1 << 18, GRID, 5, (8, 8), None, (), None, {})
    config = config_for(header, SIZES)
    assert (config.vocabulary, config.factors) == ((1 << 18,), ((512, 512),))
    prior = Prior(config)
    assert prior.head.weight.shape == (1024, 16)
    header = TokenHeader("h", 80, GRID, 5, (8, 8), None, (), None, {}, levels=(16, 5))
    config = config_for(header, SIZES)
    assert (config.vocabulary, config.factors) == ((16, 5), ((16,), (5,)))
    header = TokenHeader("h", 80, (5, 128, 128), 5, (1024, 1024), None, (), None, {})
    with pytest.raises(
        ConfigError, match=r"these tokens: 1 problem\n.*81920 tokens, more than 65536"
    ):
        config_for(header, SIZES)


@pytest.mark.parametrize("config", [LEVELS, DIGITS])
def test_probabilities_of_all_tokens_sum_to_one_and_training_starts_at_a_uniform_guess(config):
    prior = made(config)
    every = [torch.arange(size) for size in config.vocabulary]
    grid = torch.cartesian_prod(*every)
    tokens = tokens_of(config, 1).expand(len(grid), *tokens_of(config, 1).shape[1:]).clone()
    tokens[:, 3] = grid
    labels = torch.zeros(len(grid), dtype=torch.int64)
    nats = token_nats(prior(tokens, labels), tokens, prior.sub_codes)
    assert nats.shape == (len(grid), 8)
    torch.testing.assert_close((-nats[:, 3]).exp().sum(), torch.tensor(1.0))
    assert float(nats[:, 3].detach().std()) > 0.1
    fresh = Prior(config)
    loss = prior_loss(fresh(tokens, labels), tokens, fresh.sub_codes)
    assert float(loss.nats.detach()) == pytest.approx(math.log(config.codebook_size), abs=1e-5)
    assert float(loss.bits.detach()) == pytest.approx(math.log2(config.codebook_size), abs=1e-5)


@pytest.mark.parametrize("config", [LEVELS, DIGITS])
def test_a_sub_code_is_predicted_from_those_before_it_alone(config):
    prior = made(config)
    tokens, labels = tokens_of(config, 1), torch.tensor([1])
    before = prior(tokens, labels).split(prior.sub_codes.sizes, 2)
    digits = prior.sub_codes.split(tokens)
    for place in range(len(prior.sub_codes)):
        changed = digits.clone()
        changed[0, 4, place] = (changed[0, 4, place] + 1) % prior.sub_codes.sizes[place]
        after = prior(prior.sub_codes.join(changed), labels).split(prior.sub_codes.sizes, 2)
        for other in range(len(prior.sub_codes)):
            same = [torch.equal(after[other][0, i], before[other][0, i]) for i in range(8)]
            assert all(same[:4])
            assert same[4] == (other <= place)
            assert not any(same[5:])


def slow_sample(
    prior: Prior, seed: int, label: Tensor, given: Tensor | None, settings: SamplingSettings
) -> Tensor:
    """Draw a sample by forward passes over all tokens so far, without a cache or a batch."""
    split = prior.sub_codes
    digits = torch.zeros(1, 8, len(split), dtype=torch.int64)
    first = 0
    if given is not None:
        first = given.shape[1]
        digits[:, :first] = split.split(given)
    noise = torch.from_numpy(sampling.uniform_noise(seed, 8 * len(split))).view(8, -1)
    null = torch.tensor([True])
    for i in range(first, 8):
        for place in range(len(split)):
            tokens = split.join(digits)[:, : i + 1]
            some, none = (
                prior(tokens, label, None, hidden).split(split.sizes, 2)[place][:, i]
                for hidden in (~null, null)
            )
            logits = none + settings.guidance * (some - none)
            adjusted = sampling.adjusted_logits(logits, settings)
            digits[:, i, place] = sampling.invert(adjusted, noise[i, place : place + 1])[0]
    tokens = split.join(digits)
    return tokens.view(1, *GRID, *tokens.shape[2:])


@pytest.mark.parametrize("config", [LEVELS, DIGITS])
@pytest.mark.parametrize("num_given", [0, 3])
@torch.inference_mode()
def test_samples_are_those_of_a_loop_without_cache(config, num_given):
    prior = made(config)
    settings = SamplingSettings(temperature=0.8, top_k=3, guidance=1.5)
    given = tokens_of(config, 3)[:, :num_given] if num_given else None
    labels = torch.tensor([0, 1, 1])
    tokens = sample_tokens(prior, [5, 6, 7], labels, given, None, settings, batch_size=2)
    assert tokens.shape == (3, *GRID, *([2] if config.levels else []))
    for row, seed in enumerate((5, 6, 7)):
        prompt = None if given is None else given[row : row + 1]
        alone = slow_sample(prior, seed, labels[row : row + 1], prompt, settings)
        assert torch.equal(tokens[row : row + 1], alone)
    for level, size in enumerate(config.vocabulary):
        codes = tokens[..., level] if config.levels else tokens
        assert 0 <= int(codes.min()) <= int(codes.max()) < size


def test_tokens_of_another_factorisation_get_a_sentence():
    prior = made(LEVELS)
    labels = torch.tensor([0])
    with pytest.raises(InputError, match="2 codes per position along their last axis"):
        prior(torch.zeros(1, 8, dtype=torch.int64), labels)
    with pytest.raises(InputError, match=r"expected b n level.*grid\.flatten\(1, 3\)"):
        prior(torch.zeros(1, *GRID, 2, dtype=torch.int64), labels)
    with pytest.raises(InputError, match=r"of level 1 lie in 7 to 7, the prior's in 0 to 4"):
        sample_tokens(prior, [0], labels, torch.full((1, 2, 2), 7))
    with pytest.raises(InputError, match="codes of 2 levels per position"):
        sample_tokens(prior, [0], labels, torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="top_k 6 for a codebook of 5 values for each sub-code"):
        sample_tokens(prior, [0], labels, settings=SamplingSettings(top_k=6))
    with pytest.raises(ValueError, match="do not multiply to the levels"):
        PriorConfig(codebook_size=12, grid_thw=GRID, sub_codes=((3, 3),))
    with pytest.raises(ValueError, match="have a product of 60"):
        PriorConfig(codebook_size=61, grid_thw=GRID, levels=(12, 5))
