"""Tests of the drop-in replacement against vector-quantize-pytorch itself."""

from typing import Any

import pytest
import torch
import vector_quantize_pytorch

from video_vq.errors import InputError
from video_vq.quantizers.compat import VectorQuantize

CASES = [
    ({}, (2, 50, 8)),
    ({}, (60, 8)),
    ({"rotation_trick": False}, (2, 50, 8)),
    ({"use_cosine_sim": True, "decay": 0.9}, (2, 50, 8)),
    ({"channel_last": False}, (2, 8, 50)),
    ({"accept_image_fmap": True}, (2, 8, 6, 7)),
    ({"accept_3d_fmap": True, "commitment_weight": 0.25}, (2, 8, 3, 4, 5)),
    ({"learnable_codebook": True, "ema_update": False}, (2, 50, 8)),
    ({"freeze_codebook": True}, (2, 50, 8)),
    ({"codebook_dim": 4}, (2, 50, 8)),
]


def both(settings: dict[str, Any]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    # eps=0: the peer smooths its averages by that much of a count, we do not.
    theirs: Any = vector_quantize_pytorch.VectorQuantize(8, 16, eps=0.0, **settings)
    ours: Any = VectorQuantize(8, 16, **settings)
    book = ours.quantizer.codebook
    book.codes.data.copy_(theirs._codebook.embed[0])
    book.average_sum.copy_(theirs._codebook.embed_avg[0])
    book.average_count.copy_(theirs._codebook.cluster_size[0])
    if "codebook_dim" in settings:
        ours.quantizer.project_in.load_state_dict(theirs.project_in.state_dict())
        ours.quantizer.project_out.load_state_dict(theirs.project_out.state_dict())
    return theirs, ours


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("settings", "shape"), CASES)
def test_the_drop_in_agrees_with_vector_quantize_pytorch(settings, shape):
    theirs, ours = both(settings)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    for _ in range(3):
        x = x.flip(0) + 0.5 * torch.randn(shape, generator=generator)
        answers = []
        for module in (theirs, ours):
            leaf = x.clone().requires_grad_()
            quantized, indices, loss = module(leaf)
            weights = torch.linspace(-1, 1, quantized.numel()).view(quantized.shape)
            ((quantized * weights).sum() + 10 * loss).backward()
            answers.append((quantized.detach(), indices, loss.detach(), leaf.grad))
        (their_q, their_indices, their_loss, their_grad), (q, indices, loss, grad) = answers
        assert torch.equal(indices, their_indices)
        close(q, their_q)
        close(loss, their_loss)
        close(grad, their_grad)
        close(ours.codebook.detach(), theirs.codebook.detach())
        with torch.no_grad():
            for module in (theirs, ours):
                for parameter in module.parameters():
                    parameter -= 0.1 * (0 if parameter.grad is None else parameter.grad)
                    parameter.grad = None
    theirs.eval()
    ours.eval()
    before = ours.codebook.detach().clone()
    expected, found = theirs(x), ours(x)
    close(found[0].detach(), expected[0].detach())
    assert float(found[2].detach()) == float(expected[2].detach()) == 0
    close(
        ours.get_codes_from_indices(found[1]).detach(),
        theirs.get_codes_from_indices(expected[1]).detach(),
    )
    assert torch.equal(ours.get_output_from_indices(found[1]), found[0])
    assert torch.equal(ours.codebook, before)


def test_first_codes_by_kmeans_fit_as_well_as_the_peers():
    torch.manual_seed(0)
    x = torch.randn(1, 2000, 4) + 5 * torch.randn(1, 10, 4).repeat_interleave(200, 1)
    theirs: Any = vector_quantize_pytorch.VectorQuantize(4, 32, kmeans_init=True)
    ours = VectorQuantize(4, 32, kmeans_init=True)
    _, _, their_loss = theirs(x)
    _, _, loss = ours(x)
    assert float(loss.detach()) < 1.3 * float(their_loss.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_comes_out_has_the_dtype_of_what_goes_in(dtype):
    x = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    module = VectorQuantize(8, 16)
    leaf = x.clone().requires_grad_()
    quantized, indices, loss = module(leaf)
    assert (quantized.dtype, indices.dtype, loss.dtype) == (dtype, torch.int64, torch.float32)
    (quantized.float().sum() + loss).backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    wide = VectorQuantize(8, 16)
    wide.load_state_dict(module.state_dict())
    assert torch.equal(wide.eval()(x.float()).indices, module.eval()(x).indices)


def test_dead_codes_are_placed_on_latents():
    ours: Any = VectorQuantize(4, 64, kmeans_init=True, threshold_ema_dead_code=2)
    x = torch.randn(1, 640, 4)
    ours(x)
    ours.quantizer.codebook.codes[:8] = 100.0
    ours.quantizer.codebook.average_count[:8] = 0.1
    ours(x)
    assert float(ours.codebook.abs().max()) < 10


def test_an_argument_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no such argument here: heads, orthogonal_reg_weight"):
        VectorQuantize(8, 16, heads=2, orthogonal_reg_weight=1.0)
    with pytest.raises(InputError, match="use_cosine_sim and learnable_codebook exclude"):
        VectorQuantize(8, 16, use_cosine_sim=True, learnable_codebook=True)
    with pytest.raises(InputError, match="ema_update and learnable_codebook"):
        VectorQuantize(8, 16, ema_update=True, learnable_codebook=True)


def test_wrong_shapes_and_values_are_refused():
    with pytest.raises(InputError, match=r"takes b n d with d = 8, found \(2, 50, 7\)"):
        VectorQuantize(8, 16)(torch.randn(2, 50, 7))
    x = torch.randn(2, 50, 8)
    x[1, 3, 2] = torch.nan
    with pytest.raises(InputError, match="1 of 100 latents hold NaN"):
        VectorQuantize(8, 16)(x)
