"""Tests of clips from video files: named by content, decoded only for missing features."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from video_vq.errors import InputError
from video_vq.evaluation import scored_clip as source_clip
from video_vq.evaluation.feature_cache import clip_key
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.evaluation.features import Extractor, clip_features_of, features_of
from video_vq.evaluation.scored_clip import Cut, clip_at_hand, clip_of_file
from video_vq.media.decode import FirstFrames, FrameStream
from video_vq.media.encode import write_video
from video_vq.media.probe import UnreadableVideoError, probe
from video_vq.metrics.protocol import PROTOCOLS, FVDProtocol, fvd_protocols
from video_vq.metrics.resize import network_input

CUT = Cut(16)
CPU = torch.device("cpu")
STYLEGANV = PROTOCOLS["styleganv"]


class Corners(torch.nn.Module):
    """A feature network that returns a few pixels and counts its clips."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 12"]:
        self.seen += len(video)
        return video[:, :, ::15, ::223, 100].flatten(1)


def extractor_at(folder: Path, protocols: tuple[FVDProtocol, ...] = (STYLEGANV,)) -> Extractor:
    return Extractor(FeatureNetwork(Corners(), "corners", "0" * 64, 12), protocols, folder)


def video(path: Path, seed: int = 0, num_frames: int = 18, size_hw: tuple[int, int] = (48, 64)):
    random = np.random.default_rng(seed)
    write_video(path, random.integers(0, 256, (num_frames, *size_hw, 3), dtype=np.uint8), fps=10)
    return path


def refuse_to_decode(*_: object) -> None:
    raise AssertionError("decodes")


def test_copies_under_other_names_have_one_name_and_one_pass(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    first = video(folder / "0.mp4")
    shutil.copy(first, folder / "renamed.mp4")
    (folder / "deep").mkdir()
    shutil.copy(first, folder / "deep" / "x.m4v")
    clips = [clip_of_file(file, CUT) for file in sorted(folder.rglob("*.m*4*"))]
    assert len(clips) == 3
    assert len({(clip.key, clip.data_hash) for clip in clips}) == 1
    extractor = extractor_at(tmp_path / "cache")
    assert features_of(folder, extractor, CUT).num_clips == 3
    assert extractor.num_computed == 1


def test_a_byte_the_frames_and_the_decoder_change_the_key(tmp_path, monkeypatch):
    file = video(tmp_path / "0.mp4")
    clip = clip_of_file(file, CUT)
    assert clip_of_file(file, CUT)[:2] == clip[:2]
    others = [clip_of_file(file, Cut(9)), clip_of_file(file, Cut(9, 2))]
    with monkeypatch.context() as patch:
        patch.setattr(source_clip, "pyav_version", lambda: "another decoder")
        newer = clip_of_file(file, CUT)
    assert newer.data_hash == clip.data_hash  # the data are the same
    file.write_bytes(file.read_bytes() + b"\0\0\0\x08free")  # the same frames, in another file
    others.append(clip_of_file(file, CUT))
    assert len({one.key for one in (clip, newer, *others)}) == 5
    assert len({one.data_hash for one in (clip, *others)}) == 4


def test_equal_frames_of_a_file_have_one_name_however_they_are_asked_for(tmp_path):
    file = video(tmp_path / "0.mp4")
    assert clip_of_file(file, CUT).key == clip_of_file(file, Cut(16, 1, 10.0)).key


def test_what_is_known_is_not_decoded_again(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    for seed in range(3):
        video(folder / f"{seed}.mp4", seed)
    features = features_of(folder, extractor_at(tmp_path / "cache"), CUT)
    monkeypatch.setattr(source_clip, "FirstFrames", refuse_to_decode)
    again = features_of(folder, extractor_at(tmp_path / "cache"), CUT)
    np.testing.assert_array_equal(again.of(STYLEGANV), features.of(STYLEGANV))
    assert again._replace(rows={}) == features._replace(rows={})


def test_a_file_that_changes_while_it_is_read_is_left_out(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    changing, _ = video(folder / "0.mp4"), video(folder / "1.mp4", 1)
    replacement = video(tmp_path / "other.mp4", 2).read_bytes()

    def overwritten_then_decoded(file: Path, count: int) -> FirstFrames:
        if file == changing:
            file.write_bytes(replacement)
        return FirstFrames(file, count)

    monkeypatch.setattr(source_clip, "FirstFrames", overwritten_then_decoded)
    extractor = extractor_at(tmp_path / "cache")
    features = features_of(folder, extractor, CUT)
    assert (features.num_clips, extractor.num_computed) == (1, 1)
    assert features.left_out == (f"{changing}: was changed while it was read; score it again",)


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(UnreadableVideoError, match=r"cannot be read \(No such file"):
        clip_of_file(tmp_path / "none.mp4", CUT)


@pytest.mark.parametrize("size_hw", [(48, 64), (224, 224), (470, 610)])
def test_a_file_gives_the_network_what_its_decoded_frames_give_it(tmp_path, size_hw):
    file = video(tmp_path / "0.mp4", size_hw=size_hw)
    protocols = fvd_protocols("all")
    frames = np.stack(list(FrameStream(probe(file))))
    for cut, clip in ((CUT, frames[:16]), (Cut(16, 1, 20.0), frames.repeat(2, 0)[:16])):
        read = clip_of_file(file, cut).read(protocols)
        at_hand = clip_at_hand(clip, None).read(protocols)
        for protocol in protocols:
            expected = network_input(torch.from_numpy(clip)[None], protocol)[0].movedim(0, -1)
            assert torch.equal(read(protocol, CPU), expected)
            assert torch.equal(at_hand(protocol, CPU), expected)


def test_videos_of_several_sizes_pass_the_network_together(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    sizes = [(48, 64), (64, 48), (300, 200)]
    files = [
        video(folder / f"{place}.mp4", place, 16, size_hw) for place, size_hw in enumerate(sizes)
    ]
    together = features_of(folder, extractor_at(tmp_path / "cache"), CUT)
    alone = [
        clip_features_of(
            file.name,
            [np.stack(list(FrameStream(probe(file))))],
            extractor_at(tmp_path / "cache at hand"),
        ).of(STYLEGANV)
        for file in files
    ]
    np.testing.assert_array_equal(together.of(STYLEGANV), np.concatenate(alone))
    assert len(together.kinds) == 3


def test_a_clip_of_another_length_than_the_conventions_is_refused(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    video(folder / "0.mp4")
    with pytest.raises(InputError, match="scores 16 frames, found clips of 17"):
        features_of(folder, extractor_at(tmp_path / "cache"), Cut(17))


def test_a_clip_at_hand_is_named_by_its_bytes():
    clip = np.zeros((16, 8, 8, 3), np.uint8)
    named = clip_at_hand(clip, 25.0)
    assert (named.key, named.data_hash) == (clip_key(clip), clip_key(clip).hex())
    assert named.kind() == "8x8 at 25 fps"


def test_the_cache_holds_keys_and_numbers_and_nothing_to_unpickle(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    key = clip_of_file(video(folder / "0.mp4"), CUT).key
    features = features_of(folder, extractor_at(tmp_path / "cache"), CUT)
    files = {file.suffix: file for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert set(files) == {".json", ".log"}
    record = files[".log"].read_bytes()
    assert record[:-4] == key + features.of(STYLEGANV)[0].astype("<f4").tobytes()
