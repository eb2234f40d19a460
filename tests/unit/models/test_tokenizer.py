"""Tests of the tokenizer's shapes, causality and API."""

import pytest
import torch
from trained import trained_tokenizer

from video_vq.errors import InputError
from video_vq.models.tokenizer import VideoTokenizer, to_pixels, to_uint8
from video_vq.models.tokenizer_config import ConvBackboneConfig, TokenizerConfig
from video_vq.nn.conv3d import depth_to_space, space_to_depth
from video_vq.quantizers.quantizer_config import QuantizerConfig


def small(causal: bool = False, **changes) -> TokenizerConfig:
    backbone = ConvBackboneConfig(
        **{
            "channels": 8,
            "num_blocks": 1,
            "multipliers": (1, 2, 2),
            "strides_thw": ((2, 2, 2), (2, 1, 1)),
            "causal": causal,
            **changes,
        }
    )
    return TokenizerConfig(backbone, QuantizerConfig(codebook_size=32, codebook_dim=8))


def started(config: TokenizerConfig, video: torch.Tensor) -> VideoTokenizer:
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            if parameter.ndim > 1:  # residual branches start at zero; give them something to do
                torch.nn.init.normal_(parameter, std=0.1)
        tokenizer.quantizer.codebook.initialize((tokenizer.latents(video),), 0)
    return tokenizer.eval()


@pytest.mark.parametrize(
    ("causal", "num_frames", "grid"), [(False, 16, (4, 4, 4)), (True, 17, (5, 4, 4))]
)
def test_shapes_and_round_trip(causal, num_frames, grid):
    video = torch.rand(2, 3, num_frames, 16, 16) * 2 - 1
    tokenizer = started(small(causal), video)
    codes = tokenizer.encode(video)
    assert tuple(codes.shape) == (2, *grid)
    assert tokenizer.config.backbone.grid_thw((num_frames, 16, 16)) == grid
    output = tokenizer(video)
    assert torch.equal(output.quantized.codes, codes)
    assert torch.equal(tokenizer.decode(codes), output.video.clamp(-1, 1))
    assert torch.equal(tokenizer.reconstruct(video), tokenizer.decode(codes))


def test_causal_latents_do_not_see_later_frames_nor_does_what_is_decoded_from_them():
    video = torch.rand(1, 3, 17, 16, 16) * 2 - 1
    tokenizer = started(small(causal=True), video)
    features = tokenizer.encoder(video)
    for frame in range(17):
        changed = video.clone()
        changed[:, :, frame] = -changed[:, :, frame]
        group = -(-frame // 4)
        other = tokenizer.encoder(changed)
        assert torch.equal(other[:, :, :group], features[:, :, :group])
        assert not torch.equal(other[:, :, group:], features[:, :, group:])
    decoded = tokenizer.decoder(features)
    for latent in range(5):
        changed = features.clone()
        changed[:, :, latent] += 1
        first = max(0, 4 * latent - 3)
        other = tokenizer.decoder(changed)
        assert torch.equal(other[:, :, :first], decoded[:, :, :first])
        assert not torch.equal(other[:, :, first:], decoded[:, :, first:])


def test_space_to_depth_is_undone_by_depth_to_space():
    video = torch.randn(2, 3, 4, 6, 8)
    folded = space_to_depth(video, (2, 3, 4))
    assert tuple(folded.shape) == (2, 72, 2, 2, 2)
    assert torch.equal(depth_to_space(folded, (2, 3, 4)), video)


def test_sizes_that_do_not_divide_are_refused_with_the_next_valid_one():
    with pytest.raises(InputError, match=r"frames must be a multiple of 4 \(near: 12 or 16\)"):
        small().backbone.grid_thw((15, 16, 16))
    with pytest.raises(InputError, match=r"1 \+ a multiple of 4 \(near: 13 or 17\)"):
        small(causal=True).backbone.grid_thw((16, 16, 16))
    with pytest.raises(InputError, match=r"multiples of 4 and 4 \(next: 20 x 16\)") as refused:
        VideoTokenizer(small())(torch.zeros(1, 3, 16, 18, 16))
    assert "frames must be" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int32])
def test_codes_decode_from_every_type_of_integer(dtype):
    tokenizer = trained_tokenizer()
    codes = torch.arange(32).view(1, 2, 4, 4)
    assert torch.equal(tokenizer.decode(codes.to(dtype)), tokenizer.decode(codes))
    with pytest.raises(InputError, match=r"found 0\.\.32; they belong"):
        tokenizer.decode((codes + (codes == 31).long()).to(dtype))


def test_uint8_and_float_input_mean_the_same():
    clips = torch.randint(0, 256, (1, 16, 16, 16, 3), dtype=torch.uint8)
    pixels = to_pixels(clips)
    assert torch.equal(to_uint8(pixels), clips)
    tokenizer = started(small(), pixels)
    assert torch.equal(tokenizer.encode(clips), tokenizer.encode(pixels))


def test_pixels_out_of_range_are_refused():
    tokenizer = started(small(), torch.rand(1, 3, 16, 16, 16) * 2 - 1)
    with pytest.raises(InputError, match=r"lies in \[-1, 1\], found"):
        tokenizer.encode(torch.rand(1, 3, 16, 16, 16) * 255)
    with pytest.raises(InputError, match="NaN"):
        tokenizer.encode(torch.full((1, 3, 16, 16, 16), float("nan")))
