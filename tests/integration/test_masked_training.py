"""Tests that all commands work with a masked prior as with any other prior."""

import json
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from runs import SMALL_PRIOR

from video_vq.cli import main
from video_vq.evaluation.likelihood import score_prior
from video_vq.models.masked_prior import MaskedPrior
from video_vq.models.priors import load_prior
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter
from video_vq.stores.videos import Video


def write_tokens(path: Path) -> TokenStore:
    """Write grids of two latent frames; the four tokens of a grid are equal, one of eight codes."""
    header = TokenHeader("0" * 64, 8, (2, 1, 2), 2, (16, 16), 5.0, ("a", "b"), None, {})
    codes = np.random.default_rng(0).integers(0, 8, (48, 1, 1, 1))
    writer = TokenStoreWriter(path, header)
    rows = np.stack([np.arange(48), *np.zeros((2, 48), int)], axis=1)
    writer.write_shard(0, np.broadcast_to(codes, (48, 2, 1, 2)).copy(), rows)
    split = ("train", "val")
    return writer.finish(
        1, [Video(f"{n}", "ab"[n % 2], split[n % 6 == 0], f"{n}") for n in range(48)]
    )


def run(*words, expect: int = 0) -> None:
    assert main([str(word) for word in words]) == expect


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    write_tokens(folder / "tokens")
    (folder / "p.yaml").write_text(SMALL_PRIOR)
    return folder


def train(folder: Path, out: str, *more) -> Path:
    run(
        *("train-prior", "--config", folder / "p.yaml", "--tokens", folder / "tokens"),
        *("--out", folder / out, "--tracker", "none", "model.kind=masked", *more),
    )
    return folder / out


def test_a_masked_prior_is_trained_described_and_scored(folder, capsys):
    out = train(folder, "p", "run.validation_clips=8")
    prior, tokens = load_prior(out), TokenStore(folder / "tokens")
    assert isinstance(prior, MaskedPrior)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/bits_per_hidden_token" in line for line in lines)
    last = [line for line in lines if "validation/bits_per_hidden_token" in line][-1]
    assert not any("bits_per_token" in key for line in lines for key in line)
    capsys.readouterr()
    run("info", out / "prior")
    assert "masked" in capsys.readouterr().out
    scores = score_prior(Accelerator(), prior, tokens, "val")
    assert set(scores) == {"split", "num_grids", "bits_per_hidden_token", "clips"}
    assert scores["bits_per_hidden_token"] == pytest.approx(
        last["validation/bits_per_hidden_token"], rel=1e-5
    )
    assert len(scores["clips"]) == scores["num_grids"] == 8


def test_what_is_hidden_does_not_depend_on_how_the_batch_is_cut(folder):
    """The same steps in two micro-batches give the same losses up to rounding."""
    same = ("model.dropout=0", "model.condition_dropout=0", "run.log_every=1")
    whole = train(folder, "whole", *same)
    halves = train(folder, "halves", *same, "optim.accumulation=2")
    losses = [
        [
            line["loss/bits_per_hidden_token"]
            for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
            if "loss/bits_per_hidden_token" in line
        ]
        for out in (whole, halves)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(set(losses[0])) > 1


def test_a_dry_run_says_what_a_masked_prior_will_cost(folder, capsys):
    run(
        *("train-prior", "--config", folder / "p.yaml", "--tokens", folder / "tokens"),
        *("--out", folder / "none", "--dry-run", "model.kind=masked"),
    )
    assert "masked" in (told := capsys.readouterr().out)
    assert "memory" in told
    assert not (folder / "none").exists()
