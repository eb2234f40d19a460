import math

import pytest
import torch
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.metrics.i3d import I3D, MaxPool, pad_same


def clip(num_frames: int, num_clips: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(num_clips, 3, num_frames, 224, 224, generator=generator) * 2 - 1


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8, 15, 16])
def test_padding_is_tensorflows_same(size, kernel, stride):
    ramp = torch.arange(1.0, size + 1).reshape(1, 1, size, 1, 1)
    padded = pad_same(ramp, (kernel, 1, 1), (stride, 1, 1)).flatten()

    num_outputs = math.ceil(size / stride)
    total = max((num_outputs - 1) * stride + kernel - size, 0)
    front = total // 2
    assert len(padded) == size + total
    assert torch.equal(padded[front : front + size], ramp.flatten())
    assert padded.sum() == ramp.sum()


def test_clips_become_400_finite_logits_and_do_not_mix(random_i3d):
    video = clip(9, num_clips=2)
    logits = random_i3d(video)

    assert logits.shape == (2, 400)
    assert logits.dtype == torch.float32
    assert logits.std() > 1e-3
    torch.testing.assert_close(random_i3d(video[1:]), logits[1:], rtol=1e-5, atol=1e-5)


def test_training_mode_changes_nothing(random_i3d):
    video = clip(9)
    evaluated = random_i3d.eval()(video)
    assert torch.equal(random_i3d.train()(video), evaluated)


def test_reduced_precision_switched_on_outside_changes_nothing(random_i3d, reduced_precision):
    video = clip(9)
    plain = random_i3d(video)

    reduced_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert random_i3d.logits(torch.zeros(1, 1024, 1, 1, 1)).dtype == torch.bfloat16
        reduced = random_i3d(video)

    assert torch.equal(reduced, plain)


def test_gradients_reach_the_input_but_no_weight(random_i3d):
    video = clip(9).requires_grad_()
    random_i3d(video).square().sum().backward()

    assert video.grad is not None
    assert video.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in random_i3d.parameters())


def test_eight_frames_are_too_few():
    with pytest.raises(InputError, match="at least 9 frames, found 8"):
        I3D()(clip(8))


@pytest.mark.parametrize("shape", [(1, 3, 16, 112, 112), (1, 1, 16, 224, 224)])
def test_another_frame_size_or_grey_is_refused(shape):
    with pytest.raises(InputError, match="b 3 t 224 224"):
        I3D()(torch.zeros(shape))


def test_a_network_that_was_converted_with_its_parent_is_refused():
    with pytest.raises(InputError, match="float32"):
        I3D().to(torch.bfloat16)(clip(9))
    with pytest.raises(InputError, match="float32"):
        I3D()(clip(9).double())


@pytest.mark.parametrize("size", [(8, 13, 14), (9, 14, 13), (2, 2, 3)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 2)),
        ((2, 2, 2), (2, 2, 2)),
    ],
)
def test_pooling_axis_by_axis_is_max_pool3d_bit_for_bit(size, kernel, stride):
    x = torch.rand(2, 5, *size, generator=torch.Generator().manual_seed(0)) - 0.5
    padded = pad_same(x, kernel, stride)
    assert torch.equal(MaxPool(kernel, stride)(x), F.max_pool3d(padded, kernel, stride))
