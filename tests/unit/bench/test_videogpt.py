"""Tests of the VideoGPT baseline: its published size, its arithmetic and its codebook."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from videogpt import AveragedCodebook, AxialAttention, VideoGPTTokenizer

# Multiply-adds of the paper's sizes on 16 x 64 x 64, by hand: (positions, kernel, in, out).
CONVOLUTIONS = [
    *[(8 * 32 * 32, 64, 3, 240), (4 * 16 * 16, 64, 240, 240)],  # down
    (4 * 16 * 16, 27, 240, 240),
    *[(4 * 16 * 16, 27, 240, 120), (4 * 16 * 16, 1, 120, 240)] * 8,  # residual blocks
    *[(4 * 16 * 16, 1, 240, 256), (4 * 16 * 16, 1, 256, 240)],
    *[(4 * 16 * 16, 64, 240, 240), (8 * 32 * 32, 64, 240, 3)],  # up: positions of the input
]
PROJECTIONS = 8 * 3 * 4 * 1024 * 240 * 240
ATTENTION = 8 * 2 * 1024 * 240 * (16 + 16 + 4)
LOOKUP = 1024 * 256 * 2048


@pytest.fixture(scope="module")
def small() -> VideoGPTTokenizer:
    torch.manual_seed(0)
    return VideoGPTTokenizer(width=16, depth=1, codebook_size=8, codebook_dim=4)


def test_it_has_the_21_million_parameters_of_the_paper():
    with torch.device("meta"):
        model = VideoGPTTokenizer()
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_141_619
    assert model.codebook.codes.shape == (2048, 256)


@pytest.mark.parametrize("pad_first", [False, True])
def test_a_clip_costs_the_operations_counted_by_hand(pad_first):
    with FakeTensorMode():
        model = VideoGPTTokenizer(pad_first=pad_first).eval()
        video = torch.zeros(1, 3, 16, 64, 64)
        with FlopCounterMode(display=False) as counter:
            output = model(video)
    convolutions = sum(n * k * i * o for n, k, i, o in CONVOLUTIONS)
    if pad_first:  # the transposed convolutions work on a border of zeros, too
        convolutions += 64 * 240 * 240 * (6 * 18 * 18 - 1024) + 64 * 240 * 3 * (10 * 34 * 34 - 8192)
    assert counter.get_total_flops() == 2 * (convolutions + PROJECTIONS + ATTENTION + LOOKUP)
    assert output.codes.shape == (1, 4, 16, 16)
    assert output.video.shape == video.shape


def test_padding_first_changes_no_value(small):
    other = VideoGPTTokenizer(width=16, depth=1, codebook_size=8, codebook_dim=4, pad_first=True)
    other.load_state_dict(small.state_dict())
    video = torch.rand(1, 3, 8, 12, 16) * 2 - 1
    codes = torch.arange(2 * 3 * 4).remainder(8).view(1, 2, 3, 4)
    torch.testing.assert_close(small.encoder(video), other.encoder(video))
    torch.testing.assert_close(small.decode(codes), other.decode(codes))


def test_decoding_codes_gives_what_the_forward_pass_gave(small):
    small.eval()
    video = torch.rand(2, 3, 8, 8, 8) * 2 - 1
    output = small(video)
    assert torch.equal(small.encode(video), output.codes)
    torch.testing.assert_close(small.decode(output.codes), output.video.clamp(-1, 1))


def test_the_gradient_is_copied_past_the_lookup():
    codebook = AveragedCodebook(8, 4).eval()
    latents = torch.randn(5, 4, requires_grad=True)
    quantized, indices, _ = codebook(latents)
    torch.testing.assert_close(quantized, codebook.codes[indices])
    quantized.backward(gradient := torch.randn(5, 4))
    torch.testing.assert_close(latents.grad, gradient)


def test_each_axis_is_mixed_and_no_diagonal():
    torch.manual_seed(1)
    attention = AxialAttention(8)
    x = torch.randn(1, 8, 3, 4, 5)
    changed = x.clone()
    changed[0, :, 1, 2, 3] += 1.0
    moved = (attention(changed) - attention(x)).abs().sum((0, 1)) > 1e-7
    expected = torch.zeros(3, 4, 5, dtype=torch.bool)
    expected[:, 2, 3] = expected[1, :, 3] = expected[1, 2, :] = True
    assert torch.equal(moved, expected)


def test_codes_are_means_of_their_latents_over_the_last_batches():
    torch.manual_seed(2)
    codebook = AveragedCodebook(2, 3).train()
    corners = torch.tensor([[5.0, 0, 0], [-5.0, 0, 0]])
    batches = [corners.repeat_interleave(100, 0) + torch.randn(200, 3) for _ in range(3)]
    codebook._initialize(corners)
    count, total = torch.ones(2), codebook.codes.clone()
    for batch in batches:
        side = (batch[:, 0] < 0).long() if codebook.codes[0, 0] > 0 else (batch[:, 0] > 0).long()
        codebook(batch)
        count = 0.99 * count + 0.01 * torch.bincount(side, minlength=2)
        sums = torch.stack([batch[side == code].sum(0) for code in range(2)])
        total = 0.99 * total + 0.01 * sums
    torch.testing.assert_close(codebook.codes, total / count.unsqueeze(1), atol=1e-4, rtol=1e-4)


def test_codes_out_of_use_are_placed_on_latents_of_the_batch():
    torch.manual_seed(3)
    codebook = AveragedCodebook(16, 2).train()
    codebook._initialize(torch.randn(16, 2))
    codebook.average_count.zero_()
    codebook.average_count[:8] = 10.0
    codebook.average_sum[:8] = 10.0 * codebook.codes[:8]
    latents = torch.randn(64, 2) + 50.0
    codebook(latents)
    is_latent = (codebook.codes[:, None] == latents).all(2).any(1)
    assert is_latent.tolist() == [False] * 8 + [True] * 8
