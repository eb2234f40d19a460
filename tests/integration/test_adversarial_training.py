"""Tests of training with a discriminator: two ranks, stopping and resuming, fine-tuning."""

import json
import math
import os
import re
from pathlib import Path

import observed
import pytest
import torch
from runs import SMALL_TOKENIZER, AfterStep, make_clip_store
from safetensors.torch import load_file

from video_vq.config import load_config
from video_vq.errors import InputError
from video_vq.metrics.perceptual import StLpips
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.training import losses
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

ADVERSARIAL = (
    "loss.adversarial.weight=0.1",
    "loss.adversarial.channels=8",
    "loss.adversarial.levels=2",
)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tokenizer.yaml"
    path.write_text(SMALL_TOKENIZER)
    return path


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(config_file: Path, data: Path, out: Path, *changes: str, stop_after: int | None = None):
    config = load_config(TokenizerTrainingConfig, config_file, changes)
    request = None if stop_after is None else AfterStep(stop_after)
    return train_tokenizer(config, data, out, request=request)


def checkpoint(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "state" / f"step_{step:07d}"
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def test_two_ranks_train_against_one_discriminator(config_file, clip_store, tmp_path, preloaded):
    settings = (
        *ADVERSARIAL,
        "loss.adversarial.start=17",
        "loss.adversarial.warmup_steps=20",
        "optim.steps=50",
        "optim.accumulation=2",
        "run.log_every=10",
        "run.validate_every=50",
        "run.checkpoint_every=50",
    )
    preloaded.ranks(
        *(2, observed.__file__),
        *("train-tokenizer", "--config", config_file, "--data", clip_store),
        *("--out", tmp_path / "two", *settings),
    )
    ranks = [lines(tmp_path / "two" / f"observed-rank{rank}.jsonl") for rank in range(2)]
    assert [len(rank) for rank in ranks] == [50, 50]
    hashes = [name for name in ranks[0][0] if name.endswith("_sha256")]
    assert set(hashes) == {
        "codebook_sha256",
        "model_sha256",
        "discriminator_sha256",
        "discriminator_optimizer_sha256",
    }
    for first, second in zip(*ranks, strict=True):
        assert [first[name] for name in hashes] == [second[name] for name in hashes]
    assert sum(one["videos"] != other["videos"] for one, other in zip(*ranks, strict=True)) > 25
    assert len({line["model_sha256"] for line in ranks[0]}) == 50
    # Before its start the discriminator stands still; from then on it moves at each step.
    assert len({line["discriminator_sha256"] for line in ranks[0]}) == 1 + 33

    logged = [line for line in lines(tmp_path / "two" / "metrics.jsonl") if "optim/lr" in line]
    assert all(math.isfinite(value) for line in logged for value in line.values())
    assert logged[-1]["optim/skipped_steps"] == 0
    played = [line for line in logged if "discriminator/accuracy" in line]
    assert [line["step"] for line in played] == list(range(20, 51, 10))
    assert all(0 <= line["discriminator/accuracy"] <= 1 for line in played)
    assert all("loss/adversarial" in line for line in played)
    weights = [line["weight/adversarial"] for line in played]
    assert weights == pytest.approx([0.1 * min(1, (step - 17) / 20) for step in range(20, 51, 10)])
    VideoTokenizer.from_pretrained(tmp_path / "two")

    # One rank sees the same global batches: the same figures until rounding has grown.
    train(config_file, clip_store, tmp_path / "one", *settings, "optim.steps=50", stop_after=30)
    alone = [line for line in lines(tmp_path / "one" / "metrics.jsonl") if "optim/lr" in line]
    assert [line["step"] for line in alone] == [10, 20, 30]
    for mine, theirs in zip(alone, logged, strict=False):
        names = [name for name in mine if name.startswith(("loss/", "discriminator/"))]
        assert {name: mine[name] for name in names} == pytest.approx(
            {name: theirs[name] for name in names}, rel=1e-2, abs=1e-3
        )


TIMESFORMER = (
    "{kind: timesformer, size_thw: [4, 24, 24], patch_thw: [1, 6, 6], width: 16, depth: 2, "
    "heads: 2, mlp_width: 32}"
)


def test_all_losses_at_once_move_every_tensor_and_position_of_a_timesformer(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = StLpips("alex").requires_grad_(False)  # trained weights are a download
    for weight in network.parameters():
        torch.nn.init.uniform_(weight, 0, 0.05)
    monkeypatch.setattr(losses, "load_perceptual", lambda *_: network)
    store = make_clip_store(tmp_path / "clips", size=24)
    path = tmp_path / "config.yaml"
    path.write_text(re.sub(r"backbone: \{[^}]*\}", f"backbone: {TIMESFORMER}", SMALL_TOKENIZER))
    changes = (
        *(*ADVERSARIAL, "loss.adversarial.start=1", "loss.adversarial.warmup_steps=0"),
        *("loss.reconstruction=l1", "loss.reconstruction_weight=data"),
        *("loss.perceptual.weight=0.5", "run.log_every=1", "run.checkpoint_every=1"),
        *("optim.steps=4", "optim.weight_decay=0", "run.validate_every=4"),
    )
    train(path, store.path, tmp_path / "run", *changes)
    logged = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if "optim/lr" in line]
    names = {"reconstruction", "commitment", "codebook", "perceptual", "adversarial"}
    assert {name for name in logged[-1] if name.startswith("loss/")} == {
        f"loss/{name}" for name in names
    }
    assert all(math.isfinite(value) for line in logged for value in line.values())
    assert all(line["loss/perceptual"] > 0 for line in logged)
    assert logged[-1]["optim/skipped_steps"] == 0
    first, last = (
        load_file(tmp_path / "run" / "state" / f"step_{step:07d}" / "model.safetensors")
        for step in (3, 4)
    )
    still = [name for name in first if torch.equal(first[name], last[name])]
    assert not [name for name in still if not name.startswith("quantizer.codebook")]
    tables = [name for name in first if "position" in name]
    assert tables
    for name in tables:
        assert bool((first[name] != last[name]).any(dim=-1).all()), name


def test_a_stop_between_two_adversarial_steps_changes_nothing(config_file, clip_store, tmp_path):
    changes = (*ADVERSARIAL, "loss.adversarial.start=1", "loss.adversarial.warmup_steps=3")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_file, clip_store, whole, *changes)
    assert train(config_file, clip_store, parts, *changes, stop_after=3) is None
    train(config_file, clip_store, parts, *changes)
    expected = checkpoint(whole, 6)
    assert {"discriminator.safetensors", "discriminator_optimizer.safetensors"} <= set(expected)
    assert checkpoint(parts, 6) == expected
    with pytest.raises(InputError, match=r"config\.loss\.adversarial\.weight: 0\.1 -> 0\.0"):
        train(config_file, clip_store, whole, *changes, "loss.adversarial.weight=0.0")
    # The exported model is the averaged one, and holds nothing of the discriminator.
    exported = VideoTokenizer.from_pretrained(whole).state_dict()
    averages = expected["averages.safetensors"]
    assert torch.equal(
        torch.cat([value.flatten().double() for _, value in sorted(exported.items())]),
        torch.cat([value.flatten().double() for _, value in sorted(load(averages).items())]),
    )


