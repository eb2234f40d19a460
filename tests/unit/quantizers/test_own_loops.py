"""Tests of quantizers built and trained in users' own training loops."""

import inspect
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from video_vq.errors import InputError
from video_vq.quantizers.binary import BinaryQuantizer
from video_vq.quantizers.build import BUILT_BY
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.finite import FiniteScalarQuantizer
from video_vq.quantizers.residual import ResidualQuantizer
from video_vq.quantizers.vector import SimVQ, VectorQuantizer

MAX_PASSES = 4
MOVING = [
    lambda: VectorQuantizer(6, 8),
    lambda: VectorQuantizer(6, 8, 4, normalize=True),
    lambda: VectorQuantizer(6, 8, learning="gradient"),
    lambda: VectorQuantizer(6, 8, rms_scaling="constant"),
    lambda: ResidualQuantizer(6, (8, 8)),
    lambda: ResidualQuantizer(6, (8, 8), groups=2, codebook_dim=4, shared=True),
]
STANDING = [
    lambda: FiniteScalarQuantizer(6, [5, 3]),
    lambda: BinaryQuantizer(6, 4),
    lambda: SimVQ(6, 8),
]


@pytest.fixture(autouse=True)
def few_passes(monkeypatch) -> None:
    monkeypatch.setattr("video_vq.quantizers.codebook.MAX_PASSES", MAX_PASSES)


def batch(seed: int, size: int = 4) -> Tensor:
    return torch.randn(size, 6, 2, 3, generator=torch.Generator().manual_seed(seed))


def codes_of(quantizer: Any) -> dict[str, Tensor]:
    """Return copies of all tensors of a codebook."""
    return {name: value.clone() for name, value in quantizer.codebook.state_dict().items()}


@pytest.mark.parametrize("settings", BUILT_BY)
def test_a_constructor_takes_its_settings_with_their_defaults(settings):
    takes = dict(inspect.signature(BUILT_BY[settings].__init__).parameters)
    expected = {one.name: one.default for one in fields(settings) if one.name != "kind"}
    assert MISSING not in expected.values()
    # A code has the width of the features, unless another is asked for; configs name it always.
    assert takes["codebook_dim"].default is None if "codebook_dim" in expected else True
    expected |= {"codebook_dim": None} if "codebook_dim" in expected else {}
    found = {name: one.default for name, one in takes.items()}
    assert found.pop("implementation", "auto") == "auto"
    assert {name: found[name] for name in found if name not in ("self", "dim")} == expected


@pytest.mark.parametrize("build", MOVING)
def test_the_first_step_places_the_codes_and_the_next_ones_move_them(build):
    torch.manual_seed(0)
    quantizer = build()
    first = quantizer(batch(0))
    placed = quantizer.step(first)
    assert len(placed.restarted) == sum(quantizer.vocabulary) == len(placed.counts)
    assert bool(quantizer.codebook.is_initialized)
    if isinstance(quantizer, VectorQuantizer):
        latents = quantizer.latents(batch(0)).detach()
        apart = torch.cdist(quantizer.codebook.vectors().detach(), latents).amin(1)
        assert float(apart.max()) < 1e-3  # each code is a latent
    before = codes_of(quantizer)
    parts = [quantizer(batch(1)), quantizer(batch(2))]
    assert all(torch.equal(value, before[name]) for name, value in codes_of(quantizer).items())
    twin = build()
    twin.load_state_dict(quantizer.state_dict())
    update = quantizer.step(*parts, seed=3)
    same = twin.codebook.update(merge([part.statistics for part in parts]), 3)
    assert torch.equal(update.counts, same.counts)
    assert int(update.counts.sum()) == 2 * 24 * len(quantizer.vocabulary)
    after = codes_of(quantizer)
    assert all(torch.equal(value, after[name]) for name, value in codes_of(twin).items())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("build", STANDING)
