"""Tests of FSQ and SimVQ against vector-quantize-pytorch, and of the shared interface."""

from functools import partial
from typing import Any

import pytest
import torch
import vector_quantize_pytorch

from video_vq.errors import InputError
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.finite import FiniteCodebook
from video_vq.quantizers.fixed import FixedQuantizer
from video_vq.quantizers.quantizer_config import (
    AT_COMPARED_LATENTS,
    FiniteConfig,
    QuantizerConfig,
    SimVQConfig,
)


def make_config(**settings: Any) -> QuantizerConfig:
    return QuantizerConfig(**settings)


CONFIGS = [
    QuantizerConfig(codebook_size=60, codebook_dim=4),
    QuantizerConfig(codebook_size=60, codebook_dim=4, normalize=True, gradient_through_norm=False),
    QuantizerConfig(codebook_size=60, codebook_dim=4, centered=True),
    QuantizerConfig(codebook_size=60, codebook_dim=4, learning="frozen"),
    QuantizerConfig(codebook_size=60, codebook_dim=4, rms_scaling="with_gradient"),
    SimVQConfig(codebook_size=60, codebook_dim=4),
    SimVQConfig(codebook_size=60, codebook_dim=4, estimator="rotation_blended"),
    FiniteConfig(levels=(5, 4, 3)),
]


def started(config: Any, features: torch.Tensor) -> Any:
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(8, config)
    if not quantizer.codebook.is_initialized:
        quantizer.codebook.initialize((quantizer.latents(features).detach(),), 0)
    return quantizer


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_codes_decode_to_what_forward_gives_bit_for_bit(config, autocast):
    features = torch.randn(2, 8, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    quantizer = started(config, features)
    plain = quantizer.encode(features)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        output = quantizer(features)
        assert torch.equal(output.codes, plain)
        assert torch.equal(quantizer.encode(features), plain)
        assert torch.equal(quantizer.decode(plain), output.quantized)
    assert output.quantized.dtype == torch.float32
    assert 0 <= int(plain.min()) <= int(plain.max()) < quantizer.config.codebook_size == 60
    assert len(plain.unique()) > 5


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_reach_the_encoder_and_forward_changes_nothing(config):
    features = torch.randn(2, 8, 2, 3, 3, requires_grad=True)
    quantizer = started(config, features)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    output = quantizer(features)
    output.quantized.square().sum().backward(retain_graph=True)
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0
    update = quantizer.codebook.update(output.statistics, 0)
    assert int(update.counts.sum()) == 36
    quantizer.codebook.lookup(update.counts.nonzero()[:, 0])
    learned = isinstance(config, QuantizerConfig) and config.learning != "frozen"
    for name, value in quantizer.state_dict().items():
        assert (
            torch.equal(value, before[name])
            or (learned and name.startswith("codebook."))
            or (name == "codebook.num_updates")
        )


def test_finite_scalar_quantization_agrees_with_the_peer():
    levels = (8, 5, 5, 6)
    theirs: Any = vector_quantize_pytorch.FSQ(levels=list(levels))
    ours = FixedQuantizer(4, FiniteCodebook(FiniteConfig(levels=levels)))
    for projection in ("project_in", "project_out"):
        setattr(ours, projection, torch.nn.Identity())
    x = 3 * torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, indices = theirs(a)
    found = ours(b)
    torch.testing.assert_close(found.quantized, expected)
    assert torch.equal(found.codes, indices.long())
    weights = torch.linspace(-1, 1, x.numel()).view(x.shape)
    (expected * weights).sum().backward()
    (found.quantized * weights).sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
    every = torch.arange(8 * 5 * 5 * 6)
    torch.testing.assert_close(ours.codebook.lookup(every), theirs.implicit_codebook)


def test_simvq_agrees_with_the_peer():
    theirs: Any = vector_quantize_pytorch.SimVQ(dim=6, codebook_size=32)
    ours: Any = build_quantizer(6, SimVQConfig(codebook_size=32, codebook_dim=6))
    ours.project_in, ours.project_out = torch.nn.Identity(), torch.nn.Identity()
    ours.codebook.codes.copy_(theirs.frozen_codebook)
    ours.codebook.map.load_state_dict(theirs.code_transform.state_dict())
    x = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    a, b = x.clone().requires_grad_(), x.mT.clone().requires_grad_()
    expected, indices, loss = theirs(a)
    found = ours(b)
    torch.testing.assert_close(found.quantized.mT, expected)
    assert torch.equal(found.codes, indices)
    our_loss = found.losses["codebook"] + 0.25 * found.losses["commitment"]
    torch.testing.assert_close(our_loss, loss)
    weights = torch.linspace(-1, 1, x.numel()).view(x.shape)
    ((expected * weights).sum() + loss).backward()
    ((found.quantized.mT * weights).sum() + our_loss).backward()
    assert b.grad is not None
    torch.testing.assert_close(b.grad.mT, a.grad)
    torch.testing.assert_close(ours.codebook.map.weight.grad, theirs.code_transform.weight.grad)


@pytest.mark.parametrize("config", CONFIGS)
def test_bad_input_gets_a_clear_error(config):
    features = torch.randn(2, 8, 2, 3, 3)
    quantizer = started(config, features)
    with pytest.raises(InputError, match=r"takes features of 8 channels.*found \(2, 7, 2, 3, 3\)"):
        quantizer(torch.randn(2, 7, 2, 3, 3))
    for bad in (torch.nan, torch.inf):
        broken = features.clone()
        broken[1, :, 0, 0, 0] = bad
        for call in (quantizer, quantizer.encode):
            with pytest.raises(InputError, match="1 of 36 latents hold NaN or infinite values"):
                call(broken)
        output = quantizer(broken, check=False)
        assert not torch.isfinite(output.quantized).all() or not (
            torch.isfinite(output.losses["commitment"])
        )
    with pytest.raises(InputError, match=r"codes must lie in 0\.\.59, found 0\.\.60; they belong"):
        quantizer.decode(torch.tensor([[[[0, 60]]]]))
    with pytest.raises(InputError, match="codes must be integers"):
        quantizer.decode(torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.int64])
