"""Tests of Muon against closed forms and torch, and of the tensors that it updates."""

import copy

import pytest
import torch
from torch import Tensor, nn

from video_vq.config import load_config, shipped_configs
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.nn.precision import exact_float32
from video_vq.training.optimizer import (
    ITERATIONS,
    NEWTON_SCHULZ,
    Muon,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
    orthogonalise,
    trained_bytes,
)
from video_vq.training.training_config import (
    OptimizerConfig,
    PriorTrainingConfig,
    TokenizerTrainingConfig,
)

CONFIG = OptimizerConfig(kind="muon", lr=0.01, weight_decay=0.1)


class Hidden(nn.Module):
    """A model with layers that Muon updates and others that it does not update."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"embed": nn.Linear(20, 24)})
        self.kernel = nn.Conv3d(24, 32, 3)
        self.matrix = nn.Linear(40, 24)
        self.thin = nn.Linear(40, 15)
        self.token_embedding = nn.Embedding(30, 24)
        self.position = nn.Parameter(torch.randn(20, 24))


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator)


def grad_of(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad


def iterated(values: Tensor) -> Tensor:
    """Return singular values after Muon's Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("shape", [(16, 432), (432, 16), (64, 64), (48, 40)])
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-5])
def test_singular_values_follow_the_polynomial_and_singular_vectors_stay(shape, smallest):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = 50 * torch.logspace(0, torch.log10(torch.tensor(smallest)), len(values)).double()
    expected = (left * iterated(values / values.norm())) @ right
    found = orthogonalise(((left * values) @ right).float())
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_large_singular_values_come_close_to_one():
    matrix = torch.randn(32, 200, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.65 < float(values.min()) <= float(values.max()) < 1.25


def test_a_matrix_of_rank_one_of_zeros_and_of_any_scale_stays_finite():
    column = torch.arange(1.0, 41.0)[:, None]
    one = orthogonalise(column @ torch.ones(1, 20))
    values = torch.linalg.svdvals(one)
    assert 0.65 < float(values[0]) < 1.25
    assert float(values[1]) < 0.05
    assert torch.equal(orthogonalise(torch.zeros(20, 40)), torch.zeros(20, 40))
    matrix = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(orthogonalise(scale * matrix), orthogonalise(matrix))


def test_coarse_settings_of_float32_do_not_reach_it(monkeypatch):
    inside = []

    def noted(device):
        inside.append(device)
        return exact_float32(device)

    monkeypatch.setattr("video_vq.training.optimizer.exact_float32", noted)
    matrix = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        coarse = orthogonalise(matrix)
    assert torch.equal(coarse, orthogonalise(matrix))
    assert inside == [matrix.device] * 2


class TwoLayers(nn.Module):
    """A model with one matrix and one convolution kernel."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Linear(40, 24, bias=False)
        self.kernel = nn.Conv3d(24, 32, 3, bias=False)


def test_matrices_move_as_by_torchs_muon_and_kernels_as_their_matrices():
    """Torch's Muon iterates in bf16, which changes its updates by 10 to 20 %."""
    model = TwoLayers()
    weights = [model.matrix.weight, model.kernel.weight]
    theirs = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in weights]
    start = [weight.detach().clone() for weight in theirs]
    decay, scaling = CONFIG.weight_decay, "match_rms_adamw"
    oracle = torch.optim.Muon(theirs, lr=CONFIG.lr, weight_decay=decay, adjust_lr_fn=scaling)
    ours = make_optimizer(model, CONFIG)
    for seed in range(8):
        gradients(model, seed)
        for weight, its in zip(weights, theirs, strict=True):
            its.grad = grad_of(weight).flatten(1).clone()
        ours.step()
        oracle.step()
    for weight, its, first in zip(weights, theirs, start, strict=True):
        moved, expected = (value.detach().flatten(1) - first for value in (weight, its))
        assert float((moved - expected).norm() / expected.norm()) < 0.2
        momentum = ours.state[weight]["momentum"].flatten(1)
        torch.testing.assert_close(momentum, oracle.state[its]["momentum_buffer"])


def test_three_steps_are_those_of_the_formula():
    model = TwoLayers()
    weight = model.matrix.weight
    optimizer = make_optimizer(model, CONFIG)
    expected, momentum = weight.detach().double(), torch.zeros(24, 40).double()
    for seed in range(3):
        gradients(model, seed)
        gradient = grad_of(weight).double()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.95 * momentum + 0.05 * gradient
        left, values, right = torch.linalg.svd(ahead, full_matrices=False)
        update = (left * iterated(values / values.norm())) @ right
        expected = (1 - 0.01 * 0.1) * expected - 0.01 * 0.2 * 40**0.5 * update
    torch.testing.assert_close(weight.detach().double(), expected, atol=2e-5, rtol=1e-4)


