"""Tests of models in bf16, fp16 and float64, compiled and wrapped: use, saving and loading."""

import copy
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trained import trained_prior, trained_tokenizer

from video_vq.errors import InputError
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig, PriorFacts, TransformerConfig
from video_vq.models.sampling import TokenSampler, sample_tokens
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import TimeSformerConfig, TokenizerConfig
from video_vq.quantizers.quantizer_config import FiniteConfig, QuantizerConfig, SimVQConfig

QUANTIZERS = [QuantizerConfig(codebook_size=32), FiniteConfig(levels=(8, 5, 5)), SimVQConfig()]
DTYPES = [torch.bfloat16, torch.float16, torch.float64]
LOW = [torch.bfloat16, torch.float16]


def acting_prior() -> Prior:
    torch.manual_seed(0)
    sizes = TransformerConfig(width=32, depth=1, heads=2, condition_dropout=0.1)
    prior = Prior(PriorConfig(32, (2, 4, 4), 2, 3, sizes))
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prior.set_action_statistics(torch.tensor([1001.0, 0.0, -3.3]), torch.tensor([0.3, 7.7, 1.0]))
    prior.facts = PriorFacts("0" * 64, ("a", "b"), 4, (16, 16), 10.0, "hash of the tokens", 6)
    return prior.eval()


def tokenizer_of(quantizer: Any, causal: bool = False) -> VideoTokenizer:
    """Return a tokenizer with perturbed weights, so that all norms and blocks have an effect."""
    tokenizer = trained_tokenizer(quantizer, causal)
    generator = torch.Generator().manual_seed(3)
    for network in (tokenizer.encoder, tokenizer.decoder):
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.1 * noise)
    latents = tokenizer.latents(clip(64, 3 if causal else 4))
    tokenizer.quantizer.codebook.initialize((latents,), 0)
    return tokenizer


def time_sformer() -> VideoTokenizer:
    torch.manual_seed(0)
    backbone = TimeSformerConfig(size_thw=(4, 16, 16), width=32, depth=2, heads=2, mlp_width=64)
    tokenizer = VideoTokenizer(TokenizerConfig(backbone, FiniteConfig(levels=(4, 4))))
    for parameter in tokenizer.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return tokenizer.eval()


def clip(size: int = 16, num_frames: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, num_frames, size, size, generator=generator) * 2 - 1


MODELS = {
    "codebook": trained_tokenizer,
    "finite": partial(trained_tokenizer, FiniteConfig(levels=(4, 8))),
    "simvq": partial(trained_tokenizer, SimVQConfig(codebook_size=32)),
    "prior": trained_prior,
    "acting prior": acting_prior,
}


