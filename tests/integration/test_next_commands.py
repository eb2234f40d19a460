"""Tests that the commands printed after `next:` work."""

import shlex
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL_PRIOR, SMALL_TOKENIZER, make_clip_store
from torch import nn
from trained import scores_of, trained_prior, trained_tokenizer

import data_prep.cli
import video_vq.cli
from video_vq.cli import following
from video_vq.media.encode import write_video
from video_vq.stores.places import beside, unused

COMMANDS = {"video-vq": video_vq.cli, "data-prep": data_prep.cli}
REPOSITORY = Path(__file__).parents[2]
ONE_STEP = ("optim.steps=1", "optim.warmup_steps=0", "--tracker", "none")


def mean_network() -> nn.Module:
    """Return a feature network for `fvd --network`: the mean color of each quarter of the frame."""
    return nn.Sequential(nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten())


def printed(capsys) -> list[str]:
    """Return the words of the only printed `next:` command, after checking that they parse."""
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    parsed = COMMANDS[words[0]].make_parser().parse_args(words[1:])
    for name in ("out", "sheet"):
        target = getattr(parsed, name, None)
        is_report = words[1] == "report"
        assert target is None or is_report or not target.exists(), f"{target} is there already"
    return words


def run(*words: object) -> None:
    command, *rest = map(str, words)
    assert COMMANDS[command].main(rest) == 0


@pytest.fixture
def root(tmp_path) -> Path:
    """Return a folder that contains a clip store and configs and has a space in its name."""
    root = tmp_path / "my runs"
    root.mkdir()
    make_clip_store(root / "clips")
    (root / "t.yaml").write_text(SMALL_TOKENIZER)
    (root / "p.yaml").write_text(SMALL_PRIOR)
    return root


def test_following_every_next_line_leads_from_a_clip_store_to_checked_samples(root, capsys):
    (root / "tokens").mkdir()  # in use for something else
    train = ("video-vq", "train-tokenizer", "--config", root / "t.yaml", "--data", root / "clips")
    run(*train, "--out", root / "runs" / "tokenizer", *ONE_STEP)
    encode = printed(capsys)
    assert encode[:3] == ["video-vq", "encode", str(root / "clips")]
    assert encode[-1] == str(root / "tokens-2")  # beside the clips
    run(*encode)
    train = printed(capsys)
    assert train[1] == "train-prior"
    assert train[-1] == str(root / "runs" / "prior")  # beside the tokenizer
    run(
        *train,
        "model.width=32",
        "model.depth=1",
        "model.heads=2",
        "optim.batch_size=2",
        "run.num_workers=0",
        *ONE_STEP,
    )
    sample = printed(capsys)
    assert sample[sample.index("--tokenizer") + 1] == str(root / "runs" / "tokenizer")
    run(*sample, "--num", "2")
    verify = printed(capsys)
    assert verify[:3] == ["data-prep", "verify", str(root / "samples")]
    run(*verify)
    assert (root / "samples.png").is_file()
    tokens = ("decode", root / "tokens-2", "--tokenizer", root / "runs" / "tokenizer")
    run("video-vq", *tokens, "--split", "test", "--out", root / "decoded")
    capsys.readouterr()
    run("video-vq", *tokens, "--split", "test", "--out", root / "decoded")  # it is finished
    run(*printed(capsys))


