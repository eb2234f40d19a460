"""Tests of frame rates: warnings about repeated frames, and the rates of samples."""

from pathlib import Path

import numpy as np
import pytest
from runs import SMALL_PRIOR, make_clip_store
from trained import trained_tokenizer

import data_prep.cli
from video_vq.cli import main
from video_vq.media.encode import write_video
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore


def rates_of(store: Path) -> list[float | None]:
    return [video.fps for video in ClipStore(store).videos]


@pytest.mark.parametrize("rates", [(24.0, 25.0, 24.0), (25.0,)])
def test_samples_have_the_commonest_rate_and_decoded_clips_their_own(tmp_path, rates):
    store = make_clip_store(tmp_path / "clips", 9, 4, rates)
    trained_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "prior.yaml").write_text(SMALL_PRIOR)
    tokenizer = ["--tokenizer", str(tmp_path / "tokenizer")]
    tokens, prior, samples, decoded = (
        str(tmp_path / name) for name in ("tokens", "prior", "samples", "decoded")
    )
    assert main(["encode", str(store.path), *tokenizer, "--out", tokens]) == 0
    assert TokenStore(tokens).header.fps == rates[0]
    train = ["train-prior", "--config", str(tmp_path / "prior.yaml"), "--tokens", tokens]
    assert main([*train, "--out", prior, "--tracker", "none", "optim.steps=1"]) == 0
    assert main(["sample", "--prior", prior, *tokenizer, "--out", samples, "--num", "2"]) == 0
    assert rates_of(tmp_path / "samples") == [rates[0]] * 2
    assert main(["decode", tokens, *tokenizer, "--out", decoded]) == 0
    by_video = {video.id: video.fps for video in store.videos}
    found = {(v.origin or {})["video"]: v.fps for v in ClipStore(decoded).videos}
    assert found == by_video


RATES = {"0.avi": 10, "1.avi": 25, "2.avi": 30, "3.avi": 10}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("rates") / "raw"
    root.mkdir()
    for number, (name, fps) in enumerate(RATES.items()):
        rng = np.random.default_rng(number)
        write_video(root / name, rng.integers(0, 256, (20, 16, 16, 3), np.uint8), fps)
    return root


def prepare(raw: Path, out: Path, fps: str) -> ClipStore:
    options = ("--size", "16", "--workers", "1", "--fps", fps)
    assert data_prep.cli.main(["folder", str(raw), "--out", str(out), *options]) == 0
    return ClipStore(out)


def test_a_rate_above_that_of_a_video_is_warned_of_with_the_share_of_repeated_frames(
    raw, tmp_path, capsys
):
    store = prepare(raw, tmp_path / "fast", "25")
    shown = capsys.readouterr().out
    found = {video.id: (video.origin or {})["repeated"] for video in store.videos}
    for index, video in enumerate(store.videos):
        frames = store.read(index)
        same = sum(map(np.array_equal, frames[1:], frames[:-1]))
        assert found[video.id] == same == (30 if RATES[video.id] == 10 else 0)
    total, frames = sum(found.values()), sum(video.num_frames for video in store.videos)
    assert f"warning: {total:,} of the {frames:,} frames ({total / frames:.1%}) repeat" in shown
    assert "in 2 of the 4 videos: these have fewer than 25 frames a second" in shown
    assert data_prep.cli.main(["stats", str(store.path)]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("repeats"))
    for split in {video.split for video in store.videos}:
        videos = [video for video in store.videos if video.split == split]
        share = sum(found[v.id] for v in videos) / sum(v.num_frames for v in videos)
        assert (f"{share:.1%} of {split}" in line) == (share > 0)


def test_a_rate_that_all_videos_reach_repeats_nothing_and_warns_of_nothing(raw, tmp_path, capsys):
    store = prepare(raw, tmp_path / "slow", "10")
    assert {(video.origin or {})["repeated"] for video in store.videos} == {0}
    assert "repeat the one before" not in capsys.readouterr().out
    assert data_prep.cli.main(["stats", str(store.path)]) == 0
    assert "\nrepeats " not in capsys.readouterr().out


def test_tokens_of_a_folder_note_what_a_fixed_rate_repeats(raw, tmp_path, capsys):
    trained_tokenizer().save_pretrained(tmp_path / "t")
    options = ("--tokenizer", str(tmp_path / "t"), "--out", str(tmp_path / "tokens"))
    assert main(["encode", str(raw), *options, "--fps", "25", "--workers", "1"]) == 0
    assert "2 videos have oddities, see the notes" in capsys.readouterr().out
    note = "30 of 50 frames (60.0%) repeat the one before, to reach 25 frames per second"
    notes = TokenStore(tmp_path / "tokens").notes
    assert notes == ({"id": "0.avi", "note": note}, {"id": "3.avi", "note": note})
