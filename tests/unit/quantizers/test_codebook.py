"""Tests of codebook statistics, averages and restarts against closed forms and a reference."""

from typing import Any, get_args

import pytest
import torch
from vector_quantize_pytorch import VectorQuantize

from video_vq.errors import InputError
from video_vq.quantizers.build import build_quantizer
from video_vq.quantizers.codebook import Codebook, merge
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import Estimator, QuantizerConfig


def config(**changes) -> QuantizerConfig:
    return QuantizerConfig(**{"codebook_size": 16, "codebook_dim": 4, **changes})


def started(settings: QuantizerConfig, seed: int = 0, n: int = 256):
    torch.manual_seed(seed)
    codebook = Codebook(settings)
    latents = torch.randn(n, settings.codebook_dim)
    codebook.initialize((latents,), seed)
    return codebook, latents


def test_first_codes_are_latents_of_the_batch():
    codebook, latents = started(config())
    assert bool(codebook.is_initialized)
    for code in codebook.codes:
        assert bool((latents == code).all(1).any())
    assert len({tuple(code.tolist()) for code in codebook.codes}) == 16


def test_first_codes_are_the_same_in_one_or_several_micro_batches():
    codebook, latents = started(config())
    other = Codebook(config())
    other.initialize(latents.chunk(4), 0)
    assert torch.equal(other.codes, codebook.codes)


def test_first_codes_wait_for_latents_that_are_finite():
    codebook = Codebook(config())
    before = codebook.codes.clone()
    latents = torch.randn(16, 4)
    latents[3, 1] = torch.nan  # 16 codes of 16 latents: it is drawn
    codebook.initialize((latents,), 0)
    assert not codebook.is_initialized
    assert torch.equal(codebook.codes, before)
    codebook.initialize((latents.nan_to_num(),), 0)
    assert bool(codebook.is_initialized)


