"""Tests of the convolutional networks: no checkerboard artifacts, and receptive fields."""

import pytest
import torch

from video_vq.models.backbones.conv import ConvDecoder, ConvEncoder
from video_vq.models.tokenizer_config import ConvBackboneConfig


def backbone(**changes) -> ConvBackboneConfig:
    settings = {
        "channels": 8,
        "num_blocks": 1,
        "multipliers": (1, 2, 2),
        "strides_thw": ((2, 2, 2), (2, 1, 1)),
        "causal": True,
    }
    return ConvBackboneConfig(**{**settings, **changes})


def join_in(network: torch.nn.Module) -> None:
    """Randomize the weights of residual branches, which start at zero."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.kaiming_uniform_(parameter)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_thw": (1, 4, 4)},
        {"patch_thw": (1, 4, 4), "stem_kernel": 1},
        {"upsampling": "subpixel"},
    ],
)
def test_a_new_decoder_shows_no_checkerboard(causal, changes):
    config = backbone(causal=causal, num_blocks=2, **changes)
    torch.manual_seed(0)
    decoder = ConvDecoder(config)
    join_in(decoder)
    _, stride_h, stride_w = config.total_stride_thw
    margin = decoder.margin_hw
    size_hw = 2 * margin[0] + 4, 2 * margin[1] + 4
    constant = torch.randn(1, config.channels * config.multipliers[-1], 1, 1, 1)
    with torch.no_grad():
        video = decoder(constant.expand(-1, -1, 5, *size_hw))
    inner = video[
        ...,
        margin[0] * stride_h : -margin[0] * stride_h,
        margin[1] * stride_w : -margin[1] * stride_w,
    ]
    # The same latent everywhere: each frame is one colour, with no pattern of the strides.
    spread = (inner - inner.mean((3, 4), keepdim=True)).abs().max()
    assert spread < 1e-5 * (1 + video.abs().max())
    # And noise holds no more power at the strides' own frequencies than beside them.
    noise = torch.randn(8, len(constant[0]), 5, 16, 16)
    with torch.no_grad():
        frames = decoder(noise)[:, :, 2]
    power = torch.fft.rfft2(frames).abs().square().mean((0, 1))
    for period in (2, 4):
        line = power.shape[0] // period
        beside = (power[line - 2, :] + power[line + 2 if period > 2 else line - 3, :]) / 2
        assert power[line].mean() < 1.5 * beside.mean()


def test_a_network_sees_no_pixel_beyond_its_margin():
    strides = ((2, 2, 4), (1, 2, 1))
    for changes in (
        {},
        {"num_blocks": 2},
        {"strides_thw": strides},
        {"strides_thw": strides, "upsampling": "subpixel"},
    ):
        config = backbone(**changes)
        _, stride, _ = config.total_stride_thw
        torch.manual_seed(0)
        encoder, decoder = ConvEncoder(config), ConvDecoder(config)
        join_in(encoder)
        join_in(decoder)
        middle = encoder.margin_hw[0] + 2
        pixels = torch.rand(1, 3, 1, (2 * middle + 1) * stride, 32) * 2 - 1
        inside = slice((middle - encoder.margin_hw[0]) * stride, None)
        changed = pixels.clone()
        changed[:, :, :, : inside.start] *= -1
        with torch.no_grad():
            one, other = encoder(pixels), encoder(changed)
            torch.testing.assert_close(one[:, :, :, middle:], other[:, :, :, middle:])
            assert not torch.allclose(one, other)
            changed = one.clone()
            middle = decoder.margin_hw[0]
            changed[:, :, :, :1] += 1
            frame, other = decoder(one), decoder(changed)
            kept = slice((middle + 1) * stride, None)
            torch.testing.assert_close(frame[:, :, :, kept], other[:, :, :, kept])
            assert not torch.allclose(frame, other)
