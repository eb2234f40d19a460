"""Tests of `video-vq fvd`, and of parts of `video-vq evaluate`, with real files."""

import json

import numpy as np
import pytest
import torch
from runs import make_clip_store, video_vq

from video_vq.evaluation import controls
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.evaluation.features import Extractor, features_of
from video_vq.evaluation.fvd_comparison import FVDComparison, compare
from video_vq.evaluation.scored_clip import Cut
from video_vq.media.encode import write_video
from video_vq.metrics.fvd_metric import FrechetVideoDistance
from video_vq.metrics.protocol import PROTOCOLS
from video_vq.metrics.weights import CHECKPOINT
from video_vq.stores.clips import ClipStore


class Means(torch.nn.Module):
    """A feature network with six features and no weights, which counts its clips."""

    def __init__(self):
        super().__init__()
        self.num_clips = 0

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        self.num_clips += len(video)
        return torch.cat([video.mean((2, 3, 4)), video.std((2, 3, 4))], dim=1)


PROTOCOL = PROTOCOLS["styleganv"]
CUT = Cut(16)


@pytest.fixture
def extractor(tmp_path) -> Extractor:
    network = FeatureNetwork(Means(), "means", "0" * 64, 6)
    return Extractor(network, [PROTOCOL], tmp_path / "cache")


def write_folder(path, seed: int, count: int = 5):
    path.mkdir()
    for index in range(count):
        random = np.random.default_rng([seed, index])
        colour = random.integers(0, 255, 3)
        frames = np.full((16, 32, 32, 3), colour, np.uint8)
        frames[:, 4:12, 4:12] = random.integers(0, 255, (16, 8, 8, 3))
        write_video(path / f"{index}.mp4", frames, fps=10)


def test_a_folder_and_a_store_of_the_same_clips_score_alike(tmp_path, extractor):
    store = make_clip_store(tmp_path / "store", num_videos=9, num_frames=16)
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, video in enumerate(store.videos):
        write_video(folder / f"{video.id}.mp4", store.read(index), fps=10, quality=0)
    of_store = features_of(tmp_path / "store", extractor, CUT, "train")
    of_folder = features_of(folder, extractor, CUT)
    assert of_store.of(PROTOCOL).shape == (3, 6)
    assert of_folder.of(PROTOCOL).shape == (9, 6)
    names = [f"{video.id}.mp4" for video in store.videos]
    assert list(of_folder.groups) == names
    for row, group in zip(of_store.of(PROTOCOL), of_store.groups, strict=True):
        place = names.index(f"video-{group.removeprefix('group-')}.mp4")
        np.testing.assert_allclose(row, of_folder.of(PROTOCOL)[place], atol=0.05)
    assert compare(of_store, of_store, PROTOCOL).value == pytest.approx(0, abs=1e-6)


def test_unusable_videos_are_left_out_and_counted(tmp_path, extractor):
    write_folder(tmp_path / "a", 0)
    (tmp_path / "a" / "text.mp4").write_text("not a video")
    (tmp_path / "a" / "empty.avi").touch()
    write_video(tmp_path / "a" / "short.mp4", np.zeros((5, 32, 32, 3), np.uint8), fps=10)
    found = features_of(tmp_path / "a", extractor, CUT)
    assert found.num_clips == 5
    assert len(found.left_out) == 3
    assert any("short.mp4" in line and "shorter than a clip" in line for line in found.left_out)


def test_the_metric_and_the_command_agree(tmp_path, extractor):
    store = make_clip_store(tmp_path / "store", num_videos=12, num_frames=16)
    train = features_of(tmp_path / "store", extractor, CUT, "train")
    test = features_of(tmp_path / "store", extractor, CUT, "test")
    metric = FrechetVideoDistance(Means(), num_features=6, protocol=PROTOCOL)
    for index, video in enumerate(store.videos):
        if video.split in ("train", "test"):
            clip = torch.from_numpy(store.read(index))[None]
            metric.update(clip, real=video.split == "train")
    expected = compare(train, test, PROTOCOL)
    assert expected.value == pytest.approx(float(metric.compute()), rel=1e-9)
    assert any("below 256" in line for line in expected.warnings)
    assert any("training split" in line for line in expected.warnings)


def test_sides_of_different_sizes_and_previews_of_a_store_are_said(tmp_path, extractor):
    for name, size in (("large", 32), ("small", 16)):
        (tmp_path / name).mkdir()
        for index in range(2):
            frames = np.full((16, size, size, 3), 40 * index, dtype=np.uint8)
            write_video(tmp_path / name / f"{index}.mp4", frames, 8.0)
    large, small = (features_of(tmp_path / name, extractor, CUT) for name in ("large", "small"))
    told = compare(large, small, PROTOCOL).warnings
    assert any("frame sizes differ: 32x32 against 16x16" in line for line in told)
    assert not any("sizes differ" in line for line in compare(large, large, PROTOCOL).warnings)

    make_clip_store(tmp_path / "samples", num_videos=3, num_frames=16)
    (tmp_path / "small").rename(tmp_path / "samples" / "videos")
    comparison = FVDComparison(extractor.network, [PROTOCOL], CUT, cache=tmp_path / "cache")
    fake = comparison.read(tmp_path / "samples" / "videos")
    (told,) = [line for line in comparison.scores(large, [fake])["warnings"] if "previews" in line]
    assert f"score {tmp_path / 'samples'} itself" in told