@pytest.mark.parametrize("size_thw", [(5, 16, 16), (3, 4, 32)])  # a place where bf16 is mended, too
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=["codebook", "finite", "simvq"])
@pytest.mark.parametrize("dtype", LOW)
def test_a_low_tokenizer_gives_bit_for_bit_what_autocast_gives(dtype, quantizer, causal, size_thw):
    tokenizer = tokenizer_of(quantizer, causal)
    frames = size_thw[0] if causal else size_thw[0] - 1
    generator = torch.Generator().manual_seed(1)
    video = torch.rand(2, 3, frames, *size_thw[1:], generator=generator) * 2 - 1
    with torch.autocast("cpu", dtype):
        codes, output = tokenizer.encode(video), tokenizer(video)
        decoded = tokenizer.decode(codes)
    low = copy.deepcopy(tokenizer).to(dtype)
    assert torch.equal(low.encode(video), codes)
    assert torch.equal(low.encode(video.to(dtype)), codes)  # as a loader of this dtype gives it
    assert torch.equal(low.decode(codes), decoded)
    found = low(video)
    assert torch.equal(found.video, output.video)
    assert torch.equal(found.quantized.codes, output.quantized.codes)
    assert found.video.dtype == decoded.dtype == torch.float32
    assert not torch.equal(decoded, tokenizer.decode(codes))  # else the dtype had changed nothing


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=["codebook", "finite", "simvq"])
def test_a_tokenizer_in_double_gives_what_float32_gives(quantizer):
    tokenizer = tokenizer_of(quantizer)
    codes, video = tokenizer.encode(clip()), tokenizer.reconstruct(clip())
    wide = copy.deepcopy(tokenizer).double()
    assert torch.equal(wide.encode(clip()), codes)
    torch.testing.assert_close(wide.decode(codes), video, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_a_time_sformer_of_another_dtype_comes_as_near_as_its_rounding(dtype):
    tokenizer = time_sformer()
    other = copy.deepcopy(tokenizer).to(dtype)
    config = tokenizer.config.quantizer
    assert isinstance(config, FiniteConfig)
    half_width = torch.tensor(config.levels) // 2  # FSQ's latents are over this
    latents, found = (one.latents(clip()) * half_width for one in (tokenizer, other))
    near = 0.1 if dtype in LOW else 1e-4
    torch.testing.assert_close(found, latents, atol=near, rtol=0)
    sure = ((latents - latents.floor() - 0.5).abs() > near).all(1)  # FSQ rounds them to integers
    assert sure.float().mean() > 0.2
    same = tokenizer.encode(clip()).flatten() == other.encode(clip()).flatten()
    assert same[sure].all()
    copied = other.reconstruct(clip())
    assert (copied - tokenizer.decode(other.encode(clip()))).abs().max() < near


@pytest.mark.parametrize("dtype", LOW)
def test_streams_and_tiles_of_a_low_tokenizer_are_those_of_the_whole(dtype, monkeypatch):
    tokenizer = tokenizer_of(None, causal=True).to(dtype)
    video = clip(64, 9)
    codes = tokenizer.encode(video)
    streamed = torch.cat(list(tokenizer.encode_stream(video.split([3, 4, 2], dim=2))), dim=1)
    assert torch.equal(streamed, codes)
    decoded = torch.cat(list(tokenizer.decode_stream(codes.split([1, 3, 1], dim=1))), dim=2)
    assert torch.equal(decoded, tokenizer.decode(codes))
    monkeypatch.setattr("video_vq.models.streaming.TILE_PIXELS", 16)
    assert torch.equal(tokenizer.encode(video), codes)
    torch.testing.assert_close(tokenizer.decode(codes), decoded, atol=0.02, rtol=0)


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_quantizers_angles_and_statistics_stay_float32_to_the_bit(make, change):
    model = make()
    kept = ["quantizer."] if model.kind == "tokenizer" else ["rotary_", "action_mean", "action_std"]

    def parts() -> Iterator[tuple[str, Tensor]]:
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if any(name.startswith(prefix) for prefix in kept):
                yield name, value.detach().clone()

    before = dict(parts())
    assert before
    change(model)
    for name, value in parts():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert next(model.parameters()).dtype != torch.float32
    moved = model.to("meta", torch.bfloat16)  # what stays float32 still goes to another device
    assert all(value.is_meta for value in [*moved.parameters(), *moved.buffers()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_model_is_loaded_in_the_dtype_it_was_saved_in(make, dtype, tmp_path):
    model = make().to(dtype)
    saved = model.save_pretrained(tmp_path)
    name = str(dtype).removeprefix("torch.")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == name
    assert f"| dtype | {name} |" in (tmp_path / "README.md").read_text()
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.hash == saved
    found, expected = loaded.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)
    assert loaded.save_pretrained(tmp_path) == saved


def test_a_float32_folder_is_written_as_before_and_a_foreign_dtype_is_refused(tmp_path):
    trained_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "dtype" not in config
    for dtype in ("int8", "float8", ["float32"]):
        (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
        with pytest.raises(InputError, match="expected one of float32, bfloat16"):
            VideoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    with pytest.raises(InputError, match=r"expected .* torch\.bfloat16, found .* torch\.float32"):
        VideoTokenizer.from_pretrained(tmp_path)


def half_encoder(model: VideoTokenizer) -> None:
    model.encoder.half()


def half_decoder(model: VideoTokenizer) -> None:
    model.decoder.bfloat16()


def on_meta(model: VideoTokenizer) -> None:
    model.to("meta")


def a_part_on_meta(model: VideoTokenizer) -> None:
    model.decoder.to("meta")


def in_float8(model: VideoTokenizer) -> None:
    model.to(torch.float8_e4m3fn)


def another_layer(model: VideoTokenizer) -> None:
    layer = model.encoder.get_submodule("out")
    model.encoder.add_module("out", nn.Sequential(layer, nn.Identity()))  # as adapters do


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (half_encoder, "cannot be saved as a model in float16"),
        (half_decoder, "cannot be saved as a model in float32"),
        (on_meta, "meta device, where tensors have no values"),
        (a_part_on_meta, "meta device"),
        (in_float8, "bring it to one of float32"),
        (another_layer, "not part of the model: encoder.out.0"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(spoil, message, tmp_path, monkeypatch):
    model = trained_tokenizer()
    spoil(model)
    with pytest.raises(InputError, match=message):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(InputError, match=message):
        model.push_to_hub("somebody/model")  # before anything is asked of the network


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def compiled_parts(model: Any) -> Any:
    for name, part in list(model.named_children()):
        setattr(model, name, torch.compile(part, backend="eager"))
    return model


def compiled_twice(model: Any) -> Any:
    return compiled(compiled_parts(model))


def compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("wrap", [compiled, compiled_parts, compiled_twice, compiled_in_place])
@pytest.mark.parametrize("make", [trained_tokenizer, acting_prior])
def test_a_compiled_model_is_saved_as_the_plain_one(make, wrap, tmp_path):
    plain = make().save_pretrained(tmp_path / "plain")
    assert wrap(make()).save_pretrained(tmp_path / "wrapped") == plain
    for file in ("model.safetensors", "config.json"):
        bytes_ = [(tmp_path / name / file).read_bytes() for name in ("plain", "wrapped")]
        assert bytes_[0] == bytes_[1]
    assert make.__call__().__class__.from_pretrained(tmp_path / "wrapped").hash == plain


def test_a_tokenizer_of_compiled_parts_still_takes_large_frames_tile_by_tile(monkeypatch):
    monkeypatch.setattr("video_vq.models.streaming.TILE_PIXELS", 16)
    tokenizer = trained_tokenizer()
    encoder: Any = torch.compile(tokenizer.encoder, backend="eager")
    tokenizer.encoder = encoder
    stream = tokenizer._stream(encoder, (64, 64), reads_pixels=True)
    assert len(stream.tiles) > 1


def test_a_model_inside_ddp_is_saved_as_the_plain_one(tmp_path):
    expected = trained_prior().save_pretrained(tmp_path / "plain")
    where = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", where, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(trained_prior())
        assert wrapped.module.save_pretrained(tmp_path / "wrapped") == expected
    finally:
        torch.distributed.destroy_process_group()
    assert Prior.from_pretrained(tmp_path / "wrapped").hash == expected


def test_a_model_on_another_device_is_brought_to_the_cpu_before_it_is_saved(tmp_path, monkeypatch):
    class Elsewhere(Tensor):
        """A tensor as if on another device, whose values can be read only after `cpu`."""

        def detach(self) -> Tensor:
            return self

        def cpu(self, *_: Any, **__: Any) -> Tensor:
            return self.as_subclass(Tensor)

        def contiguous(self, *_: Any, **__: Any) -> Tensor:
            raise RuntimeError("read on another device")

    model = trained_tokenizer()
    expected = model.save_pretrained(tmp_path / "plain")
    far = {key: value.detach().as_subclass(Elsewhere) for key, value in model.state_dict().items()}
    monkeypatch.setattr(model, "state_dict", lambda: far)
    assert model.save_pretrained(tmp_path / "far") == expected


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_a_prior_of_another_dtype_predicts_and_samples(dtype):
    prior = acting_prior()
    other = copy.deepcopy(prior).to(dtype)
    tokens = torch.randint(0, 32, (3, 32), generator=torch.Generator().manual_seed(1))
    labels, actions = torch.tensor([0, 1, -1]), torch.randn(3, 2, 3) + prior.action_mean
    expected, found = prior(tokens, labels, actions), other(tokens, labels, actions)
    assert found.dtype == torch.float32
    assert (found - expected).std() < (0.1 if dtype in LOW else 1e-4) * expected.std()
    # Sampling runs in float32, so it is exactly that of the same numbers in a float32 prior.
    wide = copy.deepcopy(other).float()
    seeds = [1, 2, 3]
    drawn = sample_tokens(other, seeds, labels, None, actions, batch_size=2)
    assert torch.equal(drawn, sample_tokens(wide, seeds, labels, None, actions, batch_size=2))
    assert next(other.parameters()).dtype == dtype  # the prior itself stays what it is


def test_a_float32_prior_is_not_copied_to_be_sampled_from():
    prior = trained_prior()
    assert TokenSampler(prior).prior is prior
