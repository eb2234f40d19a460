"""Tests of features: cached by clip, shared by protocols, and published as files."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from jaxtyping import Float
from torch import Tensor

from video_vq.errors import ConfigError, InputError
from video_vq.evaluation.compare_evaluations import paired_interval
from video_vq.evaluation.feature_cache import FeatureCache, clip_key
from video_vq.evaluation.feature_file import read_features
from video_vq.evaluation.feature_network import (
    FeatureNetwork,
    load_feature_network,
    weights_hash,
)
from video_vq.evaluation.features import Extractor, clip_features_of, features_of
from video_vq.evaluation.fvd_comparison import FVDComparison
from video_vq.evaluation.generation_protocols import (
    GENERATION_PROTOCOLS,
    generation_protocol,
    require_protocol,
    require_same_clips,
)
from video_vq.evaluation.memorisation import diversity, nearest, thumbnails
from video_vq.evaluation.scored_clip import Cut
from video_vq.media.encode import write_video
from video_vq.metrics.protocol import PROTOCOLS, fvd_protocols
from video_vq.stores.clips import ClipStoreWriter, PreparedVideo, Video

CUT = Cut(16)
STYLEGANV = PROTOCOLS["styleganv"]


class Counting(torch.nn.Module):
    """A feature network with six features that counts its clips."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = 0

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 6"]:
        self.seen += len(video)
        return torch.cat([video.mean((2, 3, 4)), video.std((2, 3, 4))], dim=1) * self.weight


def make_counting() -> torch.nn.Module:
    """Return a network, to be named as `module:function`."""
    return Counting()


def network() -> FeatureNetwork:
    return FeatureNetwork(Counting(), "counting", "0" * 64, 6)


def clips_of(count: int, seed: int = 0, size: int = 24) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (16, size, size, 3), dtype=np.uint8) for _ in range(count)]


def folder_of(path: Path, count: int, seed: int, fps: float = 10, size: int = 32) -> Path:
    path.mkdir()
    for number, clip in enumerate(clips_of(count, seed, size)):
        write_video(path / f"{number}.mp4", clip, fps=fps)
    return path


def seen(extractor: Extractor) -> int:
    counting = extractor.network.module
    assert isinstance(counting, Counting)
    return counting.seen


def test_a_clip_passes_the_network_once_ever(tmp_path):
    folder = folder_of(tmp_path / "a", 5, 0)
    first = Extractor(network(), [STYLEGANV], tmp_path / "cache")
    features = features_of(folder, first, CUT)
    assert seen(first) == 5
    second = Extractor(network(), [STYLEGANV], tmp_path / "cache")
    again = features_of(folder, second, CUT)
    assert seen(second) == 0
    np.testing.assert_array_equal(features.of(STYLEGANV), again.of(STYLEGANV))
    assert features.data_hash == again.data_hash
    # Another network, or another preparation, has a cache of its own.
    third = Extractor(network()._replace(sha256="1" * 64), [STYLEGANV], tmp_path / "cache")
    features_of(folder, third, CUT)
    assert seen(third) == 5


def test_conventions_that_prepare_clips_alike_share_a_pass(tmp_path):
    extractor = Extractor(network(), fvd_protocols("all"), tmp_path / "cache")
    found = clip_features_of("x", clips_of(3), extractor)
    # Half-pixel squash (four of them), TF1's resize, VideoGPT's crop at half the range.
    assert len(found.rows) == 3
    assert seen(extractor) == 9
    same = [found.of(PROTOCOLS[name]) for name in ("styleganv", "tats", "cd-fvd", "larp")]
    assert all(np.array_equal(same[0], other) for other in same)
    assert not np.array_equal(same[0], found.of(PROTOCOLS["google"]))


def test_a_torn_or_flipped_record_is_computed_again_and_the_rest_is_kept(tmp_path):
    clips = clips_of(4)
    extractor = Extractor(network(), [STYLEGANV], tmp_path / "cache")
    whole = clip_features_of("x", clips, extractor).of(STYLEGANV)
    (log,) = (tmp_path / "cache").rglob("*.log")
    data = bytearray(log.read_bytes())
    data[40] ^= 1  # in the first record's values
    log.write_bytes(data[:-3])  # and the last one torn
    again = Extractor(network(), [STYLEGANV], tmp_path / "cache")
    np.testing.assert_array_equal(clip_features_of("x", clips, again).of(STYLEGANV), whole)
    assert seen(again) == 2