@pytest.mark.weights
def test_fvd_of_two_folders_from_the_command_line(tmp_path, monkeypatch):
    write_folder(tmp_path / "a", 0, 3)
    write_folder(tmp_path / "b", 1, 3)
    (tmp_path / "b" / "text.mp4").write_text("not a video")
    (tmp_path / "b" / "empty.mp4").touch()
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))
    answer = video_vq("fvd", tmp_path / "a", tmp_path / "b", "--json")
    result = json.loads(answer.stdout)
    (under,) = result["protocols"]
    (score,) = under["scores"]
    assert score["fvd"] > 0
    assert (result["real"]["num_clips"], result["candidates"][0]["num_clips"]) == (3, 3)
    assert len(result["candidates"][0]["left_out"]) == 2
    assert result["network"]["sha256"] == CHECKPOINT.sha256
    saved = tmp_path / "real.safetensors"
    shown = video_vq("fvd", tmp_path / "a", tmp_path / "a", "--save-real", saved)
    assert shown.stdout.startswith(("FVD 0.00", "FVD -0.00"))
    assert "3 real against 3 generated clips" in shown.stdout
    assert "N = 3 is below 256" in shown.stderr
    assert "both sides hold the same clips" in shown.stderr
    # The real set from its file, all conventions: only what was not computed yet is.
    two = [tmp_path / "b", tmp_path / "a"]
    again = json.loads(video_vq("fvd", tmp_path / "a", *two, "--json").stdout)
    from_file = json.loads(video_vq("fvd", saved, *two, "--json").stdout)
    for one, other in zip(again["protocols"], from_file["protocols"], strict=True):
        assert [s["fvd"] for s in one["scores"]] == [s["fvd"] for s in other["scores"]]
    assert again["protocols"][0]["scores"][0]["fvd"] == score["fvd"]
    assert "at least 8 source videos" in again["protocols"][0]["differences"][0]["sentence"] or (
        "source videos" in again["protocols"][0]["differences"][0]["sentence"]
    )
    refused = video_vq("fvd", saved, tmp_path / "b", "--stride", "2", expect=1)
    assert "repeat its --frames, --stride and --fps" in refused.stderr
    none = video_vq("fvd", tmp_path / "a", tmp_path / "nowhere", expect=1)
    assert "nowhere: no such file or folder; name a folder of videos" in none.stderr


def test_without_weights_and_network_the_message_says_what_to_do(tmp_path):
    write_folder(tmp_path / "a", 0, 2)
    answer = video_vq(
        *("fvd", tmp_path / "a", tmp_path / "a"),
        expect=1,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        VIDEO_VQ_I3D="",
    )
    assert "video-vq doctor --fetch-weights" in answer.stderr
    assert "VIDEO_VQ_I3D" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_still_pictures_are_what_their_names_say():
    clips = torch.randint(0, 256, (2, 4, 8, 8, 3), dtype=torch.uint8)
    mean = controls.clip_mean(clips)
    assert mean.shape == clips.shape
    assert torch.equal(mean[0, 0], clips[0].float().mean(0).round().to(torch.uint8))
    assert torch.equal(controls.first_frame(clips)[1, 3], clips[1, 0])


def test_patch_codebook_is_at_least_as_good_as_scipys_kmeans():
    from scipy.cluster.vq import kmeans2

    random = np.random.default_rng(0)
    centres = random.integers(30, 220, (6, 2 * 4 * 4 * 3))
    picks = random.integers(6, size=(16, 2 * 2 * 2))
    patches = centres[picks] + random.normal(0, 4, (16, 8, 96))
    clips = torch.from_numpy(patches.clip(0, 255).astype(np.uint8))
    video = clips.view(16, 2, 2, 2, 2, 4, 4, 3).permute(0, 1, 4, 2, 5, 3, 6, 7)
    video = video.reshape(16, 4, 8, 8, 3).contiguous()
    codebook = controls.PatchCodebook(video, (2, 4, 4), 8, seed=0)
    copy = codebook.reconstruct(video)
    assert len({tuple(code) for code in codebook.codes.round().int().tolist()}) <= 8
    ours = (copy.float() - video.float()).square().mean()
    flat = patches.clip(0, 255).astype(np.uint8).reshape(-1, 96).astype(float)
    theirs = min(
        np.square(flat - book[labels]).mean()
        for book, labels in (kmeans2(flat, 8, iter=25, minit="++", rng=seed) for seed in range(3))
    )
    assert ours < 1.3 * theirs


def test_tokens_per_position_keep_each_positions_frequencies():
    random = np.random.default_rng(0)
    grids = random.integers(0, 3, (500, 1, 2, 2))
    grids[:, 0, 0, 0] = 7
    drawn = controls.draw_per_position(grids, 4000, seed=0)
    assert set(drawn[:, 0, 0, 0]) == {7}
    expected = np.bincount(grids[:, 0, 1, 1], minlength=3) / 500
    found = np.bincount(drawn[:, 0, 1, 1], minlength=3) / 4000
    np.testing.assert_allclose(found, expected, atol=0.05)
    # Independent of each other, unlike positions within one grid.
    joint = np.corrcoef(drawn[:, 0, 0, 1], drawn[:, 0, 1, 0])[0, 1]
    assert abs(joint) < 0.06


def test_scoring_windows_never_overlap_and_take_each_video_once_first(tmp_path):
    from video_vq.data.windows import scoring_windows

    store: ClipStore = make_clip_store(tmp_path / "store", num_videos=9, num_frames=9)
    windows = scoring_windows(store, "train", 4, 1, None, 0)
    assert len(windows) == 6
    assert len({window.video for window in windows[:3]}) == 3
    for video in {window.video for window in windows}:
        starts = sorted(window.start for window in windows if window.video == video)
        assert starts[1] - starts[0] >= 4
        assert starts[1] + 4 <= 9
    assert scoring_windows(store, "train", 4, 1, 2, 0) == windows[:2]
