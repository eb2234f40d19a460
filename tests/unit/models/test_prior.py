"""Tests of the prior: shapes, causality, conditions, loss, precision and bad input."""

import math
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from video_vq.errors import InputError
from video_vq.models.prior import Prior, prior_loss, token_nats
from video_vq.models.prior_config import (
    NO_CLASS,
    PriorConfig,
    SamplingSettings,
    TransformerConfig,
)

GRID = (3, 2, 4)
NUM_TOKENS = 24
K = 11


def make_prior(
    num_classes: int = 0,
    num_action_dims: int = 0,
    dropout: float = 0.0,
    checkpoint_activations: bool = False,
) -> Prior:
    """Return a small prior with a nonzero head, so that every input affects the logits."""
    torch.manual_seed(0)
    sizes = TransformerConfig(width=32, depth=2, heads=2, dropout=dropout, condition_dropout=0.5)
    config = PriorConfig(K, GRID, num_classes, num_action_dims, sizes)
    prior = Prior(config, checkpoint_activations)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return prior.eval()


def clips(batch: int = 2, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, K, (batch, NUM_TOKENS), generator=generator)


def some_actions(batch: int = 2) -> Tensor:
    return torch.randn(batch, GRID[0], 5, generator=torch.Generator().manual_seed(2))


def test_a_new_prior_knows_nothing_and_says_so_in_log_k_nats():
    torch.manual_seed(0)
    prior = Prior(PriorConfig(K, GRID, transformer=TransformerConfig(width=32, depth=2, heads=2)))
    logits = prior(clips())
    assert logits.shape == (2, NUM_TOKENS, K)
    loss = prior_loss(logits, clips())
    assert loss.nats.item() == pytest.approx(math.log(K), rel=1e-6)
    assert loss.bits.item() == pytest.approx(math.log2(K), rel=1e-6)
    loss.nats.backward()
    assert prior.head.weight.grad is not None
    assert prior.head.weight.grad.abs().max() > 0


def test_no_token_sees_itself_or_a_later_one_and_each_is_seen_by_every_later_one():
    prior = make_prior()
    tokens = clips(1)
    before = prior(tokens)
    for changed in range(NUM_TOKENS):
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % K
        moved = (prior(other) - before).abs().amax(dim=-1)[0]
        assert moved[: changed + 1].max().item() == 0
        if changed + 1 < NUM_TOKENS:
            assert moved[changed + 1 :].min().item() > 1e-6


def test_the_first_tokens_alone_give_the_logits_they_have_in_the_whole_clip():
    prior = make_prior()
    tokens = clips()
    for length in (1, 7, 8, 9, NUM_TOKENS - 1):
        torch.testing.assert_close(
            prior(tokens[:, :length]), prior(tokens)[:, :length], atol=1e-5, rtol=1e-5
        )


def test_the_class_moves_every_logit():
    prior = make_prior(num_classes=3)
    logits = prior(clips(), torch.tensor([0, 1]))
    other = prior(clips(), torch.tensor([2, 1]))
    assert (logits[0] - other[0]).abs().amax(dim=-1).min() > 1e-6
    assert torch.equal(logits[1], other[1])


def test_an_action_moves_its_own_latent_frame_and_later_ones_alone():
    prior = make_prior(num_action_dims=5)
    actions = some_actions()
    other = actions.clone()
    other[:, 1] += 1.0
    moved = (prior(clips(), None, other) - prior(clips(), None, actions)).abs().amax(dim=-1)
    per_frame = GRID[1] * GRID[2]
    assert moved[:, :per_frame].max() == 0
    assert moved[:, per_frame:].min() > 1e-6


def test_actions_are_standardised_by_the_training_actions():
    prior = make_prior(num_action_dims=5)
    actions = some_actions()
    plain = prior(clips(), None, actions)
    mean, std = torch.arange(5.0), torch.arange(1.0, 6.0)
    prior.set_action_statistics(mean, std)
    assert {"action_mean", "action_std"} <= prior.state_dict().keys()
    torch.testing.assert_close(prior(clips(), None, actions * std + mean), plain)


def test_dropped_conditions_are_those_of_no_class_and_no_action():
    prior = make_prior(num_classes=3, num_action_dims=5)
    labels, actions = torch.tensor([0, 1]), some_actions()
    dropped = prior(clips(), labels, actions, torch.tensor([True, False]))
    kept = prior(clips(), labels, actions)
    nothing = prior(clips(), None, None, torch.tensor([True, True]))
    torch.testing.assert_close(dropped[0], nothing[0])
    torch.testing.assert_close(dropped[1], kept[1])
    classless = make_prior(num_classes=3)
    torch.testing.assert_close(
        classless(clips(), torch.tensor([NO_CLASS, 1]))[0],
        classless(clips(), torch.tensor([0, 1]), None, torch.tensor([True, False]))[0],
    )


