"""Tests of sampling: cache against plain forward passes, guidance, seeds and prompts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models import sampling
from video_vq.models.cached_prior import CachedPrior, silu_by_rows
from video_vq.models.prior import Prior
from video_vq.models.prior_config import (
    NO_CLASS,
    PriorConfig,
    SamplingSettings,
    TransformerConfig,
)
from video_vq.models.sampling import (
    Conditions,
    TokenSampler,
    embedded,
    guided_logits,
    sample_tokens,
)

GRID = (3, 2, 4)
NUM_TOKENS = 24
K = 37
CONDITIONS = [(0, 0), (3, 0), (0, 5), (3, 5)]


def make_prior(num_classes: int = 0, num_action_dims: int = 0, width: int = 32) -> Prior:
    """Return a small prior with weights so large that context, class and actions matter."""
    torch.manual_seed(0)
    sizes = TransformerConfig(width=width, depth=2, heads=2, dropout=0.1, condition_dropout=0.1)
    prior = Prior(PriorConfig(K, GRID, num_classes, num_action_dims, sizes))
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior.eval()


def random_tokens(batch: int, length: int = NUM_TOKENS, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, K, (batch, length), generator=generator)


def some_conditions(prior: Prior, batch: int, given: Tensor | None = None) -> Conditions:
    generator = torch.Generator().manual_seed(2)
    classes, dims = prior.config.num_classes, prior.config.num_action_dims
    labels = torch.randint(0, classes, (batch,), generator=generator) if classes else None
    actions = torch.randn(batch, GRID[0], dims, generator=generator) if dims else None
    return Conditions(labels, given, actions)


def decoded_logits(
    decoder: CachedPrior, condition: sampling.Condition, tokens: Tensor, num_given: int
) -> Tensor:
    """Return the logits of all positions from num_given on, decoded one step at a time."""
    logits = [decoder.begin(condition, tokens[:, :num_given, None] if num_given else None)]
    logits += [decoder.step(tokens[:, i, None]) for i in range(num_given, NUM_TOKENS - 1)]
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("num_given", [0, 1, 8, 11, NUM_TOKENS - 1])
@pytest.mark.parametrize(("classes", "dims"), CONDITIONS)
@torch.inference_mode()
def test_cached_logits_are_those_of_the_plain_forward_at_every_position(classes, dims, num_given):
    prior = make_prior(classes, dims)
    for batch in (1, 3):
        tokens = random_tokens(batch)
        labels, _, actions = some_conditions(prior, batch)
        for hidden in (False, True):
            dropped = torch.full((batch,), hidden)
            expected = prior(tokens, labels, actions, dropped)[:, num_given:]
            condition = prior.condition(batch, labels, actions, dropped)
            found = decoded_logits(CachedPrior(prior, batch), condition, tokens, num_given)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_long_prefix_is_read_in_blocks_of_queries(monkeypatch):
    monkeypatch.setattr("video_vq.models.cached_prior.QUERY_BLOCK", 5)
    prior = make_prior()
    tokens = random_tokens(2)
    found = decoded_logits(CachedPrior(prior, 2), prior.condition(2, None, None, None), tokens, 17)
    torch.testing.assert_close(found, prior(tokens)[:, 17:], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_decoder_in_bf16_comes_near():
    prior = make_prior(3, 5)
    tokens = random_tokens(4)
    labels, _, actions = some_conditions(prior, 4)
    expected = prior(tokens, labels, actions)
    condition = prior.condition(4, labels, actions, None)
    found = decoded_logits(CachedPrior(prior, 4, torch.bfloat16), condition, tokens, 0)
    assert found.dtype == torch.float32
    assert (found - expected).std() < 0.1 * expected.std()


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("classes", "dims"), CONDITIONS[1:])
@torch.inference_mode()
def test_guidance_in_one_batch_is_that_of_two_passes(classes, dims, guidance):
    prior = make_prior(classes, dims)
    settings = SamplingSettings(guidance=guidance)
    tokens = random_tokens(3)
    conditions = some_conditions(prior, 3)
    labels, _, actions = conditions
    conditional = prior(tokens, labels, actions)
    null = prior(tokens, labels, actions, torch.ones(3, dtype=torch.bool))
    expected = null + guidance * (conditional - null)

    passes = 1 if guidance in (0, 1) else 2
    decoder = CachedPrior(prior, 3 * passes)
    condition = embedded(prior, conditions, settings, 3)
    found = [guided_logits(decoder.begin(condition, None), settings)]
    for i in range(NUM_TOKENS - 1):
        logits = decoder.step(tokens[:, i, None].repeat(passes, 1))
        found.append(guided_logits(logits, settings))
    torch.testing.assert_close(torch.stack(found, 1), expected, atol=1e-4, rtol=1e-4)


def slow_sample(
    prior: Prior, seed: int, conditions: Conditions, settings: SamplingSettings
) -> Tensor:
    """Draw a sample by forward passes over all tokens so far, without a cache or a batch."""
    labels, given, actions = conditions
    tokens = torch.zeros(1, NUM_TOKENS, dtype=torch.long)
    first = 0 if given is None else given.shape[1]
    if given is not None:
        tokens[:, :first] = given
    noise = torch.from_numpy(sampling.uniform_noise(seed, NUM_TOKENS))
    null = torch.tensor([True])
    for i in range(first, NUM_TOKENS):
        conditional = prior(tokens[:, : i + 1], labels, actions, ~null)[:, i]
        hidden = prior(tokens[:, : i + 1], labels, actions, null)[:, i]
        logits = hidden + settings.guidance * (conditional - hidden)
        adjusted = sampling.adjusted_logits(logits, settings)
        tokens[:, i] = sampling.invert(adjusted, noise[i : i + 1])[0]
    return tokens.view(1, *GRID)


@pytest.mark.parametrize("num_given", [0, 8])
@torch.inference_mode()
def test_samples_are_those_of_a_loop_without_cache(num_given):
    prior = make_prior(3, 5)
    settings = SamplingSettings(temperature=0.8, top_k=20, top_p=0.9, guidance=1.5)
    given = random_tokens(5, num_given) if num_given else None
    conditions = some_conditions(prior, 5, given)
    seeds = [11, 12, 13, 14, 15]
    tokens = sample_tokens(prior, seeds, *conditions, settings, batch_size=2)
    assert tokens.shape == (5, *GRID)
    assert tokens.dtype == torch.int64
    for row, seed in enumerate(seeds):
        alone = conditions.rows(torch.tensor([row]), torch.device("cpu"))
        assert torch.equal(tokens[row : row + 1], slow_sample(prior, seed, alone, settings))
    if given is not None:
        assert torch.equal(tokens.flatten(1)[:, :num_given], given)


@pytest.mark.parametrize(
    ("batch_size", "guidance", "num_given", "num_threads"), [(4, 1, 8, 1), (7, 2, 0, 2)]
)
def test_a_sample_is_bit_equal_in_any_order_and_in_batches_of_any_fill(
    batch_size, guidance, num_given, num_threads
):
    prior = make_prior(3, 5)
    settings = SamplingSettings(guidance=guidance, top_p=0.95)
    given = random_tokens(13, num_given) if num_given else None
    conditions = some_conditions(prior, 13, given)
    seeds = list(range(100, 113))

    def sample(order: list[int]) -> Tensor:
        rows = conditions.rows(torch.tensor(order), torch.device("cpu"))
        chosen = [seeds[row] for row in order]
        return sample_tokens(prior, chosen, *rows, settings, batch_size)

    with Threads(num_threads):
        whole = sample(list(range(13)))
        assert torch.equal(sample(list(reversed(range(13)))), whole.flip(0))
        assert torch.equal(sample(list(range(1, 13, 2))), whole[1::2])  # another rank's share
        for row in (0, 3, 12):
            assert torch.equal(sample([row]), whole[row : row + 1])
    assert len(torch.unique(whole.flatten(1), dim=0)) == 13


class Threads:
    """A context manager that runs a block on a number of threads."""

    def __init__(self, number: int):
        self.number = number

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.number)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.before)


@pytest.mark.parametrize("num_threads", [1, 2])
@torch.inference_mode()
def test_logits_are_bit_equal_wherever_a_row_stands(num_threads):
    prior = make_prior(width=64)
    tokens = random_tokens(8)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    with Threads(num_threads):
        decoder = CachedPrior(prior, 8)
        assert decoder.rows_agree(0)
        condition = prior.condition(8, None, None, None)
        logits = decoded_logits(decoder, condition, tokens, 0)
        assert torch.equal(decoded_logits(decoder, condition, tokens[order], 0), logits[order])


def test_silu_rounds_a_row_alike_wherever_it_stands_among_threads():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(725, 352, generator=generator)  # the middle lies within a row
    order = torch.randperm(725, generator=generator)
    with Threads(2):
        whole = silu_by_rows(rows.clone())
        assert torch.equal(silu_by_rows(rows[order]), whole[order])
    torch.testing.assert_close(whole, torch.nn.functional.silu(rows))
    wide = torch.randn(2, 40000, generator=generator)
    torch.testing.assert_close(silu_by_rows(wide.clone()), torch.nn.functional.silu(wide))


def test_batches_are_padded_until_rows_agree_and_refused_when_they_never_do(monkeypatch):
    prior = make_prior()
    monkeypatch.setattr(CachedPrior, "rows_agree", lambda self, _: self.num_rows % 8 == 0)
    assert sample_tokens(prior, [1, 2, 3], batch_size=3).shape[0] == 3
    decoder = sampling.prepared_prior(prior, SamplingSettings(), 3, 0, torch.float32)
    assert decoder.num_rows == 8
    monkeypatch.setattr(CachedPrior, "rows_agree", lambda self, _: False)
    with pytest.raises(InputError, match="batch size 1"):
        sample_tokens(prior, [1, 2, 3], batch_size=3)
    assert sample_tokens(prior, [1, 2, 3], batch_size=1).shape[0] == 3


@torch.inference_mode()
def test_rows_that_differ_by_their_place_are_noticed():
    prior = make_prior()
    decoder = CachedPrior(prior, 4)
    head = decoder.logits[0]
    decoder.logits[0] = lambda x: head(x) + torch.arange(4)[:, None] * 1e-6
    assert not decoder.rows_agree(0)


def test_without_conditions_an_unconditional_prior_samples_and_a_conditional_one_at_guidance_0():
    assert sample_tokens(make_prior(), [1, 2], batch_size=2).shape == (2, *GRID)
    prior = make_prior(3, 5)
    unconditional = sample_tokens(prior, [1], settings=SamplingSettings(guidance=0), batch_size=1)
    labelled = make_prior(3)
    null = sample_tokens(labelled, [1], torch.tensor([NO_CLASS]), batch_size=1)
    zero = sample_tokens(labelled, [1], settings=SamplingSettings(guidance=0), batch_size=1)
    assert unconditional.shape == (1, *GRID)
    assert torch.equal(null, zero)


def test_top_k_1_gives_every_seed_the_same_clip():
    tokens = sample_tokens(make_prior(), [1, 2, 3], settings=SamplingSettings(top_k=1))
    assert torch.equal(tokens, tokens[:1].expand_as(tokens))


def test_a_sampler_packs_its_weights_once_and_draws_what_single_calls_draw(monkeypatch):
    packed: list[int] = []
    prepared = sampling.prepared_prior

    def counted(*arguments):
        packed.append(arguments[3])
        return prepared(*arguments)

    monkeypatch.setattr(sampling, "prepared_prior", counted)
    prior = make_prior(3)
    labels, given = torch.tensor([0, 1, 2]), random_tokens(3, 8)
    sampler = TokenSampler(prior, SamplingSettings(top_k=5), batch_size=2)
    first = sampler.draw([1, 2, 3], labels)
    assert torch.equal(sampler.draw([3, 1], labels[[2, 0]]), first[[2, 0]])
    assert packed == [0]
    held = sampler._held
    continued = sampler.draw([1, 2, 3], labels, given)
    assert packed == [0, 8]
    assert sampler._held is held  # a cache is large
    settings = SamplingSettings(top_k=5)
    assert torch.equal(
        continued, sample_tokens(prior, [1, 2, 3], labels, given, None, settings, batch_size=2)
    )


def test_progress_counts_every_drawn_token_once():
    counts: list[int] = []
    given = random_tokens(5, 8)
    sample_tokens(make_prior(), range(5), given=given, batch_size=2, progress=counts.append)
    assert sum(counts) == 5 * (NUM_TOKENS - 8)
    assert len(counts) == 3 * (NUM_TOKENS - 8)


def test_sampling_leaves_prior_and_global_noise_as_they_were():
    prior = make_prior().train()
    weights = [parameter.clone() for parameter in prior.parameters()]
    before = torch.get_rng_state()
    sample_tokens(prior, [1, 2], batch_size=2)
    assert prior.training
    assert torch.equal(torch.get_rng_state(), before)
    for old, new in zip(weights, prior.parameters(), strict=True):
        assert torch.equal(old, new)


def draw_at(settings: SamplingSettings) -> Tensor:
    return sample_tokens(make_prior(), [1, 2], settings=settings, batch_size=2)


def refused(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_what_does_not_fit_the_prior_is_refused():
    plain, labelled, acting = make_prior(), make_prior(3), make_prior(0, 5)
    labels = torch.tensor([0, 1])
    seeds = [1, 2]
    refused("no seeds", lambda: sample_tokens(plain, []))
    refused("seed -1", lambda: sample_tokens(plain, [-1]))
    refused("batch size 0", lambda: sample_tokens(plain, seeds, batch_size=0))
    refused("needs class labels", lambda: sample_tokens(labelled, seeds))
    refused("needs actions", lambda: sample_tokens(acting, seeds))
    refused("without class labels", lambda: sample_tokens(plain, seeds, labels))
    refused("class 3: .* 0 to 2", lambda: sample_tokens(labelled, seeds, labels + 2))
    refused("class -2", lambda: sample_tokens(labelled, seeds, labels - 2))
    refused("class_labels: 2 rows for 1 seeds", lambda: sample_tokens(labelled, [1], labels))
    refused(
        "24 given tokens", lambda: sample_tokens(plain, seeds, given=random_tokens(2, NUM_TOKENS))
    )
    refused("another tokenizer", lambda: sample_tokens(plain, [1], given=torch.tensor([[K]])))
    refused("given: 2 rows", lambda: sample_tokens(plain, [1], given=random_tokens(2, 3)))
    endless = torch.full((1, GRID[0], 5), torch.inf)
    refused("not finite", lambda: sample_tokens(acting, [1], actions=endless))
    refused("b t a", lambda: sample_tokens(acting, [1], actions=torch.zeros(1, GRID[0], 4)))


def test_settings_that_the_prior_cannot_follow_are_refused():
    labels = torch.tensor([0])
    refused(
        "top_k 38 for a codebook of 37",
        lambda: sample_tokens(make_prior(), [1], settings=SamplingSettings(top_k=K + 1)),
    )
    refused(
        "without any condition",
        lambda: sample_tokens(make_prior(), [1], settings=SamplingSettings(guidance=2)),
    )
    sizes = TransformerConfig(width=32, depth=1, heads=2, condition_dropout=0.0)
    certain = Prior(PriorConfig(K, GRID, 3, 0, sizes))
    refused(
        "without condition dropout",
        lambda: sample_tokens(certain, [1], labels, settings=SamplingSettings(guidance=2)),
    )


def test_a_prior_that_gives_no_distribution_is_refused():
    prior = make_prior()
    with torch.no_grad():
        prior.head.weight[3] = torch.nan
    refused("not a distribution", lambda: sample_tokens(prior, [1, 2], batch_size=2))


def test_a_temperature_too_small_for_its_numbers_is_refused_and_named():
    cold = SamplingSettings(temperature=1e-44)
    refused("at temperature 1e-44 .* nearer to 1", lambda: draw_at(cold))


def test_probabilities_that_are_all_masked_are_refused(monkeypatch):
    monkeypatch.setattr(sampling, "keep_top_p", lambda logits, p: logits.clone().fill_(-torch.inf))
    refused("all masked", lambda: draw_at(SamplingSettings(top_p=0.5)))


def test_one_position_without_a_distribution_is_enough_to_be_refused(monkeypatch):
    inverted = sampling.invert
    for wrong in (0, NUM_TOKENS // 2, NUM_TOKENS - 1):
        positions = iter(range(NUM_TOKENS))

        def invert(logits: Tensor, noise: Tensor, positions=positions, wrong=wrong):
            tokens, usable = inverted(logits, noise)
            usable[1] = next(positions) != wrong  # of the second row alone
            return tokens, usable

        monkeypatch.setattr(sampling, "invert", invert)
        refused("not a distribution", lambda: sample_tokens(make_prior(), [1, 2], batch_size=2))


def test_a_short_batch_is_filled_with_copies_of_its_last_sample(monkeypatch):
    rows: list[list[int]] = []
    batch = sampling.embedded

    def embedded(prior: Prior, conditions: Conditions, *rest) -> sampling.Condition:
        assert conditions.class_labels is not None
        rows.append(conditions.class_labels.tolist())
        return batch(prior, conditions, *rest)

    monkeypatch.setattr(sampling, "embedded", embedded)
    monkeypatch.setattr(CachedPrior, "rows_agree", lambda self, _: self.num_rows % 8 == 0)
    sample_tokens(make_prior(9), range(7), torch.arange(7), batch_size=3)
    assert rows == [[0, 1, *[2] * 6], [3, 4, *[5] * 6], [6] * 8]


@torch.inference_mode()
def test_a_decoder_that_begins_anew_remembers_nothing_of_the_clip_before():
    prior = make_prior(3, 5)

    def logits(decoder: CachedPrior, seed: int, num_given: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 3, (2,), generator=generator)
        actions = torch.randn(2, GRID[0], 5, generator=generator)
        condition = prior.condition(2, labels, actions, None)
        return decoded_logits(decoder, condition, random_tokens(2, seed=seed), num_given)

    used = CachedPrior(prior, 2)
    used.keys.fill_(7.0)  # whatever memory held
    used.values.fill_(7.0)
    logits(used, 1, 5)
    used.begin(prior.condition(2, torch.tensor([0, 0]), torch.zeros(2, GRID[0], 5), None), None)
    for seed, num_given in ((2, 0), (3, 8), (4, 3)):
        assert torch.equal(
            logits(used, seed, num_given), logits(CachedPrior(prior, 2), seed, num_given)
        )
