"""Tests of VideoMAE and V-JEPA against reference implementations, and of rejected files."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from video_vq.errors import ConfigError, InputError
from video_vq.evaluation import preset_weights
from video_vq.evaluation.feature_network import FeatureNetwork, load_feature_network
from video_vq.evaluation.preset_weights import fill, load_preset
from video_vq.metrics.kernel import jedi_distance
from video_vq.metrics.network_choice import WeightsFile, network_name, read_preset
from video_vq.metrics.protocol import PROTOCOLS
from video_vq.metrics.video_transformer import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TransformerSizes,
    VideoMae,
    VJepa,
)

SMALL = TransformerSizes(width=32, depth=2, heads=4, hidden=64, patch=8, frame_size=16)
HASH = "0" * 64


def clips() -> Tensor:
    return torch.rand(2, 3, 16, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def randomize(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def reference() -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(
        image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, layer_norm_eps=1e-6, use_mean_pooling=True,
    )  # fmt: skip
    network = VideoMAEForVideoClassification(config).eval()
    randomize(network)
    return network


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of transformers with the names and shapes used by VideoMAE's authors."""
    names = {
        "videomae.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "videomae.encoder.layer": "blocks",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "attention.attention.query.bias": "attn.q_bias",
        "attention.attention.value.bias": "attn.v_bias",
        "classifier": "head",
    }
    found = {}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = tensor
    for block in range(2):
        start = f"blocks.{block}.attention.attention"
        parts = [found.pop(f"{start}.{one}.weight") for one in ("query", "key", "value")]
        found[f"blocks.{block}.attn.qkv.weight"] = torch.cat(parts)
    return found


def small(monkeypatch) -> None:
    """Replace the networks of the presets by small ones."""
    monkeypatch.setattr(preset_weights, "VideoMae", SmallMae)
    monkeypatch.setattr(preset_weights, "VJepa", SmallJepa)


class SmallMae(VideoMae):
    def __init__(self):
        super().__init__(SMALL)


class SmallJepa(VJepa):
    def __init__(self):
        super().__init__(SMALL)


def test_videomae_computes_what_transformers_does_from_either_kind_of_file(
    reference, monkeypatch, tmp_path
):
    small(monkeypatch)
    with torch.no_grad():
        frames = ((clips() + 1) / 2).movedim(1, 2)
        expected = reference.fc_norm(reference.videomae(frames).last_hidden_state.mean(1))
    state = reference.state_dict()
    old = {
        re.sub(r"\.(query|value)\.bias", lambda m: f".{m[1][0]}_bias", k): v
        for k, v in state.items()
    }
    for number, tensors in enumerate((state, old, original(state))):
        file = tmp_path / f"{number}.safetensors"
        safetensors.torch.save_file(tensors, file)
        network = load_preset(read_preset(f"videomae={file}"))  # type: ignore[arg-type]
        assert (network(clips()) - expected).abs().max() < 1e-5 < expected.abs().max()


