"""Tests of the arms that resemble VidTok and MAGVIT: sizes, arithmetic and losses."""

import arms
import pytest
import torch
from magvit import MagvitLoss, MagvitTokenizer
from measure import counted_operations
from recipes import Reconstruction
from torch.nn import functional as F
from vidtok import (
    SPACE,
    TIME,
    ChannelNorm,
    DoubleTime,
    FrameAttention,
    HalveTime,
    ResidualBlock,
    VidTokLoss,
    VidTokTokenizer,
    factorised,
)

from video_vq.training.optimizer import make_optimizer

PEERS = ["VidTok-like", "MAGVIT-like"]
SHARE = 1 / (1 + torch.tensor(-2.0).exp())  # of the pooled or repeated frames at the start


def tiny_video() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(1, 3, 8, 16, 16) * 2 - 1


@pytest.mark.parametrize(
    ("width", "multipliers", "millions"), [(64, (1, 2, 2, 4), 41), (128, (1, 2, 2, 4), 158)]
)
def test_magvit_has_the_parameters_of_the_papers_models(width, multipliers, millions):
    with torch.device("meta"):
        model = MagvitTokenizer(width, 2, multipliers, codebook_size=1024)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == millions


def test_vidtok_has_the_parameters_counted_by_hand():
    def conv(size: int, i: int, o: int) -> int:
        return size * i * o + o

    def block(size: int, i: int, o: int) -> int:
        shortcut = conv(1, i, o) if i != o else 0
        return 2 * i + 2 * o + conv(size, i, o) + conv(size, o, o) + shortcut

    def pair(i: int, o: int) -> int:
        return block(9, i, o) + block(3, o, o)

    bottom = 2 * block(27, 16, 16) + 2 * 16 + 4 * conv(1, 16, 16)
    sampling = sum(conv(9, width, width) + conv(27, width, width) + 1 for width in (4, 8))
    encoder = conv(27, 3, 4) + pair(4, 4) + pair(4, 8) + pair(8, 16) + sampling
    encoder += bottom + 2 * 16 + conv(27, 16, 3)
    sampling = sum(conv(9, width, width) + conv(27, width, width) + 1 for width in (8, 16))
    decoder = conv(27, 3, 16) + bottom + 2 * pair(16, 16) + pair(16, 8) + pair(8, 8) + pair(8, 4)
    decoder += pair(4, 4) + sampling + 2 * 4 + conv(27, 4, 3)
    model = VidTokTokenizer(4, depth=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder


@pytest.mark.parametrize(
    ("name", "gflop", "millions"),
    [
        ("VidTok-like", 4.1, 1.81),
        ("VidTok-like, wide", 16.2, 7.19),
        ("MAGVIT-like", 3.84, 1.73),
        ("MAGVIT-like, wide", 14.5, 5.58),
    ],
)
def test_a_clip_costs_about_4_or_16_gflop(name, gflop, millions):
    model = arms.ARMS[name].make().eval()
    # An eighth of a clip of 16 x 32 x 32, as operations grow with the number of positions.
    video = tiny_video()
    with torch.no_grad():
        operations = 8 * counted_operations(lambda: model(video))
    assert operations / 1e9 == pytest.approx(gflop, rel=0.01)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)
    same = arms.ARMS[f"{name}, our recipe"].make()
    assert sum(parameter.numel() for parameter in same.parameters()) == count


