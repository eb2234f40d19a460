"""Tests of binary codes against vector-quantize-pytorch and closed forms; grouped FSQ; iFSQ."""

import itertools
import math
from typing import Any

import pytest
import torch
import vector_quantize_pytorch

from video_vq.quantizers.binary import BinaryCodebook, bit_entropy, joint_entropy
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.finite import FiniteCodebook
from video_vq.quantizers.fixed import FixedQuantizer
from video_vq.quantizers.quantizer_config import BinaryConfig, FiniteConfig


def without_projections(codebook: Any, dim: int) -> Any:
    quantizer: Any = FixedQuantizer(dim, codebook)
    quantizer.project_in = quantizer.project_out = torch.nn.Identity()
    return quantizer


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_codes_vectors_losses_and_gradients_agree_with_the_peer(spherical, groups):
    bits, inverse = 6, 2.0
    theirs: Any = vector_quantize_pytorch.LFQ(
        dim=bits * groups,
        codebook_size=2**bits,
        num_codebooks=groups,
        spherical=spherical,
        entropy_loss_weight=0.1,
        commitment_loss_weight=0.25,
        diversity_gamma=0.7,
    )
    config = BinaryConfig(
        num_bits=bits,
        groups=groups,
        spherical=spherical,
        temperature=1 / inverse,
        diversity=0.7,
        entropy_channels=bits,
    )
    ours = without_projections(BinaryCodebook(config), bits * groups)
    x = 0.4 * torch.randn(2, bits * groups, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, indices, loss = theirs(a, inv_temperature=inverse)
    found = ours(b)
    torch.testing.assert_close(found.quantized, expected)
    assert torch.equal(found.codes, indices.long())
    # Ours counts from the uniform distribution on, so that it is never negative.
    our_loss = 0.1 * found.losses["entropy"] + 0.25 * found.losses["commitment"]
    torch.testing.assert_close(our_loss - 0.07 * bits * math.log(2), loss, rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 1, x.numel()).view(x.shape)
    ((expected * weights).sum() + loss).backward()
    ((found.quantized * weights).sum() + our_loss).backward()
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.decode(found.codes), theirs.indices_to_codes(indices), rtol=0, atol=1e-6
    )


def test_the_soft_entropy_is_that_of_all_codes_counted_one_by_one():
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(50, 1, 5, generator=generator), dim=2).double()
    temperature = 0.3
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5))).double() * 5**-0.5
    choice = (-(z[:, 0, None] - codes).square().sum(2) / temperature).softmax(1)
    logits = z * (4 * 5**-0.5 / temperature)
    per_row = -(choice * choice.log()).sum(1)
    torch.testing.assert_close(bit_entropy(logits).sum((1, 2)), per_row)
    mean = choice.mean(0)
    torch.testing.assert_close(joint_entropy(logits, 5, False), -(mean * mean.log()).sum())
    # Blocks are marginal distributions: channels 0 to 2, then 3 and 4.
    parts = [mean.view(8, 4).sum(1), mean.view(8, 4).sum(0)]
    expected = torch.stack([-(part * part.log()).sum() for part in parts]).sum()
    torch.testing.assert_close(joint_entropy(logits, 3, False), expected)
    # Single channels: BSQ's sum of the entropies of bits.
    bits = torch.sigmoid(logits).mean(0)[0]
    ones = -(bits * bits.log() + (1 - bits) * (1 - bits).log()).sum()
    torch.testing.assert_close(joint_entropy(logits, 1, False), ones)


def test_entropy_has_the_gradient_that_finite_differences_give():
    logits = torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: joint_entropy(x, 3, False), logits)
    assert torch.autograd.gradcheck(lambda x: bit_entropy(x).sum(), logits)


def test_entropy_and_its_gradient_stay_finite_where_bits_are_certain():
    logits = torch.tensor([[[200.0, -200.0, 0.0, 1e4]]], requires_grad=True)
    total = joint_entropy(logits, 4, False) + bit_entropy(logits).sum()
    torch.testing.assert_close(total.detach(), torch.tensor(2 * math.log(2)))
    total.backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_an_even_choice_costs_no_diversity_and_a_single_code_costs_all_of_it():
    config = BinaryConfig(num_bits=4, spherical=False, diversity=1.0)
    book = BinaryCodebook(config)
    every = book.lookup(torch.arange(16))
    even = book.losses(book.quantize(every), is_training=False)["entropy"]
    assert abs(float(even)) < 1e-5
    one = book.losses(book.quantize(every[:1].expand(16, -1)), is_training=False)["entropy"]
    assert abs(float(one) - 4 * math.log(2)) < 1e-5


def test_the_first_channel_is_the_highest_bit_and_nothing_of_the_codebooks_size_is_held():
    torch.manual_seed(0)
    quantizer = build_quantizer(8, BinaryConfig(num_bits=18))
    assert sum(value.numel() for value in quantizer.state_dict().values()) < 1000
    book: Any = quantizer.codebook
    vectors = book.lookup(torch.tensor([1 << 17, 1, 0]))
    assert (vectors > 0).nonzero().tolist() == [[0, 0], [1, 17]]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    output = quantizer(torch.randn(2, 8, 4, 4, 4))
    assert int(output.codes.max()) > 1 << 16
    assert torch.equal(quantizer.decode(output.codes), output.quantized)


def test_grouped_finite_scalar_quantization_agrees_with_the_peer():
    levels = (8, 5, 6)
    theirs: Any = vector_quantize_pytorch.FSQ(levels=list(levels), num_codebooks=2)
    ours = without_projections(FiniteCodebook(FiniteConfig(levels=levels, groups=2)), 6)
    x = 2 * torch.randn(2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected, indices = theirs(x)
    found = ours(x)
    torch.testing.assert_close(found.quantized, expected)
    assert torch.equal(found.codes, indices.long())
    assert torch.equal(ours.decode(found.codes), found.quantized)
    assert ours.config.vocabulary == (240, 240)


def test_ifsq_bounds_by_a_sigmoid():
    x = torch.linspace(-4, 4, 101).unsqueeze(1).double()
    odd, even = (
        FiniteCodebook(FiniteConfig(levels=(number,), activation="sigmoid")) for number in (5, 8)
    )
    bounded = (2 * torch.sigmoid(1.6 * x) - 1) * 2 * 1.001
    torch.testing.assert_close(odd.bound(x), bounded)
    assert torch.equal(odd.quantize(x.float()).q[:, 0], (bounded.float().round() / 2)[:, 0])
    # With an even number of levels 0 stays between the same two levels as with tanh.
    assert float(even.bound(torch.zeros(1, 1))) == pytest.approx(0, abs=1e-6)
    assert len(even.quantize(x.float()).codes.unique()) == 8
    # Of normal latents the bounded values are nearer to uniform than with tanh.
    normal = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0))

    def distance_to_uniform(activation: Any) -> float:
        book = FiniteCodebook(FiniteConfig(levels=(5,), activation=activation))
        values = book.bound(normal).flatten().sort().values
        uniform = torch.linspace(float(book.bound(-torch.full((1, 1), 1e3))), 2.002, len(values))
        return float((values - uniform).abs().max())

    assert distance_to_uniform("sigmoid") < distance_to_uniform("tanh") / 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryConfig(num_bits=25), "less than or equal to 24"),
        (lambda: BinaryConfig(temperature=0.0), "greater than 0"),
        (lambda: FiniteConfig(levels=(256, 256, 257)), "less than or equal to 256"),
        (lambda: FiniteConfig(levels=(256,) * 4), "product of 3 to 16777216"),
    ],
)
def test_settings_that_make_no_quantizer_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