def test_a_prepared_store_is_trained_on_in_the_folder_that_the_documentation_names(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("my_videos").mkdir()
    for number in range(3):
        frames = np.full((4, 64, 64, 3), 80 * number, np.uint8)
        write_video(Path(f"my_videos/{number}.mp4"), frames, 10)
    for page, out in (("README.md", "clips"), ("docs/usage.md", "own/clips")):
        Path(out).parent.mkdir(exist_ok=True)
        run("data-prep", "folder", "my_videos", "--out", out, "--size", "64", "--workers", "1")
        train = capsys.readouterr().out.splitlines()[-1].removeprefix("then: video-vq ")
        assert train in (REPOSITORY / page).read_text()
        assert train.startswith(f"train-tokenizer --config video64 --data {out} --out ")


@pytest.mark.parametrize("name", ["run", "run/tokenizer"])
def test_a_prior_is_proposed_beside_the_run_of_the_tokenizer(root, capsys, name):
    trained_tokenizer().save_pretrained(root / "run" / "tokenizer")
    (root / "run" / "run.json").write_text("{}")
    run(*("video-vq", "encode", root / "clips", "--tokenizer", root / name, "--out", root / "x"))
    assert printed(capsys)[-1] == str(root / "prior")


def test_raw_data_are_never_proposed_as_their_own_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(*("data-prep", "synthetic", "clips", "--layout", "ucf101", "--videos", 8, "--frames", 8))
    assert printed(capsys)[-2:] == ["--out", "clips-2"]


def test_tokens_without_a_train_split_are_decoded_next(root, capsys):
    make_clip_store(root / "one", num_videos=1)
    trained_tokenizer().save_pretrained(root / "t")
    run("video-vq", "encode", root / "one", "--tokenizer", root / "t", "--out", root / "tokens")
    decode = printed(capsys)
    assert decode[1] == "decode"
    run(*decode)


def test_samples_that_continue_a_store_are_scored_against_it_next(root, capsys):
    tokenizer, prior = trained_tokenizer(causal=True), trained_prior()
    tokenizer.save_pretrained(root / "t")
    prior.facts = replace(prior.facts, tokenizer_hash=tokenizer.hash, num_frames=3)
    prior.save_pretrained(root / "p")
    models = ("--prior", root / "p", "--tokenizer", root / "t")
    given = ("--given", root / "clips", "--given-split", "val", "--num", "2")
    run("video-vq", "sample", *models, *given, "--out", root / "samples")
    evaluate = printed(capsys)
    assert evaluate[1:4] == ["evaluate", "--data", str(root / "clips")]
    assert evaluate[evaluate.index("--split") + 1] == "val"
    video = root / "in.mp4"
    write_video(video, np.zeros((9, 16, 16, 3), np.uint8), 10)
    run("video-vq", "continue", video, *models, "--class", "left", "--out", root / "out.mp4")
    run(*printed(capsys))
    assert f"{root / 'out.mp4'}: a video" in capsys.readouterr().out
    run("video-vq", "reconstruct", video, root / "both.mp4", "--tokenizer", root / "t")
    run(*printed(capsys))
    assert f"{root / 'both.mp4'}: a video" in capsys.readouterr().out


def test_an_evaluation_is_reported_next(root, monkeypatch, capsys):
    trained_tokenizer().save_pretrained(root / "t")
    scores = scores_of("t")
    monkeypatch.setattr("video_vq.evaluation.evaluate.evaluate", lambda *_: scores)
    monkeypatch.setattr("video_vq.report.summary.summary", lambda _: "scores")
    data = ("--data", root / "clips", "--tokenizer", root / "t")
    run("video-vq", "evaluate", *data, "--out", root / "scores")
    assert printed(capsys) == ["video-vq", "report", str(root / "scores")]


def test_features_that_were_saved_score_the_same_fake_next(root, monkeypatch, capsys):
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(root / "cache"))
    make_clip_store(root / "fake", size=8)
    torch.manual_seed(0)
    how = ("--frames", "4", "--protocol", "google", "--network", f"{__name__}:mean_network")
    saved = root / "real.safetensors"
    run("video-vq", "fvd", root / "clips", root / "fake", *how, "--save-real", saved)
    again = capsys.readouterr()
    (first,) = [line for line in again.out.splitlines() if line.startswith("FVD ")]
    (line,) = [line for line in again.out.splitlines() if line.startswith("next: ")]
    run(*shlex.split(line.removeprefix("next: ")))
    told = capsys.readouterr()
    assert first in told.out
    assert "next: " not in told.out


