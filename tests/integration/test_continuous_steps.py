"""Tests of training that begins without quantization: its first steps, logs and stops."""

import json
from pathlib import Path

import pytest
import torch
from runs import SMALL_TOKENIZER, AfterStep

from video_vq.config import load_config
from video_vq.errors import ConfigError
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.quantizers.codebook import Codebook
from video_vq.training.averaging import Averages
from video_vq.training.tokenizer import CODEBOOK, train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

LATE = ("continuous_steps=3", "run.log_every=1", "run.validate_every=1", "run.checkpoint_every=1")


def train(data: Path, out: Path, *changes: str, request=None) -> list[dict]:
    (config := out.with_suffix(".yaml")).write_text(SMALL_TOKENIZER)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = load_config(TokenizerTrainingConfig, config, [*LATE, *changes])
    train_tokenizer(settings, data, out, request=request)
    torch.set_num_threads(threads)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensors(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "state" / f"step_{step:07d}"
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def late(clip_store, tmp_path_factory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp("late") / "run"
    return out, train(clip_store, out)


def test_the_first_steps_weigh_no_loss_of_the_quantizer_and_say_what_they_score(late):
    run, lines = late
    steps = {line["step"]: line for line in lines if "loss/reconstruction" in line}
    scores = {line["step"]: line for line in lines if "validation/psnr" in line}
    assert list(steps) == list(scores) == [1, 2, 3, 4, 5, 6]
    for step in steps:
        continuous = step <= 3
        assert steps[step]["weight/commitment"] == (0.0 if continuous else 0.25)
        assert (steps[step]["quantizer/radial_commitment"] == 0) == continuous
        assert ("validation/is_continuous" in scores[step]) == continuous
        assert steps[step]["codebook/usage"] > 0
    state = json.loads((run / "state" / "step_0000006" / "state.json").read_text())
    assert state["best"][1] > 3  # no score of the continuous model is the best


def test_latents_go_to_the_decoder_in_the_first_steps_alone(clip_store, tmp_path, monkeypatch):
    seen: list[tuple[bool, bool, bool]] = []
    real = VideoTokenizer.forward

    def forward(self, video, continuous=False):
        output = real(self, video, continuous)
        rows = output.quantized.rows
        seen.append((self.training, continuous, torch.equal(rows.passed, rows.compared)))
        return output

    monkeypatch.setattr(VideoTokenizer, "forward", forward)
    train(clip_store, tmp_path / "run")
    assert [flag for training, flag, _ in seen if training] == [True] * 3 + [False] * 3
    assert all(flag == latents for _, flag, latents in seen)
    assert any(flag and not training for training, flag, _ in seen)


def test_the_codes_are_drawn_anew_from_the_first_quantized_step_in_the_averages_too(
    clip_store, tmp_path, monkeypatch
):
    drawn: list[int] = []
    real_initialize, real_update = Codebook.initialize, Averages.update

    def initialize(self, latents, seed):
        real_initialize(self, latents, seed)
        rows = torch.cat(latents)
        assert all(float((rows - code).abs().sum(1).min()) == 0 for code in self.codes)
        drawn.append(int(self.num_updates))

    def update(self, model, copied_rows=None):
        real_update(self, model, copied_rows)
        if int(model.quantizer.codebook.num_updates) == 4:
            assert torch.equal(self.tensors[CODEBOOK + "codes"], model.quantizer.codebook.codes)

    monkeypatch.setattr(Codebook, "initialize", initialize)
    monkeypatch.setattr(Averages, "update", update)
    train(clip_store, tmp_path / "run")
    assert drawn == [0, 3]


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_stop_in_or_after_the_continuous_steps_changes_no_bit(late, clip_store, tmp_path, step):
    run, _ = late
    train(clip_store, tmp_path / "run", request=AfterStep(step))
    train(clip_store, tmp_path / "run")
    assert tensors(tmp_path / "run", 6) == tensors(run, 6)


def test_a_run_that_would_never_quantize_is_refused(tmp_path):
    (config := tmp_path / "config.yaml").write_text(SMALL_TOKENIZER)
    with pytest.raises(ConfigError, match=r"leaves none of optim\.steps = 6 to quantize in"):
        load_config(TokenizerTrainingConfig, config, ["continuous_steps=6"])