def test_where_no_step_is_needed_it_counts_and_changes_nothing(build):
    quantizer = build()
    before = codes_of(quantizer)
    for _ in range(MAX_PASSES):
        quantizer(batch(0))
    update = quantizer.step(quantizer(batch(0)))
    assert (int(update.counts.sum()), len(update.restarted)) == (24, 0)
    assert all(torch.equal(value, before[name]) for name, value in codes_of(quantizer).items())


@pytest.mark.parametrize("build", MOVING)
def test_a_loop_that_never_moves_the_codes_is_stopped(build):
    quantizer = build()
    for _ in range(2):
        for _ in range(MAX_PASSES - 1):
            quantizer(batch(0))
        quantizer.step(quantizer(batch(0)))  # in time
    for _ in range(MAX_PASSES):
        quantizer(batch(0))
        with torch.no_grad():
            quantizer(batch(0))  # to look at it is no training
        quantizer.eval()(batch(0))
        quantizer.train()
    with pytest.raises(InputError, match=r"call quantizer\.step\(output\) after each"):
        quantizer(batch(0))
    quantizer(batch(0), check=False)


def test_frozen_codes_need_one_step_that_places_them():
    quantizer = VectorQuantizer(6, 8, learning="frozen")
    output = quantizer(batch(0))
    for _ in range(1, MAX_PASSES):
        quantizer(batch(0))
    with pytest.raises(InputError, match="has not moved"):
        quantizer(batch(0))
    quantizer.step(output)
    for _ in range(MAX_PASSES + 1):
        quantizer(batch(0))


def test_without_a_codebook_dim_the_features_themselves_are_quantized():
    quantizer = VectorQuantizer(dim=6, codebook_size=16)
    assert isinstance(quantizer.project_in, nn.Identity)
    assert quantizer.codebook_size == 16
    quantizer.step(quantizer(batch(0)))
    codes = quantizer.encode(batch(0))
    expected = torch.cdist(batch(0).movedim(1, -1).reshape(-1, 6), quantizer.codebook.codes)
    assert torch.equal(codes.flatten(), expected.argmin(1))
    assert torch.equal(quantizer.decode(codes), quantizer.codebook.codes[codes].movedim(-1, 1))


@pytest.mark.parametrize("build", [*MOVING, *STANDING])
def test_arrays_and_tensors_give_the_same_codes_and_features(build):
    quantizer = build()
    codes = quantizer.encode(batch(0))
    assert torch.equal(quantizer.encode(batch(0).numpy()), codes)
    assert torch.equal(quantizer.decode(codes.numpy().astype(np.uint16)), quantizer.decode(codes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VectorQuantizer(6, 1), r"^VectorQuantizer: codebook_size = 1 should be greater"),
        (lambda: VectorQuantizer(0), "^VectorQuantizer: dim = 0 should be a whole number"),
        (lambda: VectorQuantizer(6, decay=2.0), "decay = 2.0 should be less than 1"),
        (
            lambda: VectorQuantizer(6, normalize=True, rms_scaling="constant"),
            "leave out one of them",
        ),
        (lambda: SimVQ(6, temperature=2.0), "temperature is a setting of estimator: gumbel"),
        (lambda: ResidualQuantizer(6, (8, 8), groups=4), "6 is not divisible by groups = 4"),
        (lambda: ResidualQuantizer(6, (8,)), "for a single code set kind: vector"),
        (lambda: FiniteScalarQuantizer(6, (2,)), r"levels\.0 = 2 should be greater"),
        (lambda: BinaryQuantizer(6, 30), "num_bits = 30 should be less"),
        (lambda: VectorQuantizer(6).step(), r"quantizer\.step\(output\)"),
        (lambda: VectorQuantizer(6)(batch(0).movedim(1, -1)), r"features\.movedim\(-1, 1\)"),
        (lambda: VectorQuantizer(6, 8).step(VectorQuantizer(6, 9)(batch(0))), "has 8 codes, .* 9"),
    ],
)
def test_what_is_wrong_gets_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
