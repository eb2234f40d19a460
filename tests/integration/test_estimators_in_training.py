"""Tests of estimators that need more than the code: training, stopping, resuming and use."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from runs import SMALL_TOKENIZER, AfterStep

from video_vq.config import load_config
from video_vq.errors import InputError
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stages.encode_clips import encode_clips
from video_vq.stages.encode_job import EncodeJob
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig


def train(data: Path, out: Path, *changes: str, request=None) -> list[dict]:
    (config := out.with_suffix(".yaml")).write_text(SMALL_TOKENIZER)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_tokenizer(
        load_config(TokenizerTrainingConfig, config, changes), data, out, (), (), request
    )
    torch.set_num_threads(threads)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensors(run: Path) -> dict[str, bytes]:
    folder = run / "state" / "step_0000006"
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize(
    "changes",
    [
        ("estimator=diveq", "learning=gradient"),
        ("estimator=gumbel_softmax",),
        ("estimator=index_backpropagation", "learning=gradient"),
        ("estimator=exact_gradient",),
        ("estimator=rotation", "rms_scaling=with_gradient", "tangential_commitment=true"),
    ],
)
def test_a_stop_in_the_middle_changes_no_bit(clip_store, tmp_path, changes):
    changes = [f"model.quantizer.{change}" for change in changes]
    changes += ["optim.accumulation=2", "run.log_every=1"]
    lines = train(clip_store, tmp_path / "whole", *changes)
    assert all(line["optim/skipped_steps"] == 0 for line in lines if "optim/lr" in line)
    train(clip_store, tmp_path / "parts", *changes, request=AfterStep(3))
    train(clip_store, tmp_path / "parts", *changes)
    assert tensors(tmp_path / "whole") == tensors(tmp_path / "parts")
    other = train(clip_store, tmp_path / "other", "run.log_every=6", *changes[:-1])
    assert tensors(tmp_path / "whole") == tensors(tmp_path / "other")  # logging draws nothing
    assert len(other) < len(lines)


def test_a_model_that_never_quantizes_is_scored_and_gives_no_tokens(clip_store, tmp_path):
    lines = train(clip_store, tmp_path / "run", "model.quantizer.estimator=none")
    assert any("validation/psnr" in line for line in lines)
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "run")
    video = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    torch.testing.assert_close(tokenizer.reconstruct(video), tokenizer(video).video.clamp(-1, 1))
    with pytest.raises(InputError, match="was trained on latents"):
        tokenizer.decode(tokenizer.encode(video))
    job = EncodeJob(clip_store, tmp_path / "run", tmp_path / "tokens")
    with pytest.raises(InputError, match="tokens would have no meaning"):
        encode_clips(Accelerator(cpu=True), job)
