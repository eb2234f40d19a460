"""Tests of counted costs against closed forms, and of the table of shipped configs."""

import importlib.util
from pathlib import Path

import pytest

from video_vq.config import find_config, load_config, shipped_configs, to_json
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import (
    ConvBackboneConfig,
    TimeSformerConfig,
    TokenizerConfig,
)
from video_vq.stores.files import difference
from video_vq.training.training_config import TokenizerRunConfig, TokenizerTrainingConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("config_table", ROOT / "scripts/config_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_flops_of_a_timesformer_are_those_of_its_products(script):
    backbone = TimeSformerConfig(
        size_thw=(4, 8, 8), patch_thw=(1, 2, 2), width=16, depth=3, heads=2, mlp_width=40
    )
    config = TokenizerTrainingConfig(model=TokenizerConfig(backbone))
    costs = script.tokenizer_costs(config, (4, 8, 8), "no")
    tokens, places = 4 * 4 * 4, 4 * 4
    products = tokens * (2 * 4 * 16 * 16 + 16 * 16 + 2 * 16 * 40)
    attention = tokens * (2 * 4 * 16 + 2 * places * 16)  # along time, in the frame
    ends = 2 * tokens * 12 * 16
    assert costs.forward_flops == 2 * (2 * 3 * (products + attention) + ends)
    # Backward each product is two; but for the first, whose input needs no gradient.
    assert costs.step_flops == 3 * costs.forward_flops - 2 * tokens * 12 * 16
    assert costs.num_tokens == tokens


def test_the_flops_of_convolutions_are_those_of_their_kernels_and_recomputing_adds_a_pass(script):
    backbone = ConvBackboneConfig(
        patch_thw=(1, 1, 1), strides_thw=(), multipliers=(1,), channels=8, num_blocks=1
    )
    sizes = (4, 8, 8)
    config = TokenizerTrainingConfig(model=TokenizerConfig(backbone))
    costs = script.tokenizer_costs(config, sizes, "no")
    cells = 4 * 8 * 8
    encoder = 27 * (3 * 8 + 2 * 8 * 8) + 8 * 8
    decoder = 27 * (8 * 8 + 2 * 8 * 8 + 8 * 3)
    assert costs.forward_flops == 2 * cells * (encoder + decoder)
    recomputed = TokenizerTrainingConfig(
        model=TokenizerConfig(backbone), run=TokenizerRunConfig(checkpoint_activations=True)
    )
    again = script.tokenizer_costs(recomputed, sizes, "no")
    assert again.forward_flops == costs.forward_flops
    # Of each residual block the first convolution: of the last only the input is needed.
    blocks = 2 * cells * 27 * (8 * 8 + 8 * 8)
    assert again.step_flops == costs.step_flops + blocks
    assert again.clip_bytes < costs.clip_bytes


def test_copies_of_weights_in_bf16_are_counted_once_and_not_with_each_clip(script):
    backbone = ConvBackboneConfig(
        patch_thw=(1, 1, 1), strides_thw=(), multipliers=(1,), channels=8, num_blocks=1
    )
    config = TokenizerTrainingConfig(model=TokenizerConfig(backbone))
    exact, low = (
        script.tokenizer_costs(config, (4, 8, 8), precision) for precision in ("no", "bf16")
    )
    tokenizer = VideoTokenizer(config.model)
    weights = [
        parameter.numel()
        for part in (tokenizer.encoder, tokenizer.decoder)
        for name, parameter in part.named_parameters()
        if not name.endswith("bias")  # a backward pass needs no bias
    ]
    assert low.weight_bytes - exact.weight_bytes == 2 * sum(weights)
    # Weights, gradients, two moments of AdamW and the averaged weights, all float32; and AdamW's
    # count of steps for each tensor.
    num_tensors = len(list(tokenizer.parameters()))
    assert exact.weight_bytes == (4 + 4 + 8 + 4) * exact.num_parameters + 4 * num_tensors
    assert 0.4 * exact.clip_bytes < low.clip_bytes < exact.clip_bytes


def test_every_shipped_tokenizer_config_has_its_line_in_the_table(script):
    folder = shipped_configs() / "tokenizer"
    names = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}
    listed = {name for row in script.CONFIGS for name in script.names_of(row)}
    assert names == listed - {"demo/tokenizer"}


@pytest.mark.parametrize("data", ["bair", "ucf101"])
def test_the_papers_arms_differ_in_the_gradient_alone(data):
    def arm(name: str) -> dict:
        path = find_config(f"timesformer/{data}_{name}", "tokenizer")
        return to_json(load_config(TokenizerTrainingConfig, path))

    quantizer = "model.quantizer"
    assert difference(arm("rotation_l2"), arm("straight_through_l2")) == [
        f"{quantizer}.estimator: 'rotation' -> 'straight_through'"
    ]
    assert difference(arm("straight_through_l2"), arm("straight_through_raw")) == [
        f"{quantizer}.gradient_through_norm: True -> False"
    ]
    assert arm("rotation_l2")["model"]["quantizer"]["normalize"]


def test_every_ablation_changes_a_config_in_at_most_five_lines():
    for path in (shipped_configs() / "ablations").glob("*.yaml"):
        load_config(TokenizerTrainingConfig, path)
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert len(lines) <= 5, path


def test_shipped_tokenizers_have_channels_in_multiples_of_32():
    for path in shipped_configs().rglob("*.yaml"):
        if "prior" in path.stem or path.parent.name == "prior":
            continue
        backbone = load_config(TokenizerTrainingConfig, path).model.backbone
        assert (backbone.channels if backbone.kind == "conv" else backbone.width) % 32 == 0, path