def load(data: bytes) -> dict[str, torch.Tensor]:
    import safetensors.torch

    return safetensors.torch.load(data)


def test_a_run_without_a_discriminator_cannot_go_on_with_one(config_file, clip_store, tmp_path):
    train(config_file, clip_store, tmp_path / "run", stop_after=3)
    config = load_config(TokenizerTrainingConfig, config_file, ADVERSARIAL)
    with pytest.raises(
        InputError, match="only a new run, with init_from, can add or drop a discriminator"
    ):
        train_tokenizer(config, clip_store, tmp_path / "run", allowed_changes=["config.loss"])


def test_fine_tuning_begins_with_the_averaged_weights_and_codes_of_another_run(
    config_file, clip_store, tmp_path, capfd
):
    train(config_file, clip_store, tmp_path / "first")
    source = VideoTokenizer.from_pretrained(tmp_path / "first")
    changes = (
        f"init_from={tmp_path / 'first'}",
        *ADVERSARIAL,
        "loss.adversarial.start=0",
        "model.quantizer.estimator=straight_through",
        "optim.lr=1e-12",
        "optim.weight_decay=0.0",
        "model.quantizer.learning=frozen",
    )
    capfd.readouterr()
    train(config_file, clip_store, tmp_path / "second", *changes, stop_after=3)
    said = capfd.readouterr().out
    assert f"starting from {tmp_path / 'first'}, hash {source.hash}" in said
    assert "quantizer.estimator: 'rotation' -> 'straight_through'" in said
    os.rename(tmp_path / "first", tmp_path / "gone")  # a run that goes on needs it no more
    train(config_file, clip_store, tmp_path / "second", *changes)
    tuned = VideoTokenizer.from_pretrained(tmp_path / "second").state_dict()
    for name, value in source.state_dict().items():
        if name.endswith(("num_updates", "average_count", "average_sum")):
            continue
        torch.testing.assert_close(tuned[name], value, rtol=0, atol=1e-9)


def test_what_cannot_be_fine_tuned_is_refused_before_anything_is_written(
    config_file, clip_store, tmp_path
):
    train(config_file, clip_store, tmp_path / "first")
    out = tmp_path / "second"
    for changes, message in (
        ([f"init_from={tmp_path / 'first'}", "model.backbone.channels=16"], "does not fit"),
        ([f"init_from={tmp_path / 'nowhere'}"], "nowhere"),
        ([*ADVERSARIAL, "loss.adversarial.levels=5"], "at least 32 x 32 pixels, found 16 x 16"),
        (["loss.perceptual.weight=0.1"], "at least 18 x 18 pixels, found 16 x 16"),
    ):
        with pytest.raises(InputError, match=message):
            train(config_file, clip_store, out, *changes)
        assert not out.exists()
