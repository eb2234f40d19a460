"""Tests of residual and grouped VQ against vector-quantize-pytorch, and of shared parts."""

from typing import Any

import pytest
import torch
import vector_quantize_pytorch

from video_vq.errors import InputError
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.codebook import merge
from video_vq.quantizers.quantizer_config import ResidualConfig


def made(config: ResidualConfig, scale: float = 1.0) -> Any:
    """Return a quantizer without projections, whose random codes get smaller at each level."""
    torch.manual_seed(0)
    width = config.groups * config.codebook_dim
    quantizer: Any = build_quantizer(width, config)
    quantizer.project_in = quantizer.project_out = torch.nn.Identity()
    for index, book in enumerate(quantizer.codebook.books):
        level = index // config.groups
        book.codes.data.copy_(scale * torch.randn(book.codes.shape) / (1 + level))
        book.is_initialized.fill_(True)
    return quantizer


@pytest.mark.parametrize(
    "config",
    [
        ResidualConfig(codebook_sizes=(16, 12, 8), codebook_dim=4),
        ResidualConfig(codebook_sizes=(16, 8), codebook_dim=4, groups=3),
        ResidualConfig(codebook_sizes=(16,), codebook_dim=4, groups=2),
        ResidualConfig(codebook_sizes=(16, 16), codebook_dim=4, shared=True),
    ],
)
def test_codes_vectors_and_losses_agree_with_the_peer(config):
    ours = made(config)
    groups, sizes = config.groups, config.codebook_sizes
    theirs: Any = vector_quantize_pytorch.GroupedResidualVQ(
        dim=groups * 4,
        groups=groups,
        codebook_size=sizes,
        shared_codebook=config.shared,
        commitment_weight=1.0,
        rotation_trick=False,
    )
    for group, levels in enumerate(theirs.rvqs):
        for level, layer in enumerate(levels.layers):
            layer._codebook.embed.data.copy_(ours.codebook.book(level * groups + group).codes)
    theirs.eval()
    x = torch.randn(2, groups * 4, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    rows = x.flatten(2).mT
    expected, indices, _ = theirs(rows)  # indices: group, b, n, level
    found = ours(x)
    torch.testing.assert_close(found.quantized.flatten(2).mT, expected)
    assert torch.equal(found.codes.flatten(1, 3), indices.permute(1, 2, 3, 0).flatten(2))
    assert torch.equal(ours.encode(x), found.codes)
    assert torch.equal(ours.decode(found.codes), found.quantized)
    theirs.train()
    losses = theirs(rows, freeze_codebook=True)[2].reshape(groups, -1)
    torch.testing.assert_close(found.losses["commitment"], losses.sum() / groups, rtol=0, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_estimator_passes_the_gradient_once_whatever_the_number_of_levels(groups):
    config = ResidualConfig(
        codebook_sizes=(8, 8, 8),
        codebook_dim=4,
        groups=groups,
        estimator="straight_through",
        learning="gradient",
    )
    quantizer = made(config)
    x = torch.randn(2, 4 * groups, 5, requires_grad=True)
    output = quantizer(x)
    g = torch.randn(output.quantized.shape)
    (output.quantized * g).sum().backward(retain_graph=True)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, g)
    x.grad = None
    torch.stack(list(output.losses.values())).sum().backward()
    force = quantizer.commitment_force(output.rows)
    assert isinstance(x.grad, torch.Tensor)
    torch.testing.assert_close((x * x.grad).sum(), force, rtol=1e-4, atol=1e-5)
    for book in quantizer.codebook.books:  # each level learns from what it was given alone
        assert float(book.codes.grad.abs().sum()) > 0


def test_first_codes_of_a_level_are_what_the_level_before_left_over():
    torch.manual_seed(0)
    config = ResidualConfig(codebook_sizes=(4, 16), codebook_dim=4)
    quantizer: Any = build_quantizer(4, config)
    assert not quantizer.codebook.is_initialized
    rows = torch.randn(200, 4)
    quantizer.codebook.initialize((rows[:90], rows[90:]), seed=3)
    assert quantizer.codebook.is_initialized
    first, second = (quantizer.codebook.book(level) for level in (0, 1))
    levels = quantizer.codebook.quantize(rows)
    left = levels[1].residual
    torch.testing.assert_close(left, rows - first.codes[levels[0].codes])
    assert all(bool((left == code).all(1).any()) for code in second.codes)
    # Drawn at the same places as level 0's, they would all be zero.
    assert int((second.codes.abs().sum(1) < 1e-6).sum()) <= 4
    error = [
        (rows - quantizer.codebook.total([level.vector for level in levels[:n]])).square().mean()
        for n in (1, 2)
    ]
    assert error[1] < error[0] / 2


@pytest.mark.parametrize("shared", [False, True])
def test_an_update_moves_each_codebook_as_alone_and_numbers_restarted_codes_in_a_row(shared):
    config = ResidualConfig(codebook_sizes=(8, 8), codebook_dim=4, shared=shared, groups=2)
    ours, alone = made(config), made(config)
    features = [torch.randn(3, 8, 6), torch.randn(3, 8, 6)]
    outputs = [ours(part) for part in features]
    update = ours.codebook.update(merge([output.statistics for output in outputs]), seed=5)
    counts = torch.stack([output.codes for output in outputs]).flatten(0, 2)
    expected = torch.cat([torch.bincount(counts[:, level], minlength=8) for level in range(4)])
    assert torch.equal(update.counts, expected)
    books = [alone.codebook.book(index) for index in range(len(alone.codebook.books))]
    given: list[list[Any]] = [[] for _ in books]
    for part in features:
        for number, level in enumerate(alone.codebook.quantize(alone.latents(part))):
            index = number % len(books)
            given[index].append(books[index].statistics(level.residual, level.codes))
    restarted = []
    for index, (book, parts) in enumerate(zip(books, given, strict=True)):
        found = book.update(merge(parts), 5 + (index << 40)).restarted
        restarted += [f"books.{index}.codes {row}" for row in found.tolist()]
    assert shared or len(restarted) > 0
    named = ours.codebook.code_rows(update.restarted)
    assert [f"{name} {row}" for name, rows in named.items() for row in rows.tolist()] == restarted
    if not shared:
        for one, other in zip(ours.codebook.books, alone.codebook.books, strict=True):
            torch.testing.assert_close(one.codes, other.codes)


def test_dropout_shows_the_decoder_the_first_levels_in_training_alone():
    config = ResidualConfig(codebook_sizes=(8, 8, 8), codebook_dim=4, dropout=True)
    quantizer = made(config)
    x = torch.randn(2, 4, 9)
    whole = quantizer.eval()(x)
    quantizer.train()
    depths = []
    for _ in range(30):
        output, depth = quantizer(x), quantizer.codebook.depth()
        assert torch.equal(quantizer(x).quantized, output.quantized)  # micro-batches agree
        assert torch.equal(output.codes, whole.codes)
        levels = quantizer.codebook.quantize(quantizer.latents(x))[:depth]
        expected = torch.stack([level.vector for level in levels]).sum(0).view(2, 9, 4).mT
        torch.testing.assert_close(output.quantized, expected)
        depths.append(depth)
        quantizer.codebook.book(0).num_updates += 1
    assert set(depths) == {1, 2, 3}
    assert torch.equal(quantizer.eval()(x).quantized, whole.quantized)


def test_codes_of_another_quantizer_get_a_sentence():
    quantizer = made(ResidualConfig(codebook_sizes=(8, 4), codebook_dim=4))
    with pytest.raises(InputError, match=r"2 levels along their last axis.*\(1, 1, 1, 3\)"):
        quantizer.decode(torch.zeros(1, 1, 1, 3, dtype=torch.int64))
    with pytest.raises(InputError, match=r"codes of level 1 must lie in 0\.\.3, found 7\.\.7"):
        quantizer.decode(torch.tensor([[[[7, 7]]]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResidualConfig(codebook_sizes=(8,)), "for a single code set kind: vector"),
        (lambda: ResidualConfig(codebook_sizes=(8, 4), shared=True), "levels of one size"),
        (lambda: ResidualConfig(codebook_sizes=(8,), groups=2, dropout=True), "leaves out levels"),
        (lambda: ResidualConfig(codebook_sizes=(8,) * 40, groups=2), "expected 2 to 64"),
    ],
)
def test_settings_that_make_no_quantizer_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
