"""Tests that measuring gradients adds logged values and changes no bit of a run."""

import json
from pathlib import Path

import pytest
import torch
from runs import SMALL_TOKENIZER

from video_vq.config import load_config
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

ADVERSARIAL = (
    "loss.adversarial.weight=0.1",
    "loss.adversarial.channels=8",
    "loss.adversarial.levels=2",
    "loss.adversarial.start=2",
)


def train(data: Path, out: Path, *changes: str) -> list[dict]:
    (config := out.with_suffix(".yaml")).write_text(SMALL_TOKENIZER)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_tokenizer(load_config(TokenizerTrainingConfig, config, changes), data, out)
    torch.set_num_threads(threads)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensors(run: Path) -> dict[str, bytes]:
    folder = run / "state" / "step_0000006"
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_measuring_gradients_changes_no_bit_of_a_run(clip_store, tmp_path, accumulation):
    changes = (*ADVERSARIAL, f"optim.accumulation={accumulation}")
    plain = train(clip_store, tmp_path / "plain", *changes)
    measured = train(clip_store, tmp_path / "measured", *changes, "run.measure_gradients=true")
    assert tensors(tmp_path / "plain") == tensors(tmp_path / "measured")
    assert len(tensors(tmp_path / "plain")) >= 5
    for line, more in zip(plain, measured, strict=True):
        added = {name for name in more.keys() - line.keys() if not name.startswith("time/")}
        if "quantizer/angle_p50" not in line:
            assert not added
            continue
        assert all(name.startswith(("quantizer/exact_", "quantizer/best_")) for name in added)
        cosines = [more[f"quantizer/exact_cosine_{name}"] for name in ("rotation", "hessian")]
        assert all(-1 <= cosine <= 1 for cosine in cosines)
        kept = {name for name in line if not name.startswith(("time/", "clock"))}
        assert {name: line[name] for name in kept} == {name: more[name] for name in kept}