def test_the_numbers_stand_before_the_warnings_in_one_log(root, monkeypatch):
    """If both streams go to one file, the scores come before the warnings that qualify them."""
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(root / "cache"))
    make_clip_store(root / "fake", num_videos=9, size=8)
    how = ("--frames", "4", "--protocol", "google", "--network", f"{__name__}:mean_network")
    log = root / "log"
    with (  # as in `… > log 2>&1`
        log.open("a") as out,
        log.open("a", buffering=1) as error,
        redirect_stdout(out),
        redirect_stderr(error),
    ):
        run("video-vq", "fvd", root / "clips", root / "fake", *how)
    told = log.read_text()
    assert told.index("FVD ") < told.index(", real data ") < told.index("\n3 warnings:\n  ")
    block = told[told.index("3 warnings:") :].splitlines()[1:]
    assert len(block) == 3
    assert all(line.startswith("  ") for line in block)


def test_a_tokenizer_that_lies_elsewhere_is_named_as_a_place_to_fill_in(tmp_path):
    (tmp_path / "a").mkdir()
    found = following.tokenizer_of("0" * 64, [tmp_path / "a", tmp_path / "b"])
    assert found == following.ANY_TOKENIZER


@pytest.mark.parametrize(
    ("place", "store", "sheet"),
    [
        (".", "samples", "samples.png"),
        (".", "a/samples", "a/samples.png"),
        (".", "run.v2", "run.v2.png"),
        (".", "run.png", "run.png.png"),
        ("samples", ".", "../samples.png"),
        ("samples/videos", "..", "../../samples.png"),
        ("samples", "../other", "../other.png"),
    ],
)
def test_a_sheet_lies_beside_its_store_whatever_the_store_is_called(
    tmp_path, monkeypatch, place, store, sheet
):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / place)
    words = following.verify_words(Path(store))
    assert words == ("data-prep", "verify", Path(store), "--sheet", Path(sheet))
    assert Path(following.verify_words(Path(store).absolute())[-1]).is_absolute()


def test_what_comes_next_lies_beside_the_folder_one_stands_in_and_a_tokenizer_is_found_there(
    tmp_path, monkeypatch
):
    made = trained_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokens").mkdir()
    monkeypatch.chdir(tmp_path / "tokens")
    assert beside(Path(), "prior") == Path("../prior")
    assert beside(Path(), "tokenizer") == Path("../tokenizer-2")
    assert following.tokenizer_of(made, [Path()]) == Path("../tokenizer")


def test_a_folder_that_cannot_be_listed_ends_no_training(tmp_path, monkeypatch):
    gone = tmp_path / "gone" / "tokens"
    assert following.tokenizer_of("0" * 64, [gone]) == following.ANY_TOKENIZER
    made = trained_tokenizer().save_pretrained(tmp_path / "there" / "t")
    assert following.tokenizer_of(made, [gone, tmp_path / "there" / "p"]) == (
        tmp_path / "there" / "t"
    )


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_rank_alone_says_what_was_encoded_and_decoded(root, monkeypatch, capsys, rank):
    tokenizer = trained_tokenizer().save_pretrained(root / "tokenizer")
    assert tokenizer
    stages = (
        ("encode", root / "clips", "--out", root / "tokens"),
        ("decode", root / "tokens", "--out", root / "decoded"),
    )
    for words in stages:  # done by one process
        run("video-vq", *words, "--tokenizer", root / "tokenizer")
    capsys.readouterr()
    monkeypatch.setenv("RANK", rank)
    for words in stages:
        run("video-vq", *words, "--tokenizer", root / "tokenizer")
        assert bool(capsys.readouterr().out) == (rank == "0")


def test_a_name_that_is_free_is_proposed(tmp_path):
    assert unused(tmp_path / "a.png") == tmp_path / "a.png"
    (tmp_path / "a.png").touch()
    (tmp_path / "a-2.png").touch()
    assert unused(tmp_path / "a.png") == tmp_path / "a-3.png"