def test_forward_changes_nothing():
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(8, config())
    features = torch.randn(2, 8, 2, 3, 3)
    quantizer.codebook.initialize((quantizer.latents(features),), 0)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.train()
    first = quantizer(features)
    second = quantizer(features)
    assert torch.equal(first.quantized, second.quantized)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_forward_gives_exactly_the_code_also_inside_autocast():
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(8, config())
    features = torch.randn(2, 8, 2, 3, 3)
    quantizer.codebook.initialize((quantizer.latents(features),), 0)
    plain = quantizer(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(features)
    assert torch.equal(plain.codes, cast.codes)
    assert torch.equal(plain.quantized, quantizer.decode(plain.codes))
    assert torch.equal(cast.quantized, plain.quantized)


def test_average_follows_the_closed_form_after_the_warm_up():
    codebook, latents = started(config(restart_threshold=0.0))
    codebook.num_updates.fill_(10**6)
    counts, sums = codebook.average_count.clone(), codebook.average_sum.clone()
    indices = nearest_codes(latents, codebook.codes)
    codebook.update(codebook.statistics(latents, indices), seed=0)
    one_hot = torch.nn.functional.one_hot(indices, 16).float()
    counts = 0.99 * counts + 0.01 * one_hot.sum(0)
    sums = 0.99 * sums + 0.01 * one_hot.T @ latents
    torch.testing.assert_close(codebook.average_count, counts)
    torch.testing.assert_close(codebook.codes, sums / counts[:, None])


def test_average_agrees_with_vector_quantize_pytorch():
    torch.manual_seed(0)
    peer: Any = VectorQuantize(dim=4, codebook_size=16, decay=0.9, threshold_ema_dead_code=0)
    codebook = Codebook(config(decay=0.9, restart_threshold=0.0))
    codebook.codes.copy_(peer._codebook.embed[0])
    codebook.average_sum.copy_(peer._codebook.embed_avg[0])
    codebook.average_count.copy_(peer._codebook.cluster_size[0])
    codebook.num_updates.fill_(10**6)
    peer.train()
    for _ in range(5):
        latents = torch.randn(512, 4)
        indices = nearest_codes(latents, codebook.codes)
        _, theirs, _ = peer(latents[None])
        assert torch.equal(indices, theirs[0])
        codebook.update(codebook.statistics(latents, indices), seed=0)
        torch.testing.assert_close(codebook.average_count, peer._codebook.cluster_size[0])
        torch.testing.assert_close(codebook.average_sum, peer._codebook.embed_avg[0])
        # The peer smooths counts by 1e-5 before it divides.
        torch.testing.assert_close(codebook.codes, peer._codebook.embed[0], rtol=1e-3, atol=1e-4)


def test_restarted_codes_survive_the_step_that_restarts_them():
    codebook, latents = started(config(restart_threshold=0.5))
    codebook.num_updates.fill_(10**6)
    codebook.average_count[3] = 0.01
    codebook.average_sum[3] = 0.01 * codebook.codes[3]
    far = torch.full((4,), 100.0)
    codebook.codes[3] = far
    indices = nearest_codes(latents, codebook.codes)
    update = codebook.update(codebook.statistics(latents, indices), seed=0)
    assert 3 in update.restarted.tolist()
    assert bool((latents == codebook.codes[3]).all(1).any())
    mean_count = len(latents) / 16
    assert codebook.average_count[3] == mean_count
    torch.testing.assert_close(codebook.average_sum[3], mean_count * codebook.codes[3])
    placed = codebook.codes[3].clone()
    indices = nearest_codes(latents, codebook.codes)
    update = codebook.update(codebook.statistics(latents, indices), seed=0)
    assert 3 not in update.restarted.tolist()
    assert (codebook.codes[3] - placed).norm() < 0.1


def test_accumulated_micro_batches_equal_one_batch():
    whole, latents = started(config(restart_threshold=0.9))
    parts, _ = started(config(restart_threshold=0.9))
    for step in range(5):
        batch = latents.roll(step, 0) * (1 + step)
        one = whole.statistics(batch, nearest_codes(batch, whole.codes))
        pieces = [
            parts.statistics(piece, nearest_codes(piece, parts.codes)) for piece in batch.split(64)
        ]
        whole.update(one, seed=5)
        parts.update(merge(pieces), seed=5)
        torch.testing.assert_close(whole.codes, parts.codes)
    assert torch.equal(whole.average_count, parts.average_count)


def test_unit_sphere_codes_stay_on_it():
    codebook, latents = started(config(normalize=True))
    latents = torch.nn.functional.normalize(latents, dim=1)
    codebook.initialize((latents,), 0)
    for _ in range(3):
        indices = nearest_codes(latents, codebook.vectors())
        codebook.update(codebook.statistics(latents, indices), seed=0)
        torch.testing.assert_close(codebook.vectors().norm(dim=1), torch.ones(16))


def test_gradient_learning_moves_codes_by_the_codebook_loss_alone():
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(4, config(learning="gradient", init="uniform"))
    output = quantizer(torch.randn(2, 4, 1, 2, 2))
    output.quantized.sum().backward(retain_graph=True)
    assert quantizer.codebook.codes.grad is None
    output.losses["codebook"].backward()
    assert quantizer.codebook.codes.grad is not None


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_every_estimator_reaches_the_encoder(estimator):
    torch.manual_seed(0)
    learning = "gradient" if estimator == "index_backpropagation" else "ema"
    quantizer: Any = build_quantizer(8, config(estimator=estimator, learning=learning))
    features = torch.randn(2, 8, 2, 2, 2, requires_grad=True)
    quantizer.codebook.initialize((quantizer.latents(features).detach(),), 0)
    output = quantizer(features)
    output.quantized.square().sum().backward()
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())
    # These wait for the gradient of a second pass (test_second_pass.py).
    waits = estimator in ("exact_gradient", "hessian")
    assert (float(features.grad.abs().sum()) > 0) != waits


def test_codes_out_of_range_are_refused():
    quantizer: Any = build_quantizer(8, config())
    with pytest.raises(InputError, match=r"in 0\.\.15, found 0\.\.16; .* another size"):
        quantizer.decode(torch.tensor([[[[0, 16]]]]))
    with pytest.raises(InputError, match="must be integers"):
        quantizer.decode(torch.zeros(1, 1, 1, 1))