def test_the_key_tells_clips_apart_that_have_equal_bytes():
    frames = np.zeros((4, 2, 3, 3), np.uint8)
    keys = {clip_key(frames), clip_key(frames.reshape(4, 3, 2, 3)), clip_key(frames[:3])}
    assert len(keys) == 3


def test_a_cache_of_other_settings_or_without_a_place_is_refused(tmp_path, monkeypatch):
    cache = FeatureCache({"network": "a"}, 6, tmp_path)
    (cache.path / "settings.json").write_text('{"network": "b", "num_features": 6}')
    with pytest.raises(InputError, match="belongs to other settings"):
        FeatureCache({"network": "a"}, 6, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="VIDEO_VQ_CACHE"):
        FeatureCache({"network": "a"}, 6, tmp_path / "file")


def test_sizes_rates_and_lengths_follow_their_rules(tmp_path):
    folder = folder_of(tmp_path / "a", 2, 0, fps=10)
    write_video(folder / "wide.mp4", np.zeros((20, 32, 48, 3), np.uint8), fps=25)
    write_video(folder / "short.mp4", np.zeros((15, 32, 32, 3), np.uint8), fps=10)
    (folder / "text.avi").write_text("not a video")
    comparison = FVDComparison(network(), [STYLEGANV], CUT, cache=tmp_path / "cache")
    mixed = comparison.read(folder)
    assert mixed.num_clips == 3
    assert mixed.kinds == {"32x32 at 10 fps": 2, "32x48 at 25 fps": 1}
    assert len(mixed.left_out) == 2
    assert any("shorter than a clip of 16 frames" in line for line in mixed.left_out)
    other = comparison.read(folder_of(tmp_path / "b", 3, 1, fps=30))
    warnings = comparison.scores(other, [mixed])["warnings"]
    assert any("is mixed: 2 of 32x32 at 10 fps, 1 of 32x48 at 25 fps" in w for w in warnings)
    assert any("frame rates differ: 30 fps against 10 fps, 25 fps" in w for w in warnings)
    # At 5 frames per second every second frame of 10 is left: 16 frames are 8, too few.
    slow = FVDComparison(network(), [STYLEGANV], Cut(16, 1, 5.0), cache=tmp_path / "cache")
    with pytest.raises(InputError, match="none of its 5 videos can be scored"):
        slow.read(folder)


def test_files_that_data_prep_takes_are_scored_too(tmp_path):
    (file,) = folder_of(tmp_path / "a", 1, 0).iterdir()
    for suffix in (".flv", ".wmv"):  # the content decides how it is read
        file.with_suffix(suffix).write_bytes(file.read_bytes())
    comparison = FVDComparison(network(), [STYLEGANV], CUT, cache=tmp_path / "cache")
    assert comparison.read(tmp_path / "a").num_clips == 3


def test_a_fixed_rate_takes_the_frames_that_are_shown_then(tmp_path):
    (tmp_path / "a").mkdir()
    frames = np.stack([np.full((32, 32, 3), 8 * t, np.uint8) for t in range(32)])
    write_video(tmp_path / "a" / "x.mp4", frames, fps=20, quality=0)
    fixed = Extractor(network(), [STYLEGANV], tmp_path / "cache")
    half = features_of(tmp_path / "a", fixed, Cut(16, 1, 10.0)).of(STYLEGANV)
    strided = features_of(tmp_path / "a", fixed, Cut(16, 2)).of(STYLEGANV)
    np.testing.assert_array_equal(half, strided)


