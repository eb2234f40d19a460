"""Tests that commands choose clips according to their settings, also in short videos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL_TOKENIZER
from trained import trained_tokenizer

from video_vq.cli import main
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.tokens import TokenStore

LENGTHS = (2, 9, 3, 12, 4, 1)  # clips have 4 frames


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("short") / "clips"
    random = np.random.default_rng(0)
    writer = ClipStoreWriter(path, (16, 16), {})
    writer.write_shard(
        0,
        [
            PreparedVideo(
                Video(f"v{n}", "a", ("train", "val")[n % 2], f"g{n}", fps=10.0),
                [random.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8)],
                {},
            )
            for n, length in enumerate(LENGTHS)
        ],
    )
    writer.finish(1, ["a"])
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tokenizer"
    trained_tokenizer().save_pretrained(path)
    return path


def encode(store: Path, tokenizer: Path, out: Path, *options: str) -> list[tuple[int, int]]:
    """Encode a store; return the video and the first frame of every token grid."""
    assert (
        main(["encode", str(store), "--tokenizer", str(tokenizer), "--out", str(out), *options])
        == 0
    )
    tokens = TokenStore(out)
    return [tokens.window_of(row)[:2] for row in range(len(tokens))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", [(1, 0), (1, 4), (3, 0), (3, 4), (3, 8), (4, 0)]),
        ("--hop 5", [(1, 0), (1, 5), (3, 0), (3, 5), (4, 0)]),
        ("--windows uniform", [(1, 2), (3, 4), (4, 0)]),
        ("--windows uniform --clips-per-video 2", [(1, 0), (1, 5), (3, 0), (3, 8), (4, 0)]),
        (
            "--windows uniform --short-videos loop",
            [(0, 0), (1, 2), (2, 0), (3, 4), (4, 0), (5, 0)],
        ),
    ],
)  # fmt: skip
def test_encode_takes_the_clips_that_were_asked_for(store, tokenizer, tmp_path, options, expected):
    assert encode(store, tokenizer, tmp_path / "tokens", *options.split()) == expected


def test_grids_of_clips_that_were_drawn_have_names_of_their_own(store, tokenizer, tmp_path):
    options = ("--windows", "random", "--clips-per-video", "6", "--short-videos", "loop")
    rows = encode(store, tokenizer, tmp_path / "tokens", *options)
    assert len(set(rows)) == len(rows)
    assert {video for video, _ in rows} == set(range(6))
    decode = ["decode", str(tmp_path / "tokens"), "--tokenizer", str(tokenizer)]
    assert main([*decode, "--out", str(tmp_path / "decoded")]) == 0
    assert len(ClipStore(tmp_path / "decoded").videos) == len(rows)


def test_a_short_video_is_encoded_as_the_clip_that_its_rule_makes(store, tokenizer, tmp_path):
    model = trained_tokenizer()
    frames = ClipStore(store).read(2)  # 3 frames
    for rule, last in (("repeat_last", 2), ("loop", 0)):
        out = tmp_path / rule
        rows = encode(store, tokenizer, out, "--short-videos", rule)
        clip = frames[[0, 1, 2, last]]
        expected = model.encode(torch.from_numpy(clip[None]))[0].numpy()
        assert np.array_equal(TokenStore(out).read(rows.index((2, 0))), expected)
        assert TokenStore(out).header.made_by["short_videos"] == rule


def test_other_clips_are_another_store(store, tokenizer, tmp_path, capsys):
    encode(store, tokenizer, tmp_path / "tokens")
    command = [
        "encode",
        str(store),
        "--tokenizer",
        str(tokenizer),
        "--out",
        str(tmp_path / "tokens"),
    ]
    assert main([*command, "--windows", "uniform"]) == 1
    told = capsys.readouterr().err
    assert "made_by.windows_rule: (absent) -> 'uniform'" in told
    assert main([*command, "--clips-per-video", "2"]) == 2
    assert "clips_per_video (2) is for windows: random or uniform" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["repeat_last", "loop"])
def test_training_takes_short_videos_where_it_is_told_to(store, tmp_path, capsys, rule):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL_TOKENIZER)
    command = ["train-tokenizer", "--config", str(config), "--data", str(store)]
    command += ["--out", str(tmp_path / "run"), "--tracker", "none", "data.num_frames=16"]
    settings = ["optim.steps=2", "optim.warmup_steps=1"]
    assert main([*command, *settings]) == 1
    told = capsys.readouterr().err
    assert "no video of split 'train' has the 16 frames of a clip" in told
    assert "data.short_videos=repeat_last or loop" in told
    assert main([*command, *settings, f"data.short_videos={rule}", "data.windows=uniform"]) == 0
    assert (tmp_path / "run" / "tokenizer" / "config.json").exists()
