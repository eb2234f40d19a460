"""Tests of sampling on two ranks that is killed and resumed: equal samples, none lost."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import launcher, video_vq
from survival import Run, wait_for
from trained import trained_prior, trained_tokenizer

from video_vq.cli import main
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import damage

BATCH = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Return a folder with a tokenizer and a matching prior."""
    folder = tmp_path_factory.mktemp("models")
    trained_tokenizer().save_pretrained(folder / "t")
    prior = trained_prior()
    tokenizer_hash = VideoTokenizer.from_pretrained(folder / "t").hash
    prior.facts = replace(prior.facts, tokenizer_hash=tokenizer_hash)
    prior.save_pretrained(folder / "p")
    return folder


def command(models: Path, out: Path, num: int) -> list:
    return [
        *("sample", "--prior", models / "p", "--tokenizer", models / "t", "--out", out),
        *("--num", str(num), "--batch-size", str(BATCH), "--top-p", "0.9"),
    ]


def committed(out: Path) -> int:
    return len(list((out / "parts").glob("shard-*.json")))


def check_that_kills_change_nothing(models: Path, folder: Path, num: int, kills: int) -> None:
    num_shards = -(-num // BATCH)
    out = folder / "killed"
    chance = random.Random(0)
    moments = sorted(chance.sample(range(1, num_shards - 4), kills))
    started_at = []
    for moment in moments:
        with Run(folder, [*launcher(2), "-m", "video_vq", *command(models, out, num)], {}) as run:
            wait_for(
                lambda moment=moment, run=run: (
                    committed(out) >= moment or run.leader.poll() is not None
                ),
                f"{moment} shards",
            )
            assert run.leader.poll() is None, run.text("stderr")
            run.kill()
        assert not (out / "manifest.json").exists()
        started_at.append(committed(out))
    assert len(started_at) == kills
    with Run(folder, [*launcher(2), "-m", "video_vq", *command(models, out, num)], {}) as run:
        assert run.leader.wait(600) == 0, run.text("stderr")
    video_vq(*command(models, folder / "whole", num))
    manifests = [
        json.loads((folder / name / "manifest.json").read_text()) for name in ("killed", "whole")
    ]
    assert manifests[0] == manifests[1]
    store = ClipStore(out)
    assert [video.id for video in store.videos] == [f"sample-{n:06d}" for n in range(num)]
    assert [(video.origin or {})["seed"] for video in store.videos] == list(range(num))
    assert all(damage(out / name, sha256) is None for name, sha256 in store.files().items())
    assert len(list((out / "videos").glob("*.mp4"))) == num
    clips = np.stack([store.read(number) for number in range(num)])
    assert len(np.unique(clips.reshape(num, -1), axis=0)) > num // 2  # seeds differ
    print(f"{num} samples on two ranks, killed at {started_at} of {num_shards} shards")


def test_samples_killed_and_resumed_on_two_ranks_are_those_of_one_whole_run(models, tmp_path):
    check_that_kills_change_nothing(models, tmp_path, num=30, kills=1)


@pytest.mark.slow
def test_512_samples_killed_again_and_again_on_two_ranks_lose_and_double_nothing(models, tmp_path):
    check_that_kills_change_nothing(models, tmp_path, num=512, kills=4)


def sample(*arguments, expect: int) -> None:
    assert main([str(argument) for argument in arguments]) == expect


def test_samples_of_other_settings_or_threads_are_not_mixed_in(models, tmp_path, capsys):
    sample(*command(models, tmp_path / "out", 4), expect=0)
    for more, told in (
        (["--seed", "1"], "seed: 0 -> 1"),
        (["--dtype", "bfloat16"], "dtype: 'float32' -> 'bfloat16'"),
        (["--guidance", "2"], "settings.guidance: 1.0 -> 2.0"),
    ):
        sample(*command(models, tmp_path / "out", 4), *more, expect=1)
        said = capsys.readouterr().err
        assert "was made with other settings (was -> now)" in said
        assert told in said
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    sample(*command(models, tmp_path / "out", 4), expect=1)
    torch.set_num_threads(threads)
    assert f"threads: {threads} -> {threads + 1}" in capsys.readouterr().err


def test_a_prior_of_other_grids_or_another_tokenizer_is_refused(models, tmp_path, capsys):
    odd = trained_prior()
    grid = Prior(replace(odd.config, grid_thw=(1, 4, 4)))
    tokenizer_hash = VideoTokenizer.from_pretrained(models / "t").hash
    grid.facts = replace(odd.facts, tokenizer_hash=tokenizer_hash)
    grid.save_pretrained(tmp_path / "grid")
    odd.save_pretrained(tmp_path / "other")
    common = ["--tokenizer", models / "t", "--out", tmp_path / "out"]
    for prior, more, told in (
        (
            tmp_path / "grid",
            [],
            "models tokens of t h w = (1, 4, 4), the tokenizer makes (2, 4, 4)",
        ),
        (tmp_path / "other", [], "belongs to the tokenizer 000000000000…, this one is"),
        (models / "p", ["--class", "up"], "--class 'up': is not one of the prior's 2 classes"),
    ):
        sample("sample", "--prior", prior, *common, *more, expect=1)
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
