"""Tests of the TimeSformer: attention against masked full attention, sizes and settings."""

import math
import subprocess
import sys

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F
from trained import trained_tokenizer

from video_vq.config import check_config, to_json
from video_vq.errors import ConfigError, InputError
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import (
    ConvBackboneConfig,
    TimeSformerConfig,
    TokenizerConfig,
    TokenizerFacts,
)
from video_vq.nn import space_time
from video_vq.nn.blocks import num_parameters
from video_vq.nn.space_time import DividedBlock, SelfAttention
from video_vq.quantizers.quantizer_config import QuantizerConfig

SMALL = TimeSformerConfig(
    size_thw=(4, 16, 24), patch_thw=(2, 4, 4), width=16, depth=2, heads=2, mlp_width=32
)


def small(recompute: bool = False) -> VideoTokenizer:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(codebook_size=32, codebook_dim=4, init="uniform")
    tokenizer = VideoTokenizer(TokenizerConfig(SMALL, quantizer), recompute)
    for parameter in tokenizer.parameters():
        if not parameter.any():  # projections that start at zero would hide what they pass on
            torch.nn.init.normal_(parameter, std=0.1)
    return tokenizer


def masked_attention(
    attention: SelfAttention, x: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    """Compute attention over all tokens of a clip; i attends to j only if `visible[i, j]`."""
    query, key, value = attention.query_key_value(x).chunk(3, dim=-1)
    heads = []
    for q, k, v in zip(
        *(part.chunk(attention.heads, -1) for part in (query, key, value)), strict=True
    ):
        logits = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
        heads.append(logits.softmax(-1) @ v)
    return attention.output(torch.cat(heads, -1))


def test_divided_attention_is_attention_to_the_same_place_and_then_to_the_same_frame():
    torch.manual_seed(0)
    block = DividedBlock(16, 2, 32).double()
    x = torch.randn(2, 3, 2, 5, 16, dtype=torch.float64)
    frame, place = torch.arange(30) // 10, torch.arange(30) % 10
    y = rearrange(x, "b t h w d -> b (t h w) d")
    same_place = place[:, None] == place
    y = y + block.project_time(masked_attention(block.time, block.norm_time(y), same_place))
    y = y + masked_attention(block.space, block.norm_space(y), frame[:, None] == frame)
    norm = F.layer_norm(y, (16,), block.norm_mlp.weight, block.norm_mlp.bias, 1e-6)
    y = y + block.mlp(norm)
    expected = rearrange(y, "b (t h w) d -> b t h w d", t=3, h=2)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_more_sequences_than_a_gpu_takes_at_once_are_given_in_parts(monkeypatch):
    torch.manual_seed(0)
    attention, x = SelfAttention(16, 2).double(), torch.randn(10, 3, 16, dtype=torch.float64)
    (whole,) = torch.autograd.grad(attention(x).square().sum(), attention.query_key_value.weight)
    given: list[int] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        given.append(len(query))
        return real(query, key, value)

    real = F.scaled_dot_product_attention
    monkeypatch.setattr(space_time, "MAX_SEQUENCES", 4)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    (parts,) = torch.autograd.grad(attention(x).square().sum(), attention.query_key_value.weight)
    assert given == [4, 4, 2]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_codes_have_the_grid_and_decode_to_the_clip():
    tokenizer = small()
    video = torch.rand(2, 3, 4, 16, 24) * 2 - 1
    output = tokenizer(video)
    assert output.video.shape == video.shape
    assert tuple(output.quantized.codes.shape) == (2, 2, 4, 6) == (2, *SMALL.grid_thw((4, 16, 24)))
    codes = tokenizer.eval().encode(video)
    assert torch.equal(codes, output.quantized.codes)
    torch.testing.assert_close(tokenizer.decode(codes), output.video.clamp(-1, 1))


def test_the_papers_backbone_has_the_parameters_that_its_sizes_give():
    tokenizer = VideoTokenizer(TokenizerConfig(TimeSformerConfig(), QuantizerConfig()))
    attention = 4 * 256**2 + 4 * 256
    block = 2 * attention + 256**2 + 256 + 2 * 256 * 768 + 768 + 256 + 3 * 2 * 256
    tables = (32 * 32 + 16) * 256
    ends = 12 * 256 + 256 + 256 * 12 + 12  # 3 colours of 2 x 2 pixels to a token and back
    expected = 2 * (8 * block + tables + 2 * 256) + ends
    assert num_parameters(tokenizer.encoder) + num_parameters(tokenizer.decoder) == expected


def test_positions_tell_tokens_apart_that_look_alike():
    features = small().encoder(torch.zeros(1, 3, 4, 16, 24))
    rows = rearrange(features, "b c t h w -> (b t h w) c")
    distance = torch.cdist(rows, rows) + torch.eye(len(rows))
    assert distance.min() > 1e-3


def test_another_size_than_its_positions_is_refused_with_both_ways_out():
    with pytest.raises(InputError, match=r"t h w = 4 x 16 x 24, found 8 x 16 x 24"):
        SMALL.grid_thw((8, 16, 24))
    with pytest.raises(InputError, match=r"model\.backbone\.size_thw=\[4, 16, 16\]"):
        small()(torch.zeros(1, 3, 4, 16, 16))


def test_settings_name_the_backbone_and_say_what_does_not_fit():
    config = TokenizerConfig(SMALL)
    assert check_config(TokenizerConfig, to_json(config), "a test") == config
    assert check_config(TokenizerConfig, {}, "a test").backbone == ConvBackboneConfig()
    for backbone, message in (
        ({"kind": "timesformer", "patch_thw": [1, 3, 2]}, "is not divisible by patch_thw"),
        ({"kind": "timesformer", "heads": 3}, "backbone: width 256 is not divisible by heads 3"),
        ({"kind": "timesformer", "size_thw": [4096, 4096, 4096]}, "take larger patches"),
        ({"kind": "timesformer", "causal": True}, "backbone.causal: no such setting"),
        ({"kind": "timsformer"}, "kind must be conv or timesformer"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_config(TokenizerConfig, {"backbone": backbone}, "a test")


@pytest.mark.parametrize("backbone", ["conv", "timesformer"])
def test_recomputed_activations_change_no_gradient_and_keep_less(backbone):
    def run(recompute: bool) -> tuple[int, list[torch.Tensor]]:
        if backbone == "timesformer":
            tokenizer = small(recompute)
        else:
            torch.manual_seed(0)
            config = TokenizerConfig(
                ConvBackboneConfig(channels=8), QuantizerConfig(init="uniform")
            )
            tokenizer = VideoTokenizer(config, recompute)
        kept: list[int] = []

        def count(value: torch.Tensor) -> torch.Tensor:
            kept.append(value.nbytes)
            return value

        video = torch.rand(2, 3, 4, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            loss = tokenizer(video).video.square().mean()
        loss.backward()
        return sum(kept), [p.grad for p in tokenizer.parameters() if p.grad is not None]

    (all_of_them, expected), (fewer, found) = run(False), run(True)
    assert fewer < all_of_them / 3
    assert len(found) == len(expected) > 20
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


DECODE = """
import sys
import torch
from video_vq.models.tokenizer import VideoTokenizer
torch.set_num_threads(1)
tokenizer = VideoTokenizer.from_pretrained(sys.argv[1])
codes = torch.arange(2 * {cells}).view(2, {grid}) * 7 % 32
sys.stdout.buffer.write(tokenizer.decode(codes).numpy().tobytes())
"""


@pytest.mark.parametrize("backbone", ["conv", "causal conv", "timesformer"])
def test_a_saved_model_decodes_bit_equally_in_a_fresh_process(backbone, tmp_path):
    if backbone == "timesformer":
        tokenizer, grid = small(), (2, 4, 6)
    else:
        tokenizer, grid = trained_tokenizer(causal=backbone == "causal conv"), (2, 4, 4)
    tokenizer.facts = TokenizerFacts(
        num_frames=4,
        stride=1,
        frame_size_hw=(16, 24),
        grid_thw=grid,
        trained_on="hash of the clips",
        steps=6,
    )
    tokenizer.save_pretrained(tmp_path)
    cells = math.prod(grid)
    program = DECODE.format(cells=cells, grid=", ".join(map(str, grid)))
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, check=True, timeout=300
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    video = tokenizer.eval().decode(torch.arange(2 * cells).view(2, *grid) * 7 % 32)
    torch.set_num_threads(threads)
    assert video.std() > 1e-3
    assert answer.stdout == video.numpy().tobytes()