def test_all_else_moves_bit_for_bit_as_by_adamw():
    model = Hidden()
    other = copy.deepcopy(model)
    ours = make_optimizer(model, CONFIG)
    adamw = make_optimizer(other, OptimizerConfig(lr=CONFIG.lr, weight_decay=0.1))
    for seed in range(4):
        for each, optimizer in ((model, ours), (other, adamw)):
            gradients(each, seed)
            optimizer.step()
    differ = {
        name
        for (name, value), expected in zip(
            model.named_parameters(), other.parameters(), strict=True
        )
        if not torch.equal(value, expected)
    }
    assert differ == {"kernel.weight", "matrix.weight"}


def test_the_gradients_are_left_as_they_were_and_a_missing_one_moves_nothing():
    model = Hidden()
    optimizer = make_optimizer(model, CONFIG)
    gradients(model, 0)
    before = {name: grad_of(value).clone() for name, value in model.named_parameters()}
    optimizer.step()
    for name, value in model.named_parameters():
        assert torch.equal(grad_of(value), before[name])
    model.matrix.weight.grad = None
    weight, momentum = (
        value.detach().clone()
        for value in (model.matrix.weight, optimizer.state[model.matrix.weight]["momentum"])
    )
    optimizer.step()
    assert torch.equal(model.matrix.weight, weight)
    assert torch.equal(optimizer.state[model.matrix.weight]["momentum"], momentum)


def test_its_state_comes_back_to_the_same_bits_and_adamws_is_refused():
    model = Hidden()
    other, adamw = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = make_optimizer(model, CONFIG)
    gradients(model, 0)
    optimizer.step()
    tensors = {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}
    other.load_state_dict(model.state_dict())
    resumed = make_optimizer(other, CONFIG)
    load_optimizer(resumed, tensors)
    for each, its in ((model, optimizer), (other, resumed)):
        gradients(each, 1)
        its.step()
    for value, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(value, expected)
    theirs = make_optimizer(adamw, OptimizerConfig())
    gradients(adamw, 0)
    theirs.step()
    with pytest.raises(ValueError, match="the optimizer"):
        load_optimizer(resumed, optimizer_tensors(theirs))


def test_a_dry_run_counts_one_momentum_for_a_hidden_matrix():
    model = Hidden()
    optimizer = make_optimizer(model, CONFIG)
    gradients(model, 0)
    optimizer.step()
    held = sum(value.nbytes for value in model.parameters())
    state = sum(value.nbytes for value in optimizer_tensors(optimizer).values())
    assert trained_bytes(model, CONFIG) == 2 * held + state
    hidden = model.kernel.weight.nbytes + model.matrix.weight.nbytes
    assert trained_bytes(model, OptimizerConfig()) - trained_bytes(model, CONFIG) == hidden + 8


def moved_by_muon(model: nn.Module) -> set[str]:
    optimizer = make_optimizer(model, CONFIG)
    assert isinstance(optimizer, Muon)
    moved = {id(value) for value in optimizer.param_groups[-1]["params"]}
    return {name for name, value in model.named_parameters() if id(value) in moved}


SHIPPED = shipped_configs()
TOKENIZERS = sorted(
    str(path.relative_to(SHIPPED).with_suffix(""))
    for path in SHIPPED.rglob("*.yaml")
    if "tokenizer" in str(path.relative_to(SHIPPED))
)
OUTER = ("encoder.layers.0.", "encoder.embed.", "decoder.out.", "decoder.to_pixels.", "quantizer.")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_layer_between_pixels_and_codes_of_a_shipped_tokenizer_is_hidden(name):
    config = load_config(TokenizerTrainingConfig, SHIPPED / f"{name}.yaml")
    with torch.device("meta"):
        model = VideoTokenizer(config.model)
    layers = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv3d)
    }
    expected = {layer for layer in layers if not layer.startswith(OUTER)}
    # Ablations have levels of 8 channels, which are too thin.
    sizes = {
        path: value.flatten(1).shape for path, value in model.named_parameters() if path in expected
    }
    assert moved_by_muon(model) == {path for path in expected if min(sizes[path]) >= 16}
    assert len(expected) > 8


def test_the_demos_tokenizer_has_thirteen_hidden_kernels():
    config = load_config(TokenizerTrainingConfig, SHIPPED / "demo/tokenizer.yaml")
    with torch.device("meta"):
        model = VideoTokenizer(config.model)
    hidden = moved_by_muon(model)
    assert len(hidden) == 13
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    assert sum(sizes[name] for name in hidden) == 2_633_728


def test_the_blocks_of_a_prior_are_hidden_and_its_embeddings_positions_and_head_are_not():
    config = load_config(PriorTrainingConfig, SHIPPED / "demo/prior.yaml")
    sizes = PriorConfig(
        codebook_size=512,
        grid_thw=(4, 8, 8),
        num_classes=4,
        num_action_dims=16,
        transformer=config.model,
    )
    with torch.device("meta"):
        model = Prior(sizes)
    linear = {
        f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    blocks = {path for path in linear if path.startswith("blocks.")}
    assert linear - blocks == {"head.weight", "action_embedding.weight"}
    assert moved_by_muon(model) == blocks
