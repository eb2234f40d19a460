"""Tests of `video-vq view` for stores, videos and runs, including hostile names."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile_report import HOSTILE
from runs import make_clip_store
from trained import trained_tokenizer

from video_vq.cli import main
from video_vq.media.encode import write_video
from video_vq.quantizers.quantizer_config import ResidualConfig
from video_vq.report.blocks import Film, Films, FilmStrip
from video_vq.report.code_pictures import as_clip, colours_of_codes, colours_of_vectors, usage_map
from video_vq.report.view import kind_of
from video_vq.report.view_tokens import token_sections
from video_vq.stores.clips import ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.tokens import TokenHeader, TokenStoreWriter


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a folder with clips, a video, a tokenizer, and the tokens that it made."""
    root = tmp_path_factory.mktemp("view")
    make_clip_store(root / "clips")
    make_tokens(root, "tokens", "tokenizer", None)
    write_video(root / "video.mp4", np.random.default_rng(0).integers(
        0, 255, (9, 16, 20, 3), dtype=np.uint8), 10)  # fmt: skip
    return root


def make_tokens(root: Path, name: str, tokenizer: str, quantizer) -> None:
    trained_tokenizer(quantizer).save_pretrained(root / tokenizer)
    words = ["encode", root / "clips", "--tokenizer", root / tokenizer, "--out", root / name]
    assert main([*map(str, words), "--quiet"]) == 0


def view(path: Path, out: Path, *more: object) -> str:
    assert main(["view", str(path), "--out", str(out), "--no-open", *map(str, more)]) == 0
    return out.read_text()


def heads(page: str) -> set[str]:
    return set(re.findall(r'<div class="heads">(.*?)</div>', page))


def test_a_clip_store_shows_clips_of_each_split_and_its_classes(root, tmp_path, capsys):
    page = view(root / "clips", tmp_path / "page.html", "--json")
    assert json.loads(capsys.readouterr().out)["bytes"] == len(page.encode())
    for split in ("train", "val", "test"):
        assert f"<h3>{split}: 6 videos</h3>" in page
    assert page.count("<video ") == 18
    assert '<th scope="row">left</th><td>3</td><td>3</td><td>3</td>' in page


def test_tokens_are_decoded_by_the_tokenizer_that_lies_beside_them(root, tmp_path):
    page = view(root / "tokens", tmp_path / "page.html")
    assert heads(page) == {"<span>decoded</span><span>codes</span>"}
    assert "of 32 codes occur among" in page
    assert page.count("<img ") == 1


def test_codes_alone_are_shown_where_no_tokenizer_is_known(root, tmp_path):
    shutil.copytree(root / "tokens", tmp_path / "tokens")
    page = view(tmp_path / "tokens", tmp_path / "page.html")
    assert heads(page) == {"<span>codes</span>"}
    assert "With --tokenizer, the tokens are decoded to clips" in page


def test_each_of_several_codes_a_position_has_its_picture_and_its_map(root, tmp_path):
    make_tokens(root, "several", "residual", ResidualConfig(codebook_sizes=(8, 4), codebook_dim=4))
    page = view(root / "several", tmp_path / "page.html")
    assert "has 2 codes, of 8 x 4." in page
    assert page.count("<img ") == 2
    shutil.copytree(root / "several", tmp_path / "several")
    page = view(tmp_path / "several", tmp_path / "page.html")
    assert heads(page) == {"<span>level 1</span><span>level 2</span>"}


def test_a_video_is_shown_beside_what_a_tokenizer_makes_of_it(root, tmp_path):
    page = view(root / "video.mp4", tmp_path / "page.html", "--tokenizer", root / "tokenizer")
    columns = ("original", "reconstruction", "difference", "codes")
    assert heads(page) == {"".join(f"<span>{name}</span>" for name in columns)}
    assert page.count("<video ") == 2
    shutil.copytree(root, tmp_path / "videos", ignore=lambda _, names: {*names} - {"video.mp4"})
    page = view(tmp_path / "videos", tmp_path / "page.html")  # a folder of videos
    assert "<h3>1 of 1 videos</h3>" in page