def test_codes_of_any_integer_type_are_looked_up(config, dtype):
    quantizer = started(config, torch.randn(2, 8, 2, 3, 3))
    codes = torch.arange(60).view(1, 4, 3, 5)
    vectors = quantizer.codebook.lookup(codes.flatten())
    assert vectors.shape == (60, quantizer.codebook.lookup(codes.flatten()[:1]).shape[1])
    assert len(vectors.unique(dim=0)) > 20  # of 36 latents
    assert torch.equal(quantizer.codebook.lookup(codes.flatten().to(dtype)), vectors)
    assert torch.equal(quantizer.decode(codes.to(dtype)), quantizer.decode(codes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantizerConfig(codebook_size=0), "codebook_size"),
        (lambda: SimVQConfig(codebook_size=0), "codebook_size"),
        (lambda: FiniteConfig(levels=()), "levels must have a product"),
        (lambda: FiniteConfig(levels=(8, 2)), "greater than or equal to 3"),
        (lambda: QuantizerConfig(gradient_through_norm=False), "set normalize: true"),
        (
            lambda: QuantizerConfig(normalize=True, gradient_through_norm=False, centered=True),
            "set centered: false",
        ),
        (
            lambda: QuantizerConfig(normalize=True, tangential_commitment=True),
            "is tangential already.*leave tangential_commitment out",
        ),
        (
            lambda: QuantizerConfig(normalize=True, rms_scaling="constant"),
            "rms_scaling: constant changes nothing with normalize: true",
        ),
        (
            lambda: QuantizerConfig(equal_angle=20.0),
            "equal_angle is a setting of estimator: rotation_blended, found rotation",
        ),
        (
            lambda: QuantizerConfig(noise_variance=0.1),
            "noise_variance is a setting of estimator: diveq, found rotation",
        ),
        (
            lambda: SimVQConfig(temperature=0.1),
            "temperature is a setting of estimator: gumbel_softmax or index_backpropagation, found",
        ),
        (
            lambda: QuantizerConfig(estimator="index_backpropagation"),
            "moves all codes by its gradient, found learning: ema; set learning: gradient",
        ),
        *(
            (
                partial(make_config, estimator=estimator, **setting),
                f"estimator: {estimator} has its gradient at the latents as they are compared",
            )
            for estimator in AT_COMPARED_LATENTS
            for setting in ({"centered": True}, {"normalize": True, "gradient_through_norm": False})
        ),
    ],
)
def test_settings_that_make_no_quantizer_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_papers_arms_have_the_gradients_that_their_names_say():
    torch.manual_seed(0)
    features, g = torch.randn(64, 4, 1), torch.randn(64, 4, 1)

    def gradient_of(estimator: Any, through: bool) -> torch.Tensor:
        config = QuantizerConfig(
            codebook_size=8,
            codebook_dim=4,
            estimator=estimator,
            normalize=True,
            gradient_through_norm=through,
        )
        torch.manual_seed(1)
        quantizer: Any = build_quantizer(4, config)
        quantizer.project_in, quantizer.project_out = torch.nn.Identity(), torch.nn.Identity()
        quantizer.codebook.initialize((torch.nn.functional.normalize(torch.randn(64, 4)),), 0)
        leaf = features.clone().requires_grad_()
        (quantizer(leaf).quantized * g).sum().backward()
        assert leaf.grad is not None
        return leaf.grad[:, :, 0]

    rows, flat = features[:, :, 0], g[:, :, 0]
    norm = rows.norm(dim=1, keepdim=True)
    unit = rows / norm
    equation = gradient_of("rotation", through=False)
    released = gradient_of("rotation", through=True)
    torch.testing.assert_close(equation.norm(dim=1), flat.norm(dim=1) / norm[:, 0])
    tangential = equation - unit * (unit * equation).sum(1, keepdim=True)
    torch.testing.assert_close(released, tangential)
    torch.testing.assert_close(gradient_of("straight_through", through=False), flat)
    torch.testing.assert_close(
        gradient_of("straight_through", through=True),
        (flat - unit * (unit * flat).sum(1, keepdim=True)) / norm,
    )


def test_a_centered_rotation_does_not_depend_on_where_the_origin_is():
    torch.manual_seed(0)
    rows, g = torch.randn(200, 4), torch.randn(200, 4)

    def gradient_at(shift: float) -> torch.Tensor:
        config = QuantizerConfig(codebook_size=16, codebook_dim=4, centered=True)
        quantizer: Any = build_quantizer(4, config)
        quantizer.codebook.initialize((rows + shift,), 0)
        leaf = (rows + shift).requires_grad_()
        output = quantizer.quantize(leaf)
        assert torch.equal(output.quantized, quantizer.codebook.vectors()[output.codes])
        (output.quantized * g).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    torch.testing.assert_close(gradient_at(100.0), gradient_at(0.0), rtol=1e-2, atol=1e-2)


def test_a_codebook_of_another_size_is_refused():
    small, large = (
        build_quantizer(8, QuantizerConfig(codebook_size=size, codebook_dim=4)) for size in (16, 32)
    )
    with pytest.raises(RuntimeError, match=r"size mismatch for codebook\.codes"):
        small.load_state_dict(large.state_dict())
    output = large(torch.randn(2, 8, 3))
    with pytest.raises(InputError, match="has 16 codes of dimension 4, the statistics are of 32 x"):
        small.codebook.update(output.statistics, 0)
