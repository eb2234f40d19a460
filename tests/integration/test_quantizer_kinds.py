"""Tests of every kind of quantizer from training to the report."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import SMALL_PRIOR, SMALL_TOKENIZER, AfterStep, make_clip_store
from survival import final_state, kill_after, log_without_times
from test_evaluation import quick_network

from video_vq.cli import main
from video_vq.config import load_config
from video_vq.evaluation import evaluation_setup
from video_vq.inspect.describe import describe
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

KINDS = {
    "bsq": ("{kind: binary, num_bits: 16}", (1 << 16,), "256 x 256"),
    "lfq": ("{kind: binary, num_bits: 4, spherical: false, groups: 2}", (16, 16), "16 x 16"),
    "ifsq": ("{kind: finite, levels: [5, 4], activation: sigmoid}", (20,), None),
    "finite_groups": ("{kind: finite, levels: [3, 3], groups: 3}", (9, 9, 9), "9 x 9 x 9"),
    "residual": (
        "{kind: residual, codebook_sizes: [16, 8], codebook_dim: 8, dropout: true}",
        (16, 8),
        "16 x 8",
    ),
    "grouped": (
        "{kind: residual, codebook_sizes: [8, 8], groups: 2, codebook_dim: 4, shared: true}",
        (8,) * 4,
        "8 x 8 x 8 x 8",
    ),
    "ibq": (
        "{codebook_size: 32, codebook_dim: 8, learning: gradient,"
        " estimator: index_backpropagation}",
        (32,),
        None,
    ),
    "diveq": ("{codebook_size: 32, codebook_dim: 8, estimator: diveq}", (32,), None),
}
TOKENIZER = SMALL_TOKENIZER.replace("num_frames: 4", "num_frames: 16")
PLAIN = "{codebook_size: 32, codebook_dim: 8}"


def run(*arguments: object) -> None:
    assert main([str(part) for part in arguments]) == 0


def settings(folder: Path, quantizer: str, text: str = TOKENIZER) -> Path:
    assert PLAIN in text
    (path := folder / "tokenizer.yaml").write_text(text.replace(PLAIN, quantizer))
    (folder / "prior.yaml").write_text(
        SMALL_PRIOR.replace("{width: 32,", "{sub_code_size: 1000, width: 32,")
    )
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "clips"
    make_clip_store(path, num_videos=12, num_frames=16)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantizer_goes_the_whole_way(kind, clips, tmp_path, monkeypatch, capsys):
    quantizer, vocabulary, sub_codes = KINDS[kind]
    several = () if len(vocabulary) == 1 else (len(vocabulary),)
    monkeypatch.setattr(evaluation_setup, "load_feature_network", lambda *_: quick_network())
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    config = settings(tmp_path, quantizer)
    run(
        *("train-tokenizer", "--config", config, "--data", clips, "--out", tmp_path / "t"),
        *("--tracker", "none", "optim.steps=3", "run.log_every=1"),
    )
    lines = [json.loads(line) for line in (tmp_path / "t/metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss/reconstruction" in line][-1]
    assert ("loss/entropy" in logged) == (kind in ("bsq", "lfq"))
    assert ("codebook/level_1/perplexity" in logged) == bool(several)

    run("encode", clips, "--tokenizer", tmp_path / "t", "--out", tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    assert store.header.vocabulary == vocabulary
    tokens = store.read_rows(store.rows(None))
    assert tokens.shape == (12, 8, 4, 4, *several)
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "t")
    video = torch.from_numpy(ClipStore(clips).read(0, 0, 16)[None])
    assert np.array_equal(tokenizer.encode(video)[0].numpy(), store.read(0))

    run(
        *("train-prior", "--config", tmp_path / "prior.yaml", "--tokens", store.path),
        *("--out", tmp_path / "p", "--tracker", "none", "optim.steps=3", "run.log_every=1"),
    )
    prior = Prior.from_pretrained(tmp_path / "p")
    assert (prior.config.vocabulary, math.prod(prior.config.sub_code_sizes)) == (
        vocabulary,
        math.prod(vocabulary),
    )
    facts = describe(tmp_path / "p" / "prior").to_json()
    assert facts.get("sub-codes") == sub_codes
    run(
        *("sample", "--prior", tmp_path / "p", "--tokenizer", tmp_path / "t"),
        *("--out", tmp_path / "samples", "--num", "4"),
    )
    run("decode", store.path, "--tokenizer", tmp_path / "t", "--out", tmp_path / "decoded")
    run(
        *("evaluate", "--data", clips, "--tokenizer", tmp_path / "t", "--out", tmp_path / "scores"),
        *("--samples", tmp_path / "samples", "--tokens", store.path, "--prior", tmp_path / "p"),
        *("--num", "4"),
    )
    scores: Any = json.loads((tmp_path / "scores/scores.json").read_text())
    assert scores["reconstruction"]["bits_per_clip"] == pytest.approx(
        128 * sum(math.log2(size) for size in vocabulary)
    )
    assert len(scores["reconstruction"]["codebook"]["levels"]) == sum(several)
    # After three steps a prior has hardly left the uniform guess that it starts from.
    assert scores["prior"]["bits_per_token"] == pytest.approx(
        sum(math.log2(size) for size in vocabulary), rel=0.1
    )
    assert scores["prior"]["bits_per_clip"] == pytest.approx(
        128 * scores["prior"]["bits_per_token"]
    )
    run("report", tmp_path, "--out", tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size > 10_000
    assert "level" not in capsys.readouterr().err


def train_in_process(config: Path, data: Path, out: Path, stop: int, *settings: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = load_config(TokenizerTrainingConfig, config, settings)
    train_tokenizer(loaded, data, out, request=AfterStep(stop))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_a_stop_nor_a_kill_changes_a_bit(kind, clip_store, tmp_path):
    config = settings(tmp_path, KINDS[kind][0], SMALL_TOKENIZER)
    steps = ("optim.steps=40", "run.checkpoint_every=5", "run.validate_every=40")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_in_process(config, clip_store, whole, 100, *steps)
    train_in_process(config, clip_store, run, 3, *steps)
    last = kill_after(12, run, lambda: train_in_process(config, clip_store, run, 100, *steps))
    assert 12 <= last < 40
    assert not (run / "tokenizer").exists()
    train_in_process(config, clip_store, run, 100, *steps)
    assert final_state(run, 40) == final_state(whole, 40)
    assert log_without_times(run) == log_without_times(whole)


def test_models_and_tokens_of_other_levels_are_refused(clips, tmp_path):
    from trained import trained_prior, trained_tokenizer

    from video_vq.errors import InputError
    from video_vq.evaluation.evaluate import require_tokens_of
    from video_vq.stages.model_pair import require_same_grid
    from video_vq.stores.tokens import TokenHeader, TokenStoreWriter
    from video_vq.stores.videos import Video

    store = ClipStore(clips)
    shape = (2, 4, 4)
    header = TokenHeader(
        "0" * 64,
        32,
        shape,
        4,
        (16, 16),
        None,
        ("left", "right"),
        store.content_hash,
        {},
        levels=(8, 4),
    )
    writer = TokenStoreWriter(tmp_path / "tokens", header)
    rows = np.zeros((1, 3), np.int64)
    writer.write_shard(0, np.zeros((1, *shape, 2), np.int64), rows)
    tokens = writer.finish(1, [Video("v", None, "test", "g")])
    prior = trained_prior()
    with pytest.raises(InputError, match=r"models codes of \(32,\) values per position.*\(8, 4\)"):
        require_tokens_of(store, tokens, prior)
    tokenizer = trained_tokenizer()
    tokenizer.config = load_config(
        TokenizerTrainingConfig, settings(tmp_path, KINDS["residual"][0], SMALL_TOKENIZER)
    ).model
    with pytest.raises(InputError, match=r"values per position, the tokenizer's have \(16, 8\)"):
        require_same_grid(prior, tokenizer, tmp_path)