def test_a_published_file_scores_as_the_videos_do_and_refuses_others(tmp_path):
    real = folder_of(tmp_path / "real", 9, 0)
    fake = folder_of(tmp_path / "fake", 9, 1)
    comparison = FVDComparison(network(), [STYLEGANV], CUT, cache=tmp_path / "cache")
    sides = comparison.read(real), comparison.read(fake)
    file = tmp_path / "real.safetensors"
    comparison.save(file, sides[0])
    from_file = comparison.scores(comparison.read(file), [sides[1]])
    from_videos = comparison.scores(sides[0], [sides[1]])
    assert from_file["protocols"] == from_videos["protocols"]
    assert from_file["real"]["data"] == from_videos["real"]["data"]
    with pytest.raises(InputError, match="holds features of the network counting"):
        read_features(file, network()._replace(sha256="1" * 64), CUT)
    with pytest.raises(InputError, match="asked for 16 frames at stride 2"):
        read_features(file, network(), Cut(16, 2))
    google = FVDComparison(network(), [PROTOCOLS["google"]], CUT, cache=tmp_path / "cache")
    with pytest.raises(InputError, match="make the file again with that --protocol"):
        google.read(file)
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        comparison.save(tmp_path / "real.pt", sides[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows, meta: rows.update(x=np.zeros((9, 6), np.float64)), "finite float32"),
        (lambda rows, meta: rows.update(x=np.full((9, 6), np.nan, np.float32)), "finite float32"),
        (lambda rows, meta: rows.update(x=np.zeros((3, 6), np.float32)), "of 9 x 6, found"),
        (lambda rows, meta: meta.update(described="{}"), "description is damaged"),
        (lambda rows, meta: meta.update(described="["), "not a readable feature file"),
        (lambda rows, meta: meta.update(described="[1]"), "description is damaged"),
        (lambda rows, meta: meta.update(version="9"), "not a feature file of this version"),
        (lambda rows, meta: meta.pop("format"), "not a feature file of this version"),
    ],
)
def test_a_damaged_published_file_is_refused_with_the_reason(tmp_path, change, message):
    comparison = FVDComparison(network(), [STYLEGANV], CUT, cache=tmp_path / "cache")
    file = tmp_path / "real.safetensors"
    comparison.save(file, clip_features_of("x", clips_of(9), comparison.extractor))
    rows = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, "numpy") as opened:
        meta = dict(opened.metadata())
    change(rows, meta)
    safetensors.numpy.save_file(rows, file, meta)
    with pytest.raises(InputError, match=message):
        read_features(file, network(), CUT)


def test_bytes_that_are_no_safetensors_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(InputError, match="not a readable feature file"):
        read_features(file, network(), CUT)
    with pytest.raises(InputError, match="no such file"):
        read_features(tmp_path / "none.safetensors", network(), CUT)


