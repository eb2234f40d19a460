"""Tests of the masked prior: its inputs, its sampling schedule, and what it learns."""

import math

import pytest
import torch
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models.masked_prior import MaskedPrior, hidden_tokens
from video_vq.models.masked_sampling import MaskedSampler, still_hidden
from video_vq.models.prior import Prior, prior_loss, token_nats
from video_vq.models.prior_config import (
    ParallelSettings,
    PriorConfig,
    PriorFacts,
    SamplingSettings,
    TransformerConfig,
)
from video_vq.models.priors import load_prior, make_sampler
from video_vq.models.sampling import TokenSampler

GRID = (2, 2, 3)
NUM_TOKENS = 12
K = 7


def make_prior(
    num_classes: int = 0, num_action_dims: int = 0, sub_codes: tuple = (), codes: int = K
) -> MaskedPrior:
    """Return a small prior with weights so large that context, class and actions matter."""
    torch.manual_seed(0)
    sizes = TransformerConfig("masked", 32, 2, 2, dropout=0.1, condition_dropout=0.1)
    config = PriorConfig(codes, GRID, num_classes, num_action_dims, sizes, (), sub_codes)
    prior = MaskedPrior(config)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior.eval()


def random_tokens(batch: int, codes: int = K) -> Tensor:
    return torch.randint(0, codes, (batch, NUM_TOKENS), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_every_position_sees_the_visible_tokens_on_both_sides_and_no_hidden_one():
    prior, tokens = make_prior(), random_tokens(1)
    hidden = torch.zeros(1, NUM_TOKENS, dtype=torch.bool)
    hidden[0, [2, 5, 6]] = True
    logits = prior(tokens, hidden=hidden)
    for place in range(NUM_TOKENS):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % K
        found = prior(other, hidden=hidden)
        if hidden[0, place]:
            assert torch.equal(found, logits)
        else:
            assert ((found - logits).abs().amax(-1) > 1e-5).all()


@torch.no_grad()
def test_class_and_actions_steer_every_position():
    prior, tokens = make_prior(3, 2), random_tokens(1)
    actions = torch.zeros(1, 2, 2)
    logits = prior(tokens, torch.tensor([0]), actions)
    assert (prior(tokens, torch.tensor([1]), actions) != logits).any(-1).all()
    actions[0, 1] = 1.0  # of the second latent frame
    assert (prior(tokens, torch.tensor([0]), actions) != logits).any(-1).all()


@torch.no_grad()
def test_the_loss_is_the_mean_over_clips_of_their_hidden_tokens():
    prior, tokens = make_prior(), random_tokens(2)
    hidden = torch.zeros(2, NUM_TOKENS, dtype=torch.bool)
    hidden[0, :3], hidden[1, 4] = True, True
    logits = prior(tokens, hidden=hidden)
    nats = token_nats(logits, tokens)
    loss = prior_loss(logits, tokens, prior.sub_codes, hidden)
    assert loss.nats.item() == pytest.approx((nats[0, :3].mean() + nats[1, 4]).item() / 2)


def test_hidden_tokens_are_drawn_by_the_key_alone_at_shares_of_a_cosine():
    keys = [(0, position) for position in range(2000)]
    hidden = hidden_tokens(keys, 100)
    assert torch.equal(hidden_tokens(keys[7:8], 100)[0], hidden[7])
    assert not torch.equal(hidden_tokens([(1, 7)], 100)[0], hidden[7])
    share = hidden.float().mean(1)
    assert share.min() > 0
    assert share.mean().item() == pytest.approx(2 / math.pi, abs=0.02)  # the mean of cos(π/2 · u)
    assert (share < math.cos(math.pi / 4)).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert hidden.float().mean(0).std() < 0.03  # no position is preferred


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (12, 1), (12, 5), (256, 12), (9, 9), (3, 9)])
def test_each_step_draws_at_least_one_token_and_the_last_leaves_none(tokens, steps):
    plan = still_hidden(tokens, steps)
    assert len(plan) == min(tokens, steps)
    assert plan[-1] == 0
    assert all(after < before for before, after in zip([tokens, *plan], plan, strict=False))
    if steps >= tokens:
        assert plan == list(range(tokens - 1, -1, -1))


def test_the_hidden_share_falls_along_a_cosine():
    assert still_hidden(1000, 4) == [923, 707, 382, 0]


def trained_on_pairs() -> MaskedPrior:
    """Return a prior trained on pairs of tokens: both 0 with probability 0.3, else both 1."""
    torch.manual_seed(0)
    sizes = TransformerConfig("masked", 16, 1, 1, dropout=0.0, condition_dropout=0.0)
    prior = MaskedPrior(PriorConfig(2, (1, 1, 2), transformer=sizes))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02)
    tokens = (torch.arange(10) >= 3).long().repeat(3)[:, None].expand(-1, 2)
    hidden = torch.tensor([[True, True], [True, False], [False, True]]).repeat_interleave(10, 0)
    for _ in range(100):
        loss = prior_loss(prior(tokens, hidden=hidden), tokens, prior.sub_codes, hidden).nats
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prior.eval()


def test_one_step_draws_the_marginals_and_as_many_steps_as_tokens_the_joint_distribution():
    prior = trained_on_pairs()
    at_once = MaskedSampler(prior, None, ParallelSettings(1), 500).draw(range(500)).flatten(1)
    assert at_once.float().mean().item() == pytest.approx(0.7, abs=0.06)
    # Tokens that are drawn at once do not see each other.
    unequal = (at_once[:, 0] != at_once[:, 1]).float().mean().item()
    assert unequal == pytest.approx(2 * 0.3 * 0.7, abs=0.06)
    # The choice between two equally sure tokens is as good as none: no heat is needed.
    one_by_one = MaskedSampler(prior, None, ParallelSettings(2, 1e4), 500)
    pairs = one_by_one.draw(range(500)).flatten(1)
    assert (pairs[:, 0] != pairs[:, 1]).float().mean() < 0.02
    assert pairs.float().mean().item() == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize("guidance", [1.0, 0.0, 2.5])