@pytest.mark.parametrize("name", [*PEERS, *(f"{name}, our recipe" for name in PEERS)])
def test_steps_of_each_recipe_lower_its_loss(name):
    video = tiny_video() * 0.2 + 0.5
    arm = arms.ARMS[name]
    model, loss_of = arm.make().train(), arm.recipe.loss()
    optimizer = make_optimizer(model, arm.recipe.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = max(arm.learning_rates)
    losses = []
    for _ in range(5):
        loss = loss_of(model(video), video, 1.0)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.95 * losses[0]


def test_each_arm_has_512_codes():
    vidtok, magvit = (arms.ARMS[name].make() for name in PEERS)
    assert isinstance(vidtok, VidTokTokenizer)
    assert isinstance(magvit, MagvitTokenizer)
    assert vidtok.codes.shape == (512, 3)
    assert len(vidtok.codes.unique(dim=0)) == 512
    assert magvit.codebook.codes.shape == (512, 256)


@pytest.mark.parametrize("name", PEERS)
def test_the_decoder_sees_nothing_but_the_codes(name):
    torch.manual_seed(1)
    model = arms.ARMS[name].make().eval()
    assert isinstance(model, VidTokTokenizer | MagvitTokenizer)
    with torch.no_grad():
        output = model(tiny_video())
        codes = model.codes if isinstance(model, VidTokTokenizer) else model.codebook.codes
        video = model.decoder(F.embedding(output.codes, codes).movedim(-1, 1))
    if name == "MAGVIT-like":
        video = video * 2 - 1  # its networks work in [0, 1]
    torch.testing.assert_close(video, output.video, atol=1e-4, rtol=1e-4)


def test_frames_are_halved_by_a_blend_of_their_mean_and_a_convolution():
    torch.manual_seed(2)
    layer = HalveTime(3)
    x = torch.randn(2, 3, 4, 5, 6)
    mean = torch.stack([x[:, :, :3].mean(2), x[:, :, 2:].sum(2) / 3], 2)  # zeros behind the last
    behind = torch.cat([x, torch.zeros(2, 3, 1, 5, 6)], 2)
    mixed = F.conv3d(behind, layer.conv.weight, layer.conv.bias, (2, 1, 1), (0, 1, 1))
    torch.testing.assert_close(layer(x), SHARE * mean + (1 - SHARE) * mixed)
    for mix, expected in ((30.0, mean), (-30.0, mixed)):
        layer.mix.data.fill_(mix)
        torch.testing.assert_close(layer(x), expected)


def test_frames_are_doubled_by_a_blend_of_copies_and_a_convolution_of_them():
    torch.manual_seed(3)
    layer = DoubleTime(3)
    x = torch.randn(2, 3, 2, 5, 6)
    copies = x.repeat_interleave(2, 2)
    mixed = F.conv3d(copies, layer.conv.weight, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(x), SHARE * copies + (1 - SHARE) * mixed)
    layer(x).sum().backward()
    slope = SHARE * (1 - SHARE) * (copies - mixed).sum()
    torch.testing.assert_close(layer.mix.grad, slope.detach(), atol=1e-3, rtol=1e-4)


def test_the_norm_is_over_the_channels_of_each_position():
    torch.manual_seed(4)
    x = torch.randn(2, 8, 3, 4, 5) * 7 + 3
    normed = ChannelNorm(8)(x)
    expected = (x - x.mean(1, keepdim=True)) / x.var(1, correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(normed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "reach"),
    [
        (ResidualBlock(8, 8, SPACE), (0, 2, 2)),
        (ResidualBlock(8, 8, TIME), (2, 0, 0)),
        (factorised(8, 8), (0, 2, 2)),  # the block over time starts as the identity
        (FrameAttention(8), (0, 9, 9)),
    ],
)
def test_a_layer_mixes_along_its_own_axes(layer, reach):
    torch.manual_seed(5)
    x = torch.randn(1, 8, 7, 7, 7)
    changed = x.clone()
    changed[0, :, 3, 3, 3] += torch.randn(8)
    moved = (layer(changed) - layer(x)).abs().amax((0, 1)) > 1e-6
    expected = torch.zeros(7, 7, 7, dtype=torch.bool)
    expected[tuple(slice(max(0, 3 - n), 3 + n + 1) for n in reach)] = True
    assert torch.equal(moved, expected)


def test_the_entropy_is_least_for_sure_and_varied_choices():
    vidtok, magvit = VidTokTokenizer(4, depth=1), MagvitTokenizer(4, 1, codebook_dim=8)
    corners = 100 * vidtok.codes[[0, 7, 56, 63, 448, 455, 504, 511]]
    assert vidtok.entropy(corners).item() == pytest.approx(
        -torch.tensor(8.0).log().item(), abs=1e-3
    )
    assert vidtok.entropy(corners[:1]).item() == pytest.approx(0, abs=1e-3)
    distances = torch.full((4, 512), 100.0)
    distances[range(4), [0, 1, 2, 3]] = 0.0
    entropy = magvit.codebook.entropy(distances).item()
    assert entropy == pytest.approx(-torch.tensor(4.0).log().item(), abs=1e-2)
    assert magvit.codebook.entropy(torch.zeros(4, 512)).item() == pytest.approx(0, abs=1e-2)


def test_the_losses_weigh_what_the_released_configs_weigh():
    video = torch.zeros(2, 3, 4, 5, 6)
    losses = {"commitment": torch.tensor(1.0), "codebook": torch.tensor(10.0)}
    losses["entropy"] = torch.tensor(100.0)
    output = Reconstruction(video + 0.5, None, torch.tensor(0.0), losses)
    # VidTok: the sum over a frame's 90 values; the entropy's weight falls from 0.3 to 0.1.
    for done, weight in ((0.0, 0.3), (0.02, 0.2), (0.04, 0.1), (1.0, 0.1)):
        loss = VidTokLoss()(output, video, done).item()
        assert loss == pytest.approx(0.5 * 90 + 0.25 + weight * 100)
    scaled = VidTokLoss()
    scaled.log_scale.data.fill_(torch.tensor(2.0).log())
    expected = 90 * (0.25 + torch.tensor(2.0).log().item()) + 0.25 + 10
    assert scaled(output, video, 1.0).item() == pytest.approx(expected)
    # MAGVIT: pixels in [0, 1], whose squared error is a quarter.
    assert MagvitLoss()(output, video, 1.0).item() == pytest.approx(0.0625 + 0.25 + 10 + 10)


def test_magvits_codes_learn_and_the_gradient_is_copied_past_them():
    torch.manual_seed(6)
    codebook = MagvitTokenizer(4, 1, codebook_dim=8).codebook
    latents = torch.randn(5, 8, requires_grad=True)
    q, indices, losses = codebook(latents)
    torch.testing.assert_close(q, codebook.codes[indices])
    assert torch.equal(indices, torch.cdist(latents, codebook.codes).argmin(1))
    q.backward(gradient := torch.randn(5, 8), retain_graph=True)
    torch.testing.assert_close(latents.grad, gradient)
    losses["codebook"].backward()
    assert codebook.codes.grad is not None
    moved = codebook.codes.grad.abs().sum(1) > 0
    assert set(moved.nonzero().flatten().tolist()) == set(indices.tolist())
