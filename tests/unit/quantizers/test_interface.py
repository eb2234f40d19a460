"""Tests that every quantizer that a config can name follows the interface."""

import math
from dataclasses import fields
from typing import Any, get_args

import pytest
import torch

from video_vq.errors import InputError
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.interface import CodebookInterface, Quantizer
from video_vq.quantizers.quantizer_config import AnyQuantizerConfig
from video_vq.training.training_config import TokenizerLossConfig

# A kind that is added to the configs is checked without a word here.
KINDS = [get_args(one)[0] for one in get_args(get_args(AnyQuantizerConfig)[0])]


def build(config: Any) -> Quantizer:
    """Return a quantizer; pyright checks its signatures against the interface here."""
    return build_quantizer(8, config)


def members(interface: type) -> set[str]:
    """Return the public names of an interface."""
    names = {*vars(interface), *interface.__annotations__}
    return {name for name in names if not name.startswith("_")}


def test_the_interface_says_what_a_tokenizer_and_its_training_use():
    assert len(KINDS) >= 3
    methods = {"latents", "encode", "decode", "step", "commitment_force"}
    assert members(Quantizer) == {"dim", "project_in", "project_out", "codebook", *methods}
    assert members(CodebookInterface) == {
        *("is_initialized", "initialize", "update", "watch", "lookup", "code_rows")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_quantizer_keeps_to_the_interface(kind):
    torch.manual_seed(0)
    features = torch.randn(2, 8, 2, 3, 3, requires_grad=True)
    quantizer: Any = build(kind())
    assert all(hasattr(quantizer, name) for name in members(Quantizer))
    assert all(hasattr(quantizer.codebook, name) for name in members(CodebookInterface))
    assert quantizer.dim == 8
    latents = quantizer.latents(features)
    assert len(latents) == 36  # a row per cell
    quantizer.codebook.initialize((latents.detach(),), seed=0)
    assert quantizer.codebook.is_initialized

    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(features)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    assert output.quantized.shape == features.shape
    assert output.quantized.dtype == torch.float32
    sizes = list(quantizer.config.vocabulary)
    levels = () if len(sizes) == 1 else (len(sizes),)
    assert output.codes.shape == (2, 2, 3, 3, *levels)
    assert torch.equal(quantizer.encode(features), output.codes)
    assert torch.equal(quantizer.decode(output.codes), output.quantized)
    assert quantizer.codebook.lookup(output.codes.reshape(-1, *levels)).shape == latents.shape
    assert len(output.rows.e) == len(output.rows.q) == len(output.rows.passed) == 36

    # A loss of a name without a setting could not be weighed.
    assert output.losses.keys() <= {field.name for field in fields(TokenizerLossConfig)}
    for loss in output.losses.values():
        assert (loss.shape, loss.dtype) == ((), torch.float32)
    torch.stack([output.quantized.square().mean(), *output.losses.values()]).sum().backward()
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0

    update = quantizer.codebook.update(output.statistics, seed=0)
    of_levels = output.codes.reshape(-1, len(sizes)).unbind(1)
    for counts, codes, size in zip(update.counts.split(sizes), of_levels, sizes, strict=True):
        assert torch.equal(counts, torch.bincount(codes, minlength=size))
    assert quantizer.config.codebook_size == math.prod(sizes)
    placed = quantizer.codebook.code_rows(torch.arange(sum(sizes)))
    assert placed.keys() <= quantizer.codebook.state_dict().keys()
    assert sum(len(rows) for rows in placed.values()) in (0, sum(sizes))

    broken = features.detach().clone()
    broken[1, :, 0, 0, 0] = torch.nan
    for refused in (
        lambda: quantizer(features[:, :7]),
        lambda: quantizer(broken),
        lambda: quantizer.encode(broken),
        lambda: quantizer.decode(torch.full((1, 1, 1, 1, *levels), sizes[0])),
        lambda: quantizer.codebook.lookup(torch.full((1, *levels), -1)),
    ):
        with pytest.raises(InputError):
            refused()
    quantizer(broken, check=False)  # the loss that it makes is seen by the training