def test_a_run_is_shown_as_in_its_report(hostile_run, tmp_path):
    page = view(hostile_run, tmp_path / "page.html")
    assert "<h2>Reconstructions" in page
    assert "<script>window.broken" not in page


def test_scores_are_an_evaluation_also_where_their_sheet_lies_beside_them(tmp_path):
    (tmp_path / "sheet.png").touch()
    assert kind_of(tmp_path) == "video"
    (tmp_path / "scores.json").write_text("{}")
    assert kind_of(tmp_path) == "run"


def test_a_split_without_clips_is_passed_over_and_the_store_s_rate_is_that_of_clips(
    tmp_path, monkeypatch
):
    rates = []

    def film(self, clips, columns, caption, fps, heads) -> Film:
        rates.append(fps)
        return Film("", 1, 1, caption, heads)

    monkeypatch.setattr(Films, "film", film)
    header = TokenHeader("0" * 64, 8, (2, 1, 2), 4, (16, 16), 5.0, (), None, {})
    writer = TokenStoreWriter(tmp_path / "tokens", header)
    writer.write_shard(0, np.zeros((1, 2, 1, 2), int), np.array([[0, 0, 2]]))
    videos = [Video("a", None, "train", "a"), Video("too short", None, "test", "b", fps=10.0)]
    store = writer.finish(1, videos)
    clips, _ = token_sections(store, None, Films(30))
    [strip] = [block for block in clips.blocks if isinstance(block, FilmStrip)]
    assert strip.heading == "train: 1 clips"
    assert rates == [5.0]


def test_names_in_a_store_are_shown_and_not_obeyed(tmp_path):
    writer = ClipStoreWriter(tmp_path / "clips", (16, 16), {"kind": HOSTILE[0]})
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    writer.write_shard(
        0,
        (
            PreparedVideo(Video(name, name, "train", name, fps=10.0), [frames], {})
            for name in HOSTILE
        ),
    )
    writer.finish(1, sorted(HOSTILE))
    page = view(tmp_path / "clips", tmp_path / "page.html")
    assert page.count("<script>") == 1
    assert "onerror=window" not in re.sub(r"&lt;.*?&gt;", "", page)


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        ("nothing", [], "no such file or folder"),
        ("tokenizer", [], "holds nothing to look at; name a finished clip store or token store"),
        ("clips", ["--tokenizer", "tokenizer"], "--tokenizer is for token stores and videos"),
        ("tokens", ["--tokenizer", "clips"], "expected a tokenizer|no such|holds no|config"),
        ("clips", ["--out", "clips"], "is a folder; name a file, as clips.html"),
    ],
)
def test_what_cannot_be_shown_is_refused(root, tmp_path, capsys, monkeypatch, path, more, message):
    monkeypatch.chdir(root)
    before = sorted(root.iterdir())
    words = more if "--out" in more else [*more, "--out", str(tmp_path / "page.html")]
    assert main(["view", path, "--no-open", *words]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert sorted(root.iterdir()) == before


def test_codes_with_like_vectors_look_alike():
    vectors = np.zeros((1, 1, 4, 8))
    vectors[0, 0, :2, 0], vectors[0, 0, 2:, 0] = 1.0, -1.0
    vectors[0, 0, 1, 1] = 0.01
    colours = colours_of_vectors(vectors)[0, 0].astype(int)
    assert np.abs(colours[0] - colours[1]).sum() < np.abs(colours[0] - colours[2]).sum()
    assert len({tuple(each) for each in colours_of_codes(np.arange(50)).tolist()}) == 50


def test_tokens_stand_still_as_long_as_their_frames():
    colours = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    assert as_clip(colours, (9, 2, 2), True)[:, 0, 0, 0].tolist() == [0] + [1] * 4 + [2] * 4
    assert as_clip(colours, (6, 2, 2), False)[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert as_clip(colours[:1], (1, 2, 2), True).shape == (1, 2, 2, 3)


def test_a_map_says_how_many_codes_are_used_also_of_a_large_codebook():
    assert usage_map(np.array([3, 0, 1]), "").caption == "2 of 3 codes are used"
    counts = np.zeros(1 << 18, np.int64)
    counts[5] = 1
    caption = usage_map(counts, "level 1").caption
    assert caption == "level 1: 1 of 262,144 codes are used, 4 codes a cell"
