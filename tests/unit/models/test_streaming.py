"""Tests of long and large videos: pieces and tiles equal the whole, without future frames."""

import itertools
import os
import random
import subprocess
import sys

import pytest
import torch
from einops import rearrange

from video_vq.errors import InputError
from video_vq.models import streaming
from video_vq.models.backbones.conv import ConvDecoder, ConvEncoder
from video_vq.models.streaming import TiledStream, piece_latents, recut, tiles_of_axis
from video_vq.models.tokenizer import VideoTokenizer, to_pixels, video_size
from video_vq.models.tokenizer_config import ConvBackboneConfig, TimeSformerConfig, TokenizerConfig
from video_vq.nn.inputs import check_unit_range
from video_vq.quantizers.codebook import Codebook
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.quantizers.vector import VectorQuantizer

SIZE = 16


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Randomize all kernels and matrices, as residual branches start at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def backbone(**changes) -> ConvBackboneConfig:
    settings = {
        "channels": 8,
        "num_blocks": 1,
        "multipliers": (1, 2, 2),
        "strides_thw": ((2, 2, 2), (2, 1, 1)),
        "causal": True,
    }
    return ConvBackboneConfig(**{**settings, **changes})


def place_codes(tokenizer: VideoTokenizer, video: torch.Tensor) -> None:
    codebook = tokenizer.quantizer.codebook
    assert isinstance(codebook, Codebook)
    with torch.no_grad():
        latents = tokenizer.latents(video)
        codebook.codes.copy_(latents[torch.arange(32) * len(latents) // 32])


def make(config: ConvBackboneConfig | TimeSformerConfig) -> VideoTokenizer:
    quantizer = QuantizerConfig(codebook_size=32, codebook_dim=8)
    tokenizer = VideoTokenizer(TokenizerConfig(config, quantizer))
    lively(tokenizer)
    lead = int(config.causal)
    t, h, w = config.total_stride_thw
    size_thw = getattr(config, "size_thw", (lead + 4 * t, 4 * h, 4 * w))
    video = noise(*size_thw)
    place_codes(tokenizer, video)
    return tokenizer


def noise(num_frames: int, height: int = SIZE, width: int = SIZE, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, num_frames, height, width, generator=generator) * 2 - 1


def cut(x: torch.Tensor, axis: int, seed: int) -> list[torch.Tensor]:
    """Return the non-empty chunks of a tensor that is cut at random places along an axis."""
    choose = random.Random(seed)
    places = sorted(choose.choices(range(x.shape[axis] + 1), k=choose.randrange(1, 12)))
    edges = [0, *places, x.shape[axis]]
    return [x.narrow(axis, a, b - a) for a, b in itertools.pairwise(edges) if b > a]


STRIDES = {
    "two levels": {},
    "one level of 4": {"strides_thw": ((4, 2, 2),), "multipliers": (1, 2)},
    "8 at once": {"strides_thw": ((8, 2, 2),), "multipliers": (1, 1), "stem_kernel": 1},
    "none in time": {"strides_thw": ((1, 2, 2),), "multipliers": (1, 2)},
    "subpixel": {"upsampling": "subpixel"},
    "subpixel, one level of 4": {
        "strides_thw": ((4, 2, 2),),
        "multipliers": (1, 2),
        "upsampling": "subpixel",
    },
}


@pytest.mark.parametrize("strides", STRIDES)
def test_a_stream_gives_the_same_bits_however_it_is_cut(strides):
    tokenizer = make(backbone(**STRIDES[strides]))
    video = noise(41)
    clips = (video.add(1) * 127.5).round().to(torch.uint8)
    clips = rearrange(clips, "b c t h w -> b t h w c").contiguous()
    codes = tokenizer.encode(video)
    assert codes.unique().numel() > 4
    assert tuple(codes.shape[1:]) == tokenizer.config.backbone.grid_thw((41, SIZE, SIZE))
    decoded = tokenizer.decode(codes)
    assert decoded.shape == video.shape
    codes_of_bytes = tokenizer.encode(clips)
    for seed in range(4):
        parts = tokenizer.encode_stream(cut(video, 2, seed))
        assert torch.equal(torch.cat(list(parts), 1), codes)
        parts = tokenizer.encode_stream(iter(cut(clips, 1, seed)))
        assert torch.equal(torch.cat(list(parts), 1), codes_of_bytes)
        parts = tokenizer.decode_stream(cut(codes, 1, seed))
        assert torch.equal(torch.cat(list(parts), 2), decoded)
    frames = tokenizer.encode_stream(clips[:, index : index + 1] for index in range(41))
    assert torch.equal(torch.cat(list(frames), 1), codes_of_bytes)


@pytest.mark.parametrize("strides", STRIDES)
def test_a_stream_gives_what_the_training_forward_gives(strides):
    tokenizer = make(backbone(**STRIDES[strides]))
    video = noise(41, batch=2)
    output = tokenizer(video)
    features = tokenizer.encoder(video)
    torch.testing.assert_close(in_pieces(tokenizer, video), features, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        tokenizer.decode(output.quantized.codes), output.video.clamp(-1, 1), rtol=0, atol=1e-5
    )
    codes = tokenizer.encode(video)
    # Codes differ at ties alone: where both codes are equally near within rounding.
    assert isinstance(tokenizer.quantizer, VectorQuantizer)
    rows, vectors = tokenizer.latents(video), tokenizer.quantizer.codebook.vectors()
    distance = torch.cdist(rows, vectors)
    one, other = (
        distance.gather(1, each.flatten()[:, None]) for each in (codes, output.quantized.codes)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert (codes != output.quantized.codes).float().mean() < 0.01


def in_pieces(tokenizer: VideoTokenizer, video: torch.Tensor) -> torch.Tensor:
    """Return the encoder's features as `encode` computes them, piece by piece."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        encode = tokenizer.quantizer.encode
        patch.setattr(tokenizer.quantizer, "encode", lambda x: seen.append(x) or encode(x))
        tokenizer.encode(video)
    return torch.cat(seen, 2)


def test_no_latent_sees_a_later_frame_bit_for_bit_across_pieces():
    tokenizer = make(backbone())
    video = noise(41)
    features = in_pieces(tokenizer, video)
    for frame in (0, 1, 4, 5, 16, 17, 18, 29, 32, 33, 40):
        changed = video.clone()
        changed[:, :, frame] = -changed[:, :, frame]
        group = -(-frame // 4)
        other = in_pieces(tokenizer, changed)
        assert torch.equal(other[:, :, :group], features[:, :, :group])
        assert not torch.equal(other[:, :, group], features[:, :, group])


def test_no_decoded_frame_sees_a_later_code_bit_for_bit_across_pieces():
    tokenizer = make(backbone())
    codes = tokenizer.encode(noise(41))
    decoded = tokenizer.decode(codes)
    for latent in range(11):
        changed = codes.clone()
        changed[:, latent] = (changed[:, latent] + 7) % 32
        first = max(0, 4 * latent - 3)
        other = tokenizer.decode(changed)
        assert torch.equal(other[:, :, :first], decoded[:, :, :first])
        assert not torch.equal(other[:, :, first : first + 4], decoded[:, :, first : first + 4])


def test_codes_of_a_piece_do_not_depend_on_what_follows():
    tokenizer = make(backbone())
    video = noise(49)
    codes = tokenizer.encode(video)
    assert torch.equal(tokenizer.encode(video[:, :, :17]), codes[:, :5])
    assert torch.equal(tokenizer.encode(video[:, :, :33]), codes[:, :9])
    parts = tokenizer.encode_stream([video[:, :, :20]])
    assert torch.equal(next(parts), codes[:, :5])


def test_an_image_is_a_video_of_one_frame():
    tokenizer = make(backbone())
    clips = torch.randint(0, 256, (2, 1, SIZE, SIZE, 3), dtype=torch.uint8)
    codes = tokenizer.encode(clips)
    assert tuple(codes.shape) == (2, 1, 4, 4)
    still = tokenizer.encode(clips.expand(-1, 17, -1, -1, -1))
    assert (still[:, :1] == codes).float().mean() > 0.99
    assert tuple(tokenizer.decode(codes).shape) == (2, 3, 1, SIZE, SIZE)


def test_a_caller_may_fill_the_same_buffer_again():
    frames = torch.arange(10.0)
    buffer = torch.empty(3)

    def chunks():
        for start in range(0, 9, 3):
            yield buffer.copy_(frames[start : start + 3])

    pieces = [piece.clone() for piece in recut(chunks(), 0, 5, 4)]
    assert [piece.tolist() for piece in pieces] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]


def test_pieces_get_shorter_where_frames_get_larger_and_never_below_one_latent():
    assert piece_latents(4, (64, 64)) == 4
    assert piece_latents(4, (256, 256)) == 4
    assert piece_latents(4, (384, 384)) == 1
    assert piece_latents(4, (4320, 7680)) == 1
    assert piece_latents(1, (64, 64)) == 16
    assert piece_latents(64, (64, 64)) == 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"patch_thw": (1, 1, 1)},
        {"stem_kernel": 1, "num_blocks": 2},
        {"strides_thw": ((2, 2, 4), (1, 2, 1))},
        {"strides_thw": ((2, 1, 2),), "multipliers": (1, 2)},
        {"upsampling": "subpixel"},
    ],
)
def test_tiles_give_what_whole_frames_give_so_there_is_no_seam(monkeypatch, causal, changes):
    config = backbone(causal=causal, **changes)
    tokenizer = make(config)
    stride_t, stride_h, stride_w = config.total_stride_thw
    # Two tiles along each axis, for the encoder and for the decoder.
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    assert isinstance(encoder, ConvEncoder)
    assert isinstance(decoder, ConvDecoder)
    networks = encoder, decoder
    rows, columns = (
        2 * max(network.margin_hw[axis] for network in networks) + 5 for axis in (0, 1)
    )
    video = noise(int(causal) + stride_t, rows * stride_h, columns * stride_w)
    features, codes = in_pieces(tokenizer, video), tokenizer.encode(video)
    decoded = tokenizer.decode(codes)
    monkeypatch.setattr(streaming, "TILE_PIXELS", 8)
    for network in networks:
        assert len(tokenizer._stream(network, (rows, columns), reads_pixels=False).tiles) >= 4
    torch.testing.assert_close(in_pieces(tokenizer, video), features, rtol=0, atol=1e-5)
    torch.testing.assert_close(tokenizer.decode(codes), decoded, rtol=0, atol=1e-5)
    # The same without margins does show seams.
    bare = TiledStream(
        tokenizer.decoder, (rows, columns), (0, 0), (stride_h, stride_w), False, causal
    )
    with torch.no_grad():
        seams = bare(tokenizer.quantizer.decode(codes)).clamp(-1, 1)
    assert (seams - decoded).abs().max() > 0.01


def test_windows_cover_an_axis_and_each_sees_the_margin_around_what_it_gives():
    for size, core, margin in itertools.product(range(1, 40), (1, 3, 8), (0, 1, 5)):
        tiles = tiles_of_axis(size, core, margin)
        assert len({tile.end - tile.start for tile in tiles}) == 1
        given = [place for tile in tiles for place in range(tile.first, tile.last)]
        assert given == list(range(size))
        for tile in tiles:
            assert max(0, tile.first - margin) >= tile.start
            assert min(size, tile.last + margin) <= tile.end
            assert tile.end - tile.start <= core + 2 * margin


def test_streams_and_tiles_meet_in_large_long_video(monkeypatch):
    tokenizer = make(backbone())
    video = noise(25, 96, 80)
    codes = tokenizer.encode(video)
    whole = tokenizer.decode(codes)
    monkeypatch.setattr(streaming, "TILE_PIXELS", 8)
    monkeypatch.setattr(streaming, "PIECE_PIXELS", 8 * 96 * 80)
    tiled = tokenizer.encode(video)
    assert (tiled != codes).float().mean() < 0.01
    parts = tokenizer.encode_stream(cut(video, 2, 3))
    assert torch.equal(torch.cat(list(parts), 1), tiled)
    parts = torch.cat(list(tokenizer.decode_stream(cut(codes, 1, 3))), 2)
    assert torch.equal(parts, tokenizer.decode(codes))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


MEMORY = """
import resource, sys
import torch
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import ConvBackboneConfig, TokenizerConfig
torch.set_num_threads(1)
num_frames = int(sys.argv[1])
backbone = ConvBackboneConfig(channels=16, num_blocks=1, causal=True)
tokenizer = VideoTokenizer(TokenizerConfig(backbone))
def frames():
    for _ in range(num_frames):
        yield torch.randint(0, 256, (1, 1, 128, 128, 3), dtype=torch.uint8)
total = sum(part.shape[2] for part in tokenizer.decode_stream(tokenizer.encode_stream(frames())))
assert total == num_frames
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kibibytes(num_frames: int) -> int:
    # With a low threshold the C library gives back what is freed: the peak is what is in use.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(num_frames)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    return int(done.stdout)


@pytest.mark.parametrize("times", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_length(times):
    once, longer = peak_kibibytes(33), peak_kibibytes(32 * times + 1)
    # In one piece 96 more frames would take 18 MiB as pixels and over 250 MiB as activations.
    assert longer - once < 10_000


def test_a_length_that_does_not_divide_is_said_with_the_next_ones_at_the_end_of_the_stream():
    tokenizer = make(backbone())
    video = noise(20)
    with pytest.raises(InputError, match=r"1 \+ a multiple of 4 \(near: 17 or 21\)"):
        tokenizer.encode(video)
    parts = tokenizer.encode_stream([video])
    assert torch.equal(next(parts), tokenizer.encode(video[:, :, :17]))
    with pytest.raises(InputError, match=r"1 \+ a multiple of 4 \(near: 17 or 21\)"):
        next(parts)
    with pytest.raises(InputError, match=r"near: 1 or 5"):
        list(tokenizer.encode_stream([video[:, :, :3]]))


def test_chunks_that_differ_in_more_than_length_are_refused():
    tokenizer = make(backbone())
    video = noise(20)
    with pytest.raises(InputError, match="chunk 1 of the stream has type, batch, height, width"):
        list(tokenizer.encode_stream([video, video[..., :12]]))
    with pytest.raises(InputError, match="chunk 1 of the stream"):
        list(tokenizer.encode_stream([video, video.double()]))
    with pytest.raises(InputError, match="the stream holds no frame"):
        list(tokenizer.encode_stream([]))
    with pytest.raises(InputError, match="the stream holds no codes"):
        list(tokenizer.decode_stream([]))


def test_backbones_that_see_later_frames_say_what_they_can_do():
    timesformer = TimeSformerConfig(
        size_thw=(4, 16, 16), patch_thw=(1, 8, 8), width=16, depth=1, heads=2, mlp_width=16
    )
    for config in (backbone(causal=False), timesformer):
        tokenizer = make(config)
        with pytest.raises(InputError, match=r"encode_stream needs a causal tokenizer.*clips"):
            tokenizer.encode_stream([])
        with pytest.raises(InputError, match=r"decode_stream needs a causal tokenizer.*clips"):
            tokenizer.decode_stream([])
    with pytest.raises(InputError, match="learned positions for clips of t h w = 4 x 16 x 16"):
        tokenizer.decode(torch.zeros(1, 5, 2, 2, dtype=torch.int64))


def test_what_is_no_video_is_refused():
    clip = torch.zeros(1, 4, 8, 8, 3)
    with pytest.raises(InputError, match="a float video is b 3 t h w"):
        video_size(clip)
    with pytest.raises(InputError, match="a uint8 video is b t h w 3"):
        video_size(clip.movedim(4, 1).to(torch.uint8))
    with pytest.raises(InputError, match="an image is a video of one frame"):
        video_size(clip.to(torch.uint8)[:, 0])
    with pytest.raises(InputError, match="at least one frame"):
        video_size(clip.movedim(4, 1)[:, :, :0])
    with pytest.raises(InputError, match=r"found torch\.int64"):
        video_size(clip.long())
    with pytest.raises(InputError, match="NaN"):
        check_unit_range(torch.tensor([0.0, float("nan"), 1.0]))


def test_other_float_types_mean_the_same():
    tokenizer = make(backbone())
    clips = torch.randint(0, 256, (1, 5, SIZE, SIZE, 3), dtype=torch.uint8)
    codes = tokenizer.encode(clips)
    assert torch.equal(tokenizer.encode(to_pixels(clips).double()), codes)
    assert tokenizer.encode(to_pixels(clips).half()).shape == codes.shape


def test_under_bfloat16_autocast_quantizer_losses_and_video_stay_float32():
    tokenizer = make(backbone())
    video = noise(17)
    with torch.autocast("cpu", torch.bfloat16):
        features = tokenizer.encoder(video)
        output = tokenizer(video)
        codes = tokenizer.encode(video)
        parts = list(tokenizer.encode_stream(cut(video, 2, 0)))
    assert features.dtype == torch.bfloat16
    rows, losses = output.quantized.rows, output.quantized.losses
    assert losses.keys() == {"commitment", "codebook"}
    for value in (output.video, *losses.values(), rows.e, rows.q):
        assert value.dtype == torch.float32
    # In bfloat16 the features are rounded; from them on all is float32.
    assert torch.equal(tokenizer.quantizer.encode(features.float()), output.quantized.codes)
    assert torch.equal(codes, output.quantized.codes)
    assert torch.equal(torch.cat(parts, 1), codes)