def test_training_hides_the_set_share_of_the_conditions_and_evaluation_none():
    prior = make_prior(num_classes=3)
    tokens = clips(1).expand(400, -1)
    labels = torch.zeros(400, dtype=torch.long)
    null = prior(tokens[:1], labels[:1], None, torch.tensor([True]))
    prior.train()
    hidden = torch.isclose(prior(tokens, labels), null, atol=1e-4).flatten(1).all(dim=1)
    assert 150 < int(hidden.sum()) < 250  # 200 expected, deviation 10
    prior.eval()
    assert not torch.isclose(prior(tokens, labels), null, atol=1e-4).flatten(1).all(dim=1).any()


def test_loss_per_position_averages_to_the_loss_and_equals_minus_log_softmax():
    prior = make_prior()
    tokens = clips()
    logits = prior(tokens)
    nats = token_nats(logits, tokens)
    expected = -logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(prior_loss(logits, tokens).nats, nats.mean())


def test_bf16_autocast_gives_float32_logits_near_those_of_float32():
    prior = make_prior(num_classes=3, num_action_dims=5)
    inputs = (clips(), torch.tensor([0, 1]), some_actions())
    exact = prior(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = prior(*inputs)
        loss = prior_loss(rounded, clips())
    assert rounded.dtype == loss.nats.dtype == torch.float32
    assert (rounded - exact).std() < 0.05 * exact.std()


def test_checkpointed_activations_change_neither_loss_nor_gradients():
    gradients = []
    for checkpoint_activations in (False, True):
        prior = make_prior(dropout=0.2, checkpoint_activations=checkpoint_activations).train()
        torch.manual_seed(3)
        prior_loss(prior(clips()), clips()).nats.backward()
        gradients.append([parameter.grad for parameter in prior.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


COMPILED = """
import torch
from video_vq.models.prior import Prior, prior_loss
from video_vq.models.prior_config import PriorConfig, TransformerConfig

config = PriorConfig(11, (3, 2, 4), 3, 5, TransformerConfig(width=32, depth=2, heads=2, dropout=0))
tokens = torch.randint(0, 11, (2, 24), generator=torch.Generator().manual_seed(1))
inputs = (tokens, torch.tensor([0, 1]), torch.ones(2, 3, 5), torch.tensor([True, False]))
for checkpoint_activations in (False, True):
    torch.manual_seed(0)
    prior = Prior(config, checkpoint_activations).train()
    torch.nn.init.normal_(prior.head.weight, std=0.3)
    results = []
    for compiled in (False, True):
        if compiled:
            prior.compile(backend="aot_eager")
        prior.zero_grad()
        loss = prior_loss(prior(*inputs), tokens).nats
        loss.backward()
        results.append([loss, *(weight.grad.clone() for weight in prior.parameters())])
    torch.testing.assert_close(*results)
"""


def test_a_compiled_prior_has_the_same_loss_and_gradients():
    """A separate process runs without the type checks of the tests, which cannot be compiled."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_every_parameter_gets_a_gradient():
    prior = make_prior(num_classes=3, num_action_dims=5)
    dropped = torch.tensor([True, False])
    logits = prior(clips(), torch.tensor([0, 1]), some_actions(), dropped)
    prior_loss(logits, clips()).nats.backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_conditions_that_do_not_fit_are_refused():
    labelled, acting, plain = make_prior(3), make_prior(0, 5), make_prior()
    with pytest.raises(InputError, match="needs class labels"):
        labelled(clips())
    with pytest.raises(InputError, match="needs actions"):
        acting(clips())
    with pytest.raises(InputError, match="trained without class labels"):
        plain(clips(), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="trained without actions"):
        plain(clips(), None, some_actions())
    with pytest.raises(InputError, match=r"b t a = \(2, 3, 5\)"):
        acting(clips(), None, some_actions()[:, :2])
    with pytest.raises(InputError, match="25 tokens"):
        plain(torch.zeros(1, NUM_TOKENS + 1, dtype=torch.long))


def test_action_statistics_that_cannot_be_used_are_refused():
    acting = make_prior(0, 5)
    with pytest.raises(InputError, match="takes no actions"):
        make_prior().set_action_statistics(torch.zeros(5), torch.ones(5))
    with pytest.raises(InputError, match="expected 5"):
        acting.set_action_statistics(torch.zeros(4), torch.ones(4))
    for std in (torch.zeros(5), torch.full((5,), math.nan)):
        with pytest.raises(InputError, match="deviations positive"):
            acting.set_action_statistics(torch.zeros(5), std)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 100, "heads": 3}, "next width that does is 120"),
        ({"dropout": 1.0}, "less than 1"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"mlp_ratio": math.nan}, "finite"),
        ({"widht": 64}, "widht"),
    ],
)
def test_sizes_that_make_no_transformer_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TransformerConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebook_size": 1}, "greater than or equal to 2"),
        ({"grid_thw": (4, 0, 4)}, "greater than 0"),
        ({"grid_thw": (512, 512, 512)}, "more than 65536"),
        ({"num_classes": -1}, "greater than or equal to 0"),
    ],
)
def test_priors_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        PriorConfig(**{"codebook_size": 8, "grid_thw": (2, 2, 2), **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"guidance": -1.0},
        {"topp": 0.5},
    ],
)
def test_sampling_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        SamplingSettings(**settings)