def test_a_sample_depends_on_its_own_seed_and_conditions_alone(guidance):
    prior, labels = make_prior(3), torch.tensor([0, 1, 2, 0, 1])
    sampler = MaskedSampler(
        prior, SamplingSettings(guidance=guidance, top_p=0.95), ParallelSettings(4), 2
    )
    drawn = sampler.draw([1, 2, 3, 4, 5], labels)
    assert drawn.shape == (5, *GRID)
    order = torch.tensor([4, 0, 3])
    assert torch.equal(sampler.draw((order + 1).tolist(), labels[order]), drawn[order])
    assert not torch.equal(sampler.draw([1, 2, 3, 4, 5], labels, window=1), drawn)
    alone = MaskedSampler(prior, sampler.settings, sampler.parallel, 1)
    assert torch.equal(alone.draw([3], labels[2:3])[0], drawn[2])


def test_where_rows_see_their_place_samples_are_drawn_one_at_a_time(monkeypatch):
    prior, seeds = make_prior(), [1, 2, 3]
    expected = MaskedSampler(prior, None, ParallelSettings(3), 1).draw(seeds)
    sampler = MaskedSampler(prior, None, ParallelSettings(3), 3)
    monkeypatch.setattr(MaskedSampler, "_rows_agree", lambda *_: False)
    assert torch.equal(sampler.draw(seeds), expected)
    assert sampler._num_rows == 1


def test_given_tokens_stay_and_progress_counts_the_others_once():
    prior, given = make_prior(), random_tokens(3)[:, :5]
    counts: list[int] = []
    sampler = MaskedSampler(prior, None, ParallelSettings(4), 2)
    drawn = sampler.draw([1, 2, 3], None, given, None, counts.append).flatten(1)
    assert torch.equal(drawn[:, :5], given)
    assert sum(counts) == 3 * (NUM_TOKENS - 5)
    assert len(counts) == 2 * 4


def test_drawing_one_by_one_from_the_surest_is_the_plain_forward_step_by_step():
    """With top-k 1 and confidence temperature 0, each step keeps the most probable hidden token."""
    prior = make_prior()
    sampler = MaskedSampler(prior, SamplingSettings(top_k=1), ParallelSettings(NUM_TOKENS, 0.0), 1)
    tokens = torch.zeros(1, NUM_TOKENS, dtype=torch.int64)
    hidden = torch.ones(1, NUM_TOKENS, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            best = prior(tokens, hidden=hidden).log_softmax(-1).max(-1)
            place = best.values.masked_fill(~hidden, -torch.inf).argmax()
            tokens[0, place], hidden[0, place] = best.indices[0, place], False
    assert torch.equal(sampler.draw([9]).flatten(1), tokens)


def test_sub_codes_of_a_token_are_drawn_one_after_the_other():
    """The logits of the second digit depend only on the first, which it always equals."""
    prior = make_prior(sub_codes=((3, 3),), codes=9)
    for parameter in prior.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        for gain in (prior.final_norm.gain, prior.sub_code_norm.gain):
            gain.fill_(1.0)
        prior.sub_code_embedding.weight[:, :3] = torch.eye(3)
        prior.head.weight[3:, :3] = 30 * torch.eye(3)
    drawn = MaskedSampler(prior, None, ParallelSettings(2), 8).draw(range(8))
    assert set(drawn.flatten().tolist()) == {0, 4, 8}  # 00, 11 and 22 in base 3


def test_a_prior_in_bf16_products_draws_what_it_can_and_leaves_the_prior_as_it_was():
    prior = make_prior().train()
    drawn = MaskedSampler(prior, None, None, 2, torch.bfloat16).draw([1, 2])
    assert drawn.shape == (2, *GRID)
    assert 0 <= drawn.min() <= drawn.max() < K
    assert prior.training


def test_a_saved_prior_comes_back_as_its_kind_and_is_refused_as_another(tmp_path):
    prior = make_prior(2)
    prior.facts = PriorFacts("0" * 64, ("a", "b"), 4, (8, 8), None, "tokens", 5)
    prior.save_pretrained(tmp_path / "p")
    loaded = load_prior(tmp_path / "p")
    assert isinstance(loaded, MaskedPrior)
    tokens = random_tokens(2)
    assert torch.equal(loaded(tokens, torch.tensor([0, 1])), prior(tokens, torch.tensor([0, 1])))
    assert isinstance(
        make_sampler(loaded, SamplingSettings(), None, 2, torch.float32), MaskedSampler
    )
    with pytest.raises(InputError, match="Prior is autoregressive, this prior's kind is 'masked'"):
        Prior.from_pretrained(tmp_path / "p")


def test_what_does_not_fit_is_refused():
    prior = make_prior()
    with pytest.raises(InputError, match="13 steps for a clip of 12 tokens"):
        MaskedSampler(prior, None, ParallelSettings(13))
    with pytest.raises(InputError, match="this prior is masked"):
        TokenSampler(prior)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="11 tokens for a masked prior"):
        prior(random_tokens(1)[:, :11])
    with pytest.raises(InputError, match=r"hidden: expected booleans b n = \(1, 12\)"):
        prior(random_tokens(1), hidden=torch.ones(1, 12))
    torch.nn.init.constant_(prior.head.weight, torch.nan)
    with pytest.raises(InputError, match="not a distribution"):
        MaskedSampler(prior, None, ParallelSettings(2), 1).draw([0])
