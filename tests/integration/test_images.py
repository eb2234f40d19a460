"""Tests of the shipped 2D tokenizers at a tiny size; an image is a video with one frame."""

import json
from typing import Any

import pytest
import torch

from video_vq.cli import main
from video_vq.config import load_config, shipped_configs
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

TINY = {
    "vqgan": ("model.backbone.channels=8", "model.backbone.num_blocks=1"),
    "vit": (
        "model.backbone={kind: timesformer, size_thw: [1, 16, 16], patch_thw: [1, 8, 8], width: 16,"
        " depth: 1, heads: 2, mlp_width: 16}",
    ),
}
STEPS = (
    *("optim.steps=3", "optim.warmup_steps=1", "optim.batch_size=2", "loss.perceptual.weight=0"),
    *("loss.adversarial.start=1", "loss.adversarial.warmup_steps=1", "run.validate_every=3"),
    *("run.checkpoint_every=3", "run.num_workers=0", "run.validation_clips=2", "run.log_every=1"),
)
CONFIGS = sorted((shipped_configs() / "tokenizer" / "image").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_2d_tokenizer_trains_on_single_frames(path, clip_store, tmp_path):
    kind, *_, compared, size = path.stem.split("_")
    config = load_config(TokenizerTrainingConfig, path, [*TINY[kind], *STEPS])
    quantizer: Any = config.model.quantizer
    assert (f"{quantizer.codebook_size}x{quantizer.codebook_dim}", quantizer.normalize) == (
        size,
        compared == "cosine",
    )
    train_tokenizer(config, clip_store, tmp_path / "run")
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "run")
    side = 2 if kind == "vit" else 1
    images = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8)
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 1, side, side)
    assert tokenizer.decode(codes).shape == (2, 3, 1, 16, 16)
    if path.stem == CONFIGS[0].stem:
        assert_scored(clip_store, tmp_path)


def assert_scored(clip_store, folder):
    """Check the scores and report of a 2D tokenizer: FVD on padded clips, no motion scores."""
    words = ["evaluate", "--data", clip_store, "--tokenizer", folder / "run", "--split", "test"]
    words += ["--num", 4, "--protocol", "padded", "--controls", "--out", folder / "run" / "scores"]
    words += ["--network", "test_evaluation:averages"]
    assert main([str(word) for word in words]) == 0
    found = json.loads((folder / "run" / "scores" / "scores.json").read_text())
    scores = found["reconstruction"]
    assert scores["psnr"]["mean"] > 0
    assert scores["rfvd"]["num_real"] == 4
    assert "flicker" not in scores
    assert main(["report", str(folder)]) == 0
