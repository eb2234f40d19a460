"""Tests of the gradients of 3D convolutions in bf16 against float32."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from video_vq.models.discriminator import PatchDiscriminator
from video_vq.nn.conv3d import Conv3d, Past


def gradients(module: nn.Module, x: Tensor, bf16: bool) -> list[Tensor]:
    """Return the output, and the gradients of x and all parameters for a fixed output gradient."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, bf16):
        y = module(x)
    y.float().backward(torch.linspace(-1, 2, y.numel()).view(y.shape))
    found = [y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())]
    return [each.clone() for each in found if each is not None]


def assert_near(module: nn.Module, x: Tensor) -> None:
    expected = gradients(module, x, bf16=False)
    for _ in range(3):  # what is wrong differs from time to time
        for one, other in zip(gradients(module, x, bf16=True), expected, strict=True):
            assert torch.linalg.norm(one - other) < 0.02 * torch.linalg.norm(other)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("stride_thw", [(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 2, 2), (2, 4, 4)])
def test_outputs_and_gradients_in_bf16_are_those_of_float32_at_every_small_size(stride_thw, causal):
    torch.manual_seed(0)
    for channels in (3, 16):
        layer = Conv3d(channels, 32, stride_thw=stride_thw, causal=causal)
        for frames, height, width in itertools.product((1, 2, 3, 4, 5), (1, 2, 8), (1, 4, 8)):
            assert_near(layer, torch.randn(2, channels, frames, height, width))


@pytest.mark.parametrize("stride_thw", [(1, 1, 1), (2, 2, 2)])
def test_a_single_frame_meets_the_middle_of_the_kernel(stride_thw):
    torch.manual_seed(0)
    layer, image = Conv3d(4, 6, stride_thw=stride_thw), torch.randn(2, 4, 1, 8, 8)
    conv = layer.conv
    expected = nn.functional.conv2d(
        image[:, :, 0], conv.weight[:, :, 1], conv.bias, stride_thw[1:], conv.padding[1:]
    )
    torch.testing.assert_close(layer(image)[:, :, 0], expected)
    whole = nn.functional.conv3d(image, conv.weight, conv.bias, stride_thw, conv.padding)
    torch.testing.assert_close(layer(image), whole)


@pytest.mark.parametrize("size_thw", [(2, 8, 8), (4, 1, 8), (4, 8, 1)])
@pytest.mark.parametrize("stride_thw", [(1, 1, 1), (2, 2, 2)])
def test_a_model_in_bf16_itself_has_the_gradients_of_float32(stride_thw, size_thw):
    torch.manual_seed(0)
    layer, x = Conv3d(16, 32, stride_thw=stride_thw), torch.randn(2, 16, *size_thw)
    expected = gradients(layer, x, bf16=False)
    found = gradients(layer.bfloat16(), x.bfloat16(), bf16=False)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.linalg.norm(one.float() - other) < 0.02 * torch.linalg.norm(other)


@pytest.mark.parametrize("size_thw", [(16, 16, 16), (8, 8, 32), (4, 32, 16)])
def test_gradients_of_a_discriminator_in_bf16_are_those_of_float32(size_thw):
    torch.manual_seed(0)
    # No norm and no kink between, whose bf16 rounding alone would move the first layers' gradients.
    layers = [layer for layer in PatchDiscriminator(16, 3).layers if isinstance(layer, nn.Conv3d)]
    assert_near(nn.Sequential(*layers), torch.randn(1, 3, *size_thw))


@pytest.mark.parametrize(("kernel", "stride_t"), [(1, 1), (3, 1), (3, 2), (3, 4), (5, 1), (5, 2)])
@torch.no_grad()
def test_a_causal_convolution_sees_copies_of_the_first_frame_before_it(kernel, stride_t):
    torch.manual_seed(0)
    layer = Conv3d(2, 3, kernel, (stride_t, 1, 1), causal=True)
    x = torch.randn(2, 2, 1 + 2 * stride_t, 4, 4)
    before = [x[:, :, :1]] * (kernel - 1)
    side = kernel // 2
    expected = nn.functional.conv3d(
        torch.cat([*before, x], 2),
        layer.conv.weight,
        layer.conv.bias,
        (stride_t, 1, 1),
        (0, side, side),
    )
    torch.testing.assert_close(layer(x), expected)
    past = Past()
    pieces = [layer(piece, past) for piece in (x[:, :, :1], x[:, :, 1:])]
    torch.testing.assert_close(torch.cat(pieces, 2), expected)


@torch.no_grad()
def test_a_past_keeps_copies_and_not_the_piece_they_were_cut_from():
    torch.manual_seed(0)
    layer, past = Conv3d(2, 2, causal=True), Past()
    assert past.recall(layer) is None
    piece = torch.randn(1, 2, 9, 4, 4)
    expected = piece[:, :, -2:].clone()
    layer(piece, past)
    piece.zero_()
    kept = past.recall(layer)
    assert kept is not None
    assert torch.equal(kept, expected)
    assert kept.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
    assert past.recall(Conv3d(2, 2, causal=True)) is None  # each layer has its own
    frames = torch.randn(1, 2, 1, 4, 4)
    past.keep(layer, frames)
    frames.zero_()
    kept = past.recall(layer)
    assert kept is not None
    assert kept.abs().sum() > 0  # even where they are the whole piece
