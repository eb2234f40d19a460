"""Small models that look trained, and scores that look like those of an evaluation."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from video_vq.metrics.protocol import fvd_protocol
from video_vq.models.masked_prior import MaskedPrior
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig, PriorFacts, TransformerConfig
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.models.tokenizer_config import (
    ConvBackboneConfig,
    TokenizerConfig,
    TokenizerFacts,
)
from video_vq.quantizers.quantizer_config import FiniteConfig, QuantizerConfig, SimVQConfig


def trained_tokenizer(
    quantizer: QuantizerConfig | SimVQConfig | FiniteConfig | None = None, causal: bool = False
) -> VideoTokenizer:
    """Return a tokenizer for 4 frames of 16 x 16 (3 if causal) with random weights and codes."""
    torch.manual_seed(0)
    backbone = ConvBackboneConfig(
        channels=8, num_blocks=1, multipliers=(1, 2), strides_thw=((2, 2, 2),), causal=causal
    )
    model = VideoTokenizer(
        TokenizerConfig(backbone, quantizer or QuantizerConfig(codebook_size=32))
    )
    num_frames = 3 if causal else 4
    latents = model.latents(torch.rand(4, 3, num_frames, 16, 16) * 2 - 1)
    model.quantizer.codebook.initialize((latents,), 0)
    model.facts = TokenizerFacts(num_frames, 1, (16, 16), (2, 4, 4), "hash of the clips", 6)
    return model.eval()


def trained_prior(classes: tuple[str, ...] = ("left", "right")) -> Prior:
    """Return a prior with random weights for the grids of `trained_tokenizer`."""
    torch.manual_seed(0)
    sizes = TransformerConfig(width=32, depth=1, heads=2)
    model = Prior(PriorConfig(32, (2, 4, 4), len(classes), 0, sizes))
    with torch.no_grad():
        model.head.weight.normal_(std=0.1)
    model.facts = PriorFacts("0" * 64, classes, 4, (16, 16), 10.0, "hash of the tokens", 6)
    return model.eval()


WINDOW, WINDOW_FRAMES = 4, 7  # latent frames and frames of a clip of the causal models: 1 + 3 x 2


class CausalModels(NamedTuple):
    """A causal tokenizer and an autoregressive prior; the folder also contains a masked prior."""

    folder: Path
    tokenizer: VideoTokenizer
    prior: Prior


def save_causal_models(folder: Path) -> CausalModels:
    """Save a causal tokenizer `t`, an autoregressive prior `p` and a masked prior `m`."""
    tokenizer = trained_tokenizer(causal=True)
    grid_thw = (WINDOW, 4, 4)
    tokenizer.facts = replace(tokenizer.facts, num_frames=WINDOW_FRAMES, grid_thw=grid_thw)
    tokenizer.save_pretrained(folder / "t")
    prior = trained_prior()
    config = replace(prior.config, grid_thw=grid_thw)
    sizes = replace(config.transformer, kind="masked")
    models = Prior(config), MaskedPrior(replace(config, transformer=sizes))
    for name, model in zip("pm", models, strict=True):
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.facts = replace(prior.facts, tokenizer_hash=tokenizer.hash, num_frames=WINDOW_FRAMES)
        model.eval().save_pretrained(folder / name)
    return CausalModels(folder, tokenizer, models[0])


def scores_of(tokenizer: str, prior: str | None = None) -> dict[str, Any]:
    """Return scores in the format of `evaluate`, for models with the given hashes."""
    return {
        "identity": {"tokenizer": tokenizer, "prior": prior},
        "protocol": fvd_protocol("styleganv").settings(),
        "network_sha256": "af5c50f0",
        "data": "hash of the clips",
        "tokenizer": tokenizer,
        "split": "test",
        "num_clips": 256,
        "num_frames": 4,
        "num_frames_in_fvd": 4,
        "frame_stride": 1,
        "reconstruction": {
            "psnr": {"mean": 27.25},
            "ssim": {"mean": 0.9},
            "rfvd": {"value": 41.5, "num_real": 256, "num_fake": 255, "warnings": []},
            "codebook": {"code_usage": 0.75, "perplexity": 20.0},
        },
        "floor": {"distance": 12.125, "num_clips": 128},
        "controls": {},
        "generation": {"gfvd": {"value": 99.5, "num_real": 256, "num_fake": 256, "warnings": []}},
        "prior": {"bits_per_token": 3.25, "num_grids": 256},
    }