def test_v_jepa_computes_what_torch_s_own_layers_do():
    network = VJepa(SMALL)
    randomize(network)
    layers = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            32, 4, 64, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        ),
        2,
        enable_nested_tensor=False,
    ).eval()
    names = {
        "attn.qkv.": "self_attn.in_proj_",
        "attn.proj.": "self_attn.out_proj.",
        "mlp.fc1.": "linear1.",
        "mlp.fc2.": "linear2.",
    }
    state = network.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith("blocks.")}
    for old, new in names.items():
        encoder = {key.replace(old, new): value for key, value in encoder.items()}
    layers.load_state_dict({key.replace("blocks.", "layers."): v for key, v in encoder.items()})
    pooler = {
        key.removeprefix("pooler.cross_attention_block."): value
        for key, value in state.items()
        if "cross_attention_block" in key
    }
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    attention.load_state_dict(
        {
            f"in_proj_{kind}": torch.cat([pooler[f"xattn.q.{kind}"], pooler[f"xattn.kv.{kind}"]])
            for kind in ("weight", "bias")
        }
        | {f"out_proj.{kind}": pooler[f"xattn.proj.{kind}"] for kind in ("weight", "bias")}
    )

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (32,), pooler[f"{name}.weight"], pooler[f"{name}.bias"])

    with torch.no_grad():
        mean, std = (torch.tensor(each).view(3, 1, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        patches = network.patch_embed.proj(((clips() + 1) / 2 - mean) / std)
        tokens = layers(patches.flatten(2).transpose(1, 2) + network.pos_embed)
        tokens = norm_of(network.norm, tokens)
        query = network.pooler.query_tokens.expand(2, -1, -1)
        keys = norm(tokens, "norm1")
        query = query + attention(query, keys, keys)[0]
        hidden = nn.functional.linear(
            norm(query, "norm2"), pooler["mlp.fc1.weight"], pooler["mlp.fc1.bias"]
        )
        hidden = nn.functional.gelu(hidden)
        query = query + nn.functional.linear(
            hidden, pooler["mlp.fc2.weight"], pooler["mlp.fc2.bias"]
        )
    assert (network(clips()) - query[:, 0]).abs().max() < 1e-5 < query.abs().max()


def norm_of(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, (32,), norm.weight, norm.bias, 1e-6)


def test_the_published_checkpoints_of_v_jepa_are_read_without_what_is_not_needed(
    monkeypatch, tmp_path
):
    small(monkeypatch)
    network = VJepa(SMALL)
    randomize(network)
    state = network.state_dict()
    encoder = {f"module.backbone.{k}": v for k, v in state.items() if not k.startswith("pooler")}
    probe = {f"module.{k}": v for k, v in state.items() if k.startswith("pooler")}
    probe |= {"module.linear.weight": torch.zeros(7, 32), "module.linear.bias": torch.zeros(7)}
    files = []
    for name, saved in (
        ("a.pth.tar", {"encoder": {}, "target_encoder": encoder, "epoch": 300, "scaler": None}),
        ("b.pth.tar", {"classifier": probe, "epoch": 20}),
    ):
        torch.save(saved, tmp_path / name)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        files.append(f"{tmp_path / name}@{digest}")
    loaded = load_feature_network(f"jedi={','.join(files)}", "cpu")
    assert (loaded.name, loaded.num_features) == ("jedi", 32)
    assert torch.equal(loaded.module(clips()), network(clips()))
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    # The hash is of the weights: it does not change with the kind of file.
    safetensors.torch.save_file(state, tmp_path / "both.safetensors")
    again = load_feature_network(f"jedi={tmp_path / 'both.safetensors'}", "cpu")
    assert again.sha256 == loaded.sha256


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_files_that_are_not_the_weights_are_refused_in_one_sentence(
    reference, monkeypatch, tmp_path
):
    small(monkeypatch)
    monkeypatch.chdir(tmp_path)
    good = original(reference.state_dict())

    def refused(name: str, *, sha256: str = "") -> str:
        with pytest.raises(InputError) as error:
            load_feature_network(f"videomae={name}" + (f"@{sha256}" if sha256 else ""), "cpu")
        return str(error.value)

    def saved(tensors: dict[str, Tensor]) -> str:
        safetensors.torch.save_file(tensors, "changed.safetensors")
        return refused("changed.safetensors")

    assert "no such file" in refused("absent.safetensors")
    Path("torn.safetensors").write_bytes(b"\xff" * 64)
    assert "cannot be read as weights" in refused("torn.safetensors")
    assert "read only if its sha256 is given" in refused("some.pth")
    Path("evil.pth").write_bytes(pickle.dumps({"model": Harmful()}))
    assert f"expected {HASH}" in refused("evil.pth", sha256=HASH)
    digest = hashlib.sha256(Path("evil.pth").read_bytes()).hexdigest()
    assert "nothing is executed" in refused("evil.pth", sha256=digest)
    assert not Path("executed").exists()
    zeros = {key: value * ("_bias" not in key) for key, value in good.items()}
    assert "all biases of queries and values are zero, as transformers 5 leaves" in saved(zeros)
    none = {key: value for key, value in good.items() if "q_bias" not in key}
    assert "blocks.0.attn has no q_bias or no v_bias" in saved(none)
    short = {key: value for key, value in good.items() if key != "blocks.1.norm2.weight"}
    assert "do not fit in 1 tensors, the first is blocks.1.norm2.weight: expected (32,)" in saved(
        short
    )
    assert "found (3,); it takes vit_g_hybrid" in saved(good | {"extra": torch.zeros(3)})
    assert "fc_norm.weight: expected (32,), found (31,)" in saved(
        good | {"fc_norm.weight": torch.ones(31)}
    )
    broken = good | {"fc_norm.bias": torch.full((32,), torch.nan)}
    assert "fc_norm.bias is not all finite" in saved(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("videomae", "its weights are not downloaded; write videomae=FILE with vit_g_hybrid"),
        ("jedi=", "write jedi=FILE with vith16.pth.tar and ssv2-probe.pth.tar"),
        (f"jedi=@{HASH}", "write a file as FILE or FILE@SHA256"),
        ("videomae=,a", "write a file as FILE or FILE@SHA256"),
    ],
)
def test_a_published_network_needs_its_files(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_preset(text)


def test_a_network_is_told_by_its_name_and_not_by_where_its_weights_lie():
    assert network_name(f"jedi=/home/me/a.pth@{HASH},hf://org/name/b.safetensors") == "jedi"
    assert network_name("mine.networks:make") == "mine.networks:make"
    found = read_preset(f"jedi=me@home/a.pth@{HASH},hf://org/name/b@2.safetensors,c.pth@12")
    assert found is not None
    assert found.files == (
        WeightsFile("me@home/a.pth", HASH),
        WeightsFile("hf://org/name/b@2.safetensors", None),
        WeightsFile("c.pth@12", None),
    )


def test_published_networks_refuse_what_i3d_alone_takes():
    network = FeatureNetwork(nn.Identity(), "videomae", HASH, 4)
    network.require([PROTOCOLS["styleganv"], PROTOCOLS["cd-fvd"]])
    with pytest.raises(
        InputError, match=r"'videogpt' prepares clips only for I3D; .* as 'styleganv' does"
    ):
        network.require([PROTOCOLS["videogpt"]])
    with pytest.raises(InputError, match="VideoMAE takes clips of b 3 16 16 16, found"):
        VideoMae(SMALL)(clips()[:, :, :9])


def test_jedi_is_the_mean_of_a_quadratic_kernel_over_all_pairs():
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(30, 8)), random.normal(0.3, 1.2, size=(20, 8))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float((((x @ y.T) / 8) ** 2).mean())

    expected = 100 * (mean(real, real) + mean(fake, fake) - 2 * mean(real, fake))
    assert jedi_distance(real, fake) == pytest.approx(expected, rel=1e-12)
    assert jedi_distance(real, real) == 0


def test_weights_of_a_network_are_all_given_or_none(reference):
    network = VideoMae(SMALL)
    with pytest.raises(InputError, match="--network videomae: its weights do not fit"):
        fill(network, {"patch_embed.proj.weight": torch.zeros(1)})
