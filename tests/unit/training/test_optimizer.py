"""Tests of the optimizer: decayed tensors, learning rate, state and memory."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from video_vq.errors import InputError
from video_vq.training.optimizer import (
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    set_learning_rate,
    trained_bytes,
)
from video_vq.training.training_config import OptimizerConfig


class EveryTensor(nn.Module):
    """A model with a tensor of each kind that a tokenizer or a prior has."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(3, 2, 1, 1, 1))
        self.matrix = nn.Parameter(torch.ones(3, 2))
        self.bias = nn.Parameter(torch.ones(3))
        self.scale = nn.Parameter(torch.ones(()))
        self.token_embedding = nn.Embedding(4, 2)
        self.start_embedding = nn.Parameter(torch.ones(5))
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)


DECAYED = {"kernel", "matrix"}
KEPT = {"bias", "scale", "token_embedding.weight", "start_embedding"}


def names(model: nn.Module, values: list[torch.Tensor]) -> list[str]:
    of = {id(value): name for name, value in model.named_parameters()}
    return [of[id(value)] for value in values]


def test_matrices_and_kernels_are_decayed_and_every_trained_tensor_is_in_one_group():
    model = EveryTensor()
    decayed, kept = parameter_groups(model, OptimizerConfig(weight_decay=0.1))
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    found = names(model, decayed["params"]), names(model, kept["params"])
    assert set(found[0]) == DECAYED
    assert set(found[1]) == KEPT
    assert len(found[0]) + len(found[1]) == len(DECAYED) + len(KEPT)


def test_a_step_without_gradients_draws_the_decayed_tensors_alone_to_zero():
    model = EveryTensor()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.5, weight_decay=0.1))
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    for name, value in model.named_parameters():
        share = 1 - 0.5 * 0.1 if name in DECAYED else 1.0
        torch.testing.assert_close(value.detach(), share * before[name])


def test_the_first_step_is_the_rate_times_the_gradient_over_its_size_and_eps():
    model = nn.Linear(1, 1, bias=False)
    config = OptimizerConfig(lr=1e-2, eps=0.5, betas=(0.8, 0.9), weight_decay=0.0)
    optimizer = make_optimizer(model, config)
    before = model.weight.item()
    moved = []
    for gradient in (2.0, -1.0):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        moved.append(model.weight.item() - before)
        before = model.weight.item()
    first, second = 0.2 * 2.0, 0.1 * 4.0  # the moments after one step
    expected = [-1e-2 * (first / 0.2) / (math.sqrt(second / 0.1) + 0.5)]
    first, second = 0.8 * first + 0.2 * -1.0, 0.9 * second + 0.1 * 1.0
    first, second = first / (1 - 0.8**2), second / (1 - 0.9**2)
    expected.append(-1e-2 * first / (math.sqrt(second) + 0.5))
    assert moved == pytest.approx(expected, rel=1e-4)


def test_the_rate_of_a_step_reaches_every_group():
    model = EveryTensor()
    optimizer = make_optimizer(model, OptimizerConfig(lr=1.0, weight_decay=0.0))
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    for name, value in model.named_parameters():
        moved = 0.0 if name == "frozen" else 0.25  # Adam's first step is the rate itself
        torch.testing.assert_close(value.detach(), before[name] - moved)


def test_the_bytes_of_a_dry_run_are_those_of_real_tensors():
    model, config = EveryTensor(), OptimizerConfig()
    optimizer = make_optimizer(model, config)
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    held = [value.nbytes for value in model.parameters()]
    state = optimizer_tensors(optimizer)
    kept = [value.nbytes for value in state.values()]
    with FakeTensorMode():
        fake = EveryTensor()
    assert trained_bytes(model, config) == 2 * sum(held) + sum(kept)
    assert trained_bytes(fake, config) == trained_bytes(model, config)


def test_an_optimizer_comes_back_and_a_wrong_one_is_refused():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4)
    config = OptimizerConfig(steps=10, batch_size=4)
    optimizer = make_optimizer(layer, config)
    layer(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    tensors = optimizer_tensors(optimizer)
    other = make_optimizer(layer, config)
    load_optimizer(other, tensors)
    for name, value in optimizer_tensors(other).items():
        assert torch.equal(value, tensors[name])
    with pytest.raises(InputError, match=r"missing: 1\.exp_avg"):
        load_optimizer(other, {k: v for k, v in tensors.items() if k.startswith("0.")})
    with pytest.raises(InputError, match="not part of the model: evil"):
        load_optimizer(other, tensors | {"evil": torch.zeros(1)})
    with pytest.raises(InputError, match=r"0\.exp_avg: expected \(4, 4\) .* found \(4,\)"):
        load_optimizer(other, tensors | {"0.exp_avg": torch.zeros(4)})


def test_only_matrices_are_decayed():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    groups = make_optimizer(layer, OptimizerConfig(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 3]


def test_the_rate_warms_up_and_follows_a_cosine():
    config = OptimizerConfig(steps=110, warmup_steps=10, lr=1.0, final_lr=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.55)
    assert learning_rate(config, 110) == pytest.approx(0.1)


def test_the_rate_peaks_right_after_the_warm_up_and_stays_at_its_end():
    config = OptimizerConfig(steps=110, warmup_steps=10, lr=1.0, final_lr=0.1)
    assert learning_rate(config, 10) == 1.0
    assert learning_rate(config, 300) == pytest.approx(0.1)
    short = OptimizerConfig(steps=11, warmup_steps=10, lr=1.0, final_lr=0.1)
    assert [learning_rate(short, step) for step in (9, 10, 11)] == pytest.approx([1.0, 1.0, 0.1])
    warm = OptimizerConfig(steps=10, warmup_steps=10, lr=1.0, final_lr=0.1)
    assert learning_rate(warm, 10) == 1.0  # no step is left to decay over


def test_with_decay_steps_the_rate_is_constant_and_falls_linearly_at_the_end():
    config = OptimizerConfig(steps=100, warmup_steps=10, decay_steps=20, lr=1.0, final_lr=0.1)
    rates = [learning_rate(config, step) for step in (4, 9, 10, 50, 80, 90, 100, 101)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 0.55, 0.1, 0.1])


def test_a_run_shorter_than_its_decay_decays_from_the_end_of_its_warmup():
    config = OptimizerConfig(steps=50, warmup_steps=10, decay_steps=375, lr=1.0, final_lr=0.1)
    rates = [learning_rate(config, step) for step in (9, 10, 30, 50)]
    assert rates == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_a_longer_run_has_the_same_rates_until_the_shorter_one_decays():
    short, long = (OptimizerConfig(steps=n, warmup_steps=5, decay_steps=10) for n in (40, 80))
    rates = [[learning_rate(config, step) for step in range(31)] for config in (short, long)]
    assert rates[0] == rates[1]
    assert learning_rate(short, 31) < learning_rate(long, 31)