def test_a_network_of_ones_own_goes_through_the_same_statistics(tmp_path):
    found = load_feature_network(f"{__name__}:make_counting", "cpu")
    assert found.num_features == 6
    assert found.sha256 == weights_hash(found.name, found.module)
    changed = Counting()
    torch.nn.init.zeros_(changed.weight)
    assert weights_hash(found.name, changed) != found.sha256
    comparison = FVDComparison(found, [STYLEGANV], CUT, cache=tmp_path / "cache")
    sides = [clip_features_of("x", clips_of(9, seed), comparison.extractor) for seed in (0, 1)]
    scores = comparison.scores(sides[0], [sides[1]])
    assert scores["network"] == {"name": found.name, "sha256": found.sha256}
    for name, message in (
        ("nowhere", "write package.module:function"),
        ("no.such.module:f", "cannot be imported"),
        (f"{__name__}:nothing", "cannot be imported"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_feature_network(name, "cpu")
    with pytest.raises(InputError, match="must return a torch module"):
        load_feature_network("builtins:dict", "cpu")


def test_several_candidates_have_their_differences_told(tmp_path):
    comparison = FVDComparison(network(), [STYLEGANV], CUT, cache=tmp_path / "cache")
    real, near = (
        clip_features_of("x", clips_of(40, seed), comparison.extractor) for seed in (0, 1)
    )
    far = clip_features_of("far", [clip // 2 for clip in clips_of(40, 2)], comparison.extractor)
    found = comparison.scores(real, [near, far])
    (under,) = found["protocols"]
    (difference,) = under["differences"]
    assert difference["at_n"]["high"] < 0
    assert "has a lower FVD than far" in difference["sentence"]
    assert under["scores"][0]["kvd"] is not None
    assert under["scores"][0]["fvd_error"] > 0
    assert json.loads(json.dumps(found)) == found
    same = comparison.scores(real, [near, near._replace(name="twin")])["protocols"][0]
    assert "cannot be told apart" in same["differences"][0]["sentence"]


@pytest.mark.parametrize("label", ["a toy world", None])
def test_a_store_of_simulated_videos_is_said_to_be_one(tmp_path, label):
    plan = {"source": "bair"} if label is None else {"source": "bair", "simulated": label}
    writer = ClipStoreWriter(tmp_path / "real", (24, 24), plan)
    videos = (Video(f"v{n}", None, "test", f"v{n}", fps=5.0) for n in range(4))
    clips = (
        PreparedVideo(video, [clip], {}) for video, clip in zip(videos, clips_of(4), strict=True)
    )
    writer.write_shard(0, clips)
    writer.finish(1, [])
    comparison = FVDComparison(network(), [STYLEGANV], CUT, cache=tmp_path / "cache")
    real = comparison.read(tmp_path / "real")
    warnings = "\n".join(comparison.scores(real, [real])["warnings"])
    said = "real holds simulated videos (a toy world): no score compares with a published one"
    assert (said in warnings) == (label is not None)
    comparison.save(tmp_path / "real.safetensors", real)
    kept = comparison.read(tmp_path / "real.safetensors")
    warnings = "\n".join(comparison.scores(kept, [kept])["warnings"])
    said = said.replace("real ", "real.safetensors ")
    assert (said in warnings) == (label is not None)


def test_a_sample_that_copies_a_training_clip_is_found():
    train = torch.from_numpy(np.stack(clips_of(20, 0)))
    samples = torch.from_numpy(np.stack([clips_of(20, 0)[7], *clips_of(2, 1)]))
    found = nearest(thumbnails(samples), thumbnails(train))
    assert found.place[0] == 7
    assert found.distance[0] == 0
    assert found.distance[1:].min() > 1
    expected = (thumbnails(samples[1:2]) - thumbnails(train)).square().mean(1).sqrt().min()
    assert found.distance[1] == pytest.approx(float(expected), rel=1e-6)


def test_diversity_is_the_mean_squared_distance_of_pairs():
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(30, 5)), 0.5 * random.normal(size=(20, 5))
    pairs = [np.square(fake[i] - fake[j]).sum() for i in range(20) for j in range(i)]
    found = diversity(real, fake)
    assert found["samples"] == pytest.approx(np.mean(pairs))
    assert found["ratio"] == pytest.approx(found["samples"] / found["real"])


def test_a_generation_protocol_refuses_what_is_not_its_own():
    ucf = generation_protocol("ucf101-2048-test")
    require_protocol(ucf, 2048, 2048, {})
    with pytest.raises(InputError, match=r"2048 samples, found 2048 and 64"):
        require_protocol(ucf, 2048, 64, {})
    with pytest.raises(InputError, match=r"sample --given"):
        require_protocol(generation_protocol("bair-256"), 256, 256, {})
    with pytest.raises(InputError, match="did you mean 'bair-256'"):
        generation_protocol("bair256")
    assert GENERATION_PROTOCOLS["bair-256x100"].num_fake == 25_600
    plan = {"given_data": "a" * 64, "given_split": "test", "given_frames": 1}
    require_protocol(generation_protocol("bair-256"), 256, 256, plan)
    require_same_clips(plan, "a" * 64, "test")
    with pytest.raises(
        InputError, match="continue split test of the store aaaaaaaaaaaa, but would"
    ):
        require_same_clips(plan, "b" * 64, "test")


def test_the_interval_of_a_paired_difference_covers_and_respects_groups():
    random = np.random.default_rng(0)
    covered, values, low, high = 0, np.zeros(100), None, None
    for _ in range(400):
        of_video = random.normal(0.3, 1.0, 25)
        values = np.repeat(of_video, 4) + random.normal(0, 0.2, 100)
        low, high = paired_interval(values, [str(v) for v in np.repeat(np.arange(25), 4)])
        assert low is not None
        assert high is not None
        covered += low <= 0.3 <= high
    assert covered >= 0.93 * 400
    # As independent clips the interval would be too narrow by half.
    alone = paired_interval(values, [str(clip) for clip in range(100)])
    assert alone[0] is not None
    assert alone[1] is not None
    assert low is not None
    assert high is not None
    assert (high - low) > 1.6 * (alone[1] - alone[0])
    assert paired_interval(values, ["one"] * 100) == (None, None)
