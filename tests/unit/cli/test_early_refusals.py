"""Tests that foreseeable failures are reported before a clip is decoded or a network runs."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.codec.codec import UnknownCodecError
from runs import make_clip_store
from trained import trained_prior, trained_tokenizer

import data_prep.cli
import data_prep.sources.folder
import data_prep.verify
import video_vq.cli
from video_vq.errors import InputError
from video_vq.evaluation import evaluation_setup, feature_network
from video_vq.evaluation.feature_file import write_features
from video_vq.evaluation.feature_network import named_i3d
from video_vq.evaluation.features import FeatureSet
from video_vq.evaluation.scored_clip import Cut
from video_vq.media.encode import write_video
from video_vq.metrics.protocol import fvd_protocol
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.lock import acquire
from video_vq.stores.places import require_out
from video_vq.stores.tokens import TokenHeader, TokenStoreWriter

MAIN = {"video-vq": video_vq.cli.main, "data-prep": data_prep.cli.main}
NOT_THIS = "0" * 64


def make_tokens(path: Path, tokenizer_hash: str, data_hash: str, splits: tuple[str, ...]) -> None:
    header = TokenHeader(
        tokenizer_hash, 32, (2, 4, 4), 4, (16, 16), 10.0, ("left", "right"), data_hash, {}
    )
    writer = TokenStoreWriter(path, header)
    rows = np.array([[video, 0, 1] for video in range(len(splits))])
    writer.write_shard(0, np.zeros((len(splits), 2, 4, 4), int), rows)
    writer.finish(1, [Video(f"{n}", "left", split, f"{n}") for n, split in enumerate(splits)])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with stores, models and features that match, and some that do not."""
    root = tmp_path_factory.mktemp("made")
    store = make_clip_store(root / "clips")
    make_clip_store(root / "short", num_frames=3)
    make_clip_store(root / "small", num_videos=3, num_frames=4)  # a clip for each split
    make_clip_store(root / "large", size=32)
    make_clip_store(root / "two", num_videos=2)  # none for test
    writer = ClipStoreWriter(root / "test-only", (16, 16), {"kind": "blobs"})
    frames = [np.zeros((9, 16, 16, 3), np.uint8)]
    writer.write_shard(0, [PreparedVideo(Video("a", None, "test", "a"), frames, {})])
    writer.finish(1, [])
    tokenizer, prior, causal = trained_tokenizer(), trained_prior(), trained_tokenizer(causal=True)
    tokenizer.save_pretrained(root / "t")
    causal.save_pretrained(root / "causal")
    prior.facts = replace(prior.facts, tokenizer_hash=tokenizer.hash)
    prior.save_pretrained(root / "p")
    prior.facts = replace(prior.facts, tokenizer_hash=NOT_THIS)
    prior.save_pretrained(root / "other-p")
    splits = ("train", "val", "test", "test")
    make_tokens(root / "tokens", tokenizer.hash, store.content_hash, splits)
    make_tokens(root / "other-tokens", NOT_THIS, store.content_hash, splits)
    make_tokens(root / "test-tokens", tokenizer.hash, store.content_hash, ("test", "test"))
    make_tokens(root / "train-tokens", tokenizer.hash, store.content_hash, ("train", "val"))
    (root / "videos").mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
    for name in ("videos/a.mp4", "videos/b.mp4", "in.mp4"):
        write_video(root / name, frames, 10)
    (root / "one").mkdir()
    shutil.copy(root / "in.mp4", root / "one")
    (root / "file").write_text("mine")
    for name, network, cut, groups in (
        ("saved", named_i3d(), 4, ("a", "b")),
        ("single", named_i3d(), 4, ("a",)),
        ("long", named_i3d(), 16, ("a", "b")),
        ("foreign", named_i3d()._replace(sha256=NOT_THIS), 4, ("a", "b")),
    ):
        count = len(groups)
        rows = {fvd_protocol("google").preparation: np.zeros((count, 400), np.float32)}
        features = FeatureSet(name, rows, groups, (), "h", None, {"16x16": count})
        write_features(root / f"{name}.safetensors", features, network, Cut(cut))
    return root


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("something was decoded, or a network ran")


@pytest.fixture
def refusal(made, tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Return a function that runs a command without decoders or networks and returns its error."""
    monkeypatch.setattr(torch.nn.Module, "__call__", forbidden)
    monkeypatch.setattr(ClipStore, "read", forbidden)
    monkeypatch.setattr(av, "open", forbidden)
    monkeypatch.setattr(data_prep.verify, "verify", forbidden)
    monkeypatch.setattr(data_prep.sources.folder, "list_folder", forbidden)
    monkeypatch.setenv("VIDEO_VQ_CACHE", str(tmp_path / "cache"))

    def refused(line: str, expect: int = 1) -> str:
        command, *words = line.format(made=made, tmp=tmp_path).split()
        assert MAIN[command](words) == expect
        out, error = capsys.readouterr()
        assert "next:" not in out
        return error.replace(str(made), "MADE").replace(str(tmp_path), "TMP")

    return refused


MODELS = "--prior {made}/p --tokenizer {made}/t"
OTHER = "video-vq evaluate --tokenizer {made}/t --protocol google --out {tmp}/o --data {made}"
FVD = "video-vq fvd {made}/clips --frames 4 --protocol google"
EVALUATE = "video-vq evaluate --data {made}/clips --tokenizer {made}/t --protocol google"
SAMPLE = f"video-vq sample {MODELS}"
TRAIN = "video-vq train-tokenizer --config demo/tokenizer"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # an output that is one of the inputs
        ("video-vq encode {made}/clips --tokenizer {made}/t --out {made}/clips",
         "MADE/clips: is the clip store itself; name another place"),
        ("video-vq encode {made}/videos --tokenizer {made}/t --out {made}/videos",
         "MADE/videos: is the folder of videos itself"),
        ("video-vq encode {made}/clips --tokenizer {made}/t --out {made}/t",
         "MADE/t: is the tokenizer itself"),
        ("video-vq decode {made}/tokens --tokenizer {made}/t --out {made}/tokens",
         "MADE/tokens: is the token store itself"),
        (f"{SAMPLE} --given {{made}}/clips --out {{made}}/clips",
         "MADE/clips: is the clip store that is continued itself"),
        (f"{SAMPLE} --out {{made}}/p", "MADE/p: is the prior itself"),
        (f"{EVALUATE} --out {{made}}/clips", "MADE/clips: is the clip store itself"),
        (f"{EVALUATE} --samples {{made}}/clips --out {{made}}/t", "is the tokenizer itself"),
        (f"{TRAIN} --data {{made}}/clips --out {{made}}/clips", "is the clip store itself"),
        ("video-vq train-prior --config tiny --tokens {made}/tokens --out {made}/tokens",
         "MADE/tokens: is the token store itself"),
        ("video-vq reconstruct {made}/in.mp4 {made}/in.mp4 --tokenizer {made}/t",
         "MADE/in.mp4: is the video itself"),
        (f"video-vq continue {{made}}/in.mp4 {MODELS} --out {{made}}/in.mp4",
         "MADE/in.mp4: is the video itself"),
        ("video-vq fvd {made}/saved.safetensors {made}/clips --save-real {made}/saved.safetensors",
         "saved.safetensors: is the source itself"),
        ("data-prep folder {made}/videos --out {made}/videos", "is the folder of videos itself"),
        ("data-prep bair {made}/videos --out {made}/videos", "is the data set itself"),
        ("video-vq reconstruct {made}/in.mp4 {made}/videos/a.mp4 --tokenizer {made}/t",
         "MADE/videos/a.mp4: already exists; remove it, or name another file"),
        (f"video-vq continue {{made}}/in.mp4 {MODELS} --out {{made}}/videos/a.mp4",
         "MADE/videos/a.mp4: already exists; remove it, or name another file"),
        # an output that cannot be written
        *((f"{line} --out {{made}}/file/below", "MADE/file/below: is not a writable folder")
          for line in (
              "video-vq encode {made}/clips --tokenizer {made}/t",
              "video-vq decode {made}/tokens --tokenizer {made}/t",
              SAMPLE,
              EVALUATE,
              f"{TRAIN} --data {{made}}/clips data.num_frames=4",
              "video-vq train-prior --config tiny --tokens {made}/tokens",
              "data-prep folder {made}/videos",
              "data-prep ucf101 {made}/videos",
              "data-prep bair {made}/videos",
              "data-prep lerobot {made}/videos",
              "data-prep folder {made}/videos --list-only",
          )),
        ("data-prep synthetic {made}/file/below", "is not a writable folder"),
        ("data-prep simulate {made}/file/below", "is not a writable folder"),
        ("video-vq report {made}/clips --out {made}/videos", "MADE/videos: is a folder; name a"),
        ("video-vq report {made}/clips --out {made}/file/page.html",
         "is not a writable folder"),
        # what is no store, model or video of the kind that is needed
        ("video-vq encode {made}/clips --tokenizer {made}/p --out {tmp}/o",
         "MADE/p: expected a tokenizer written by video-vq, found kind 'prior'"),
        ("video-vq decode {made}/clips --tokenizer {made}/t --out {tmp}/o",
         "is a 'video-vq clips' store, expected 'video-vq tokens'"),
        ("video-vq decode {made}/other-tokens --tokenizer {made}/t --out {tmp}/o",
         "belongs to the tokenizer 000000000000…"),
        ("video-vq decode {made}/train-tokens --split test --tokenizer {made}/t --out {tmp}/o",
         "no tokens of split 'test'"),
        ("video-vq sample --prior {made}/t --tokenizer {made}/t --out {tmp}/o",
         "expected a prior written by video-vq"),
        ("video-vq sample --prior {made}/other-p --tokenizer {made}/t --out {tmp}/o",
         "belongs to the tokenizer 000000000000…"),
        (f"{SAMPLE} --given {{made}}/tokens --out {{tmp}}/o", "expected 'video-vq clips'"),
        (f"{SAMPLE} --given {{made}}/two --out {{tmp}}/o", "no video in split 'test'; it has"),
        (f"{SAMPLE} --given {{made}}/clips --out {{tmp}}/o", "this tokenizer is not causal"),
        (f"{SAMPLE} --actions {{tmp}}/none.npy --out {{tmp}}/o", "prior was trained without a"),
        (f"{SAMPLE} --class up --out {{tmp}}/o", "is not one of the prior's 2 classes"),
        (f"video-vq continue {{tmp}}/none.mp4 {MODELS} --out {{tmp}}/o.mp4",
         "TMP/none.mp4: no such file"),
        (f"video-vq continue {{made}}/in.mp4 {MODELS} --out {{tmp}}/o.gif", "a video ends in .mp4"),
        ("video-vq reconstruct {made}/in.mp4 {tmp}/o.mp4 --tokenizer {made}/p",
         "expected a tokenizer written by video-vq"),
        ("video-vq reconstruct {made}/in.mp4 {tmp}/o.txt --tokenizer {made}/t", "a video ends in"),
        (f"{TRAIN} --data {{made}}/one --out {{tmp}}/o", "holds no manifest.json"),
        (f"{TRAIN} --data {{made}}/test-only --out {{tmp}}/o", "no video in split 'train'"),
        ("video-vq train-prior --config tiny --tokens {made}/test-tokens --out {tmp}/o",
         "no tokens of split 'train'; it has test"),
        # clips that are too short, too few, too small or not there
        ("video-vq encode {made}/short --tokenizer {made}/t --out {tmp}/o",
         "no video is as long as a clip of this tokenizer"),
        (f"{EVALUATE} --split test --num 1 --out {{tmp}}/o", "needs at least 2 clips, found 1"),
        (f"{OTHER}/small",
         "MADE/small, split test: FVD needs at least 2 clips"),
        (f"{OTHER}/two",
         "no video in split 'test'"),
        (f"{OTHER}/short",
         "has the 4 frames of a clip"),
        (f"{EVALUATE} --samples {{made}}/short --out {{tmp}}/o", "MADE/short: no video of split"),
        (f"{EVALUATE} --samples {{made}}/large --out {{tmp}}/o", "frames of (32, 32)"),
        (f"{EVALUATE} --protocol larp --out {{tmp}}/o",
         "'larp' scores 16 frames, found clips of 4"),
        (f"{EVALUATE} --tokens {{made}}/other-tokens --out {{tmp}}/o", "belongs to the tokenizer"),
        (f"{EVALUATE} --tokens {{made}}/train-tokens --prior {{made}}/p --out {{tmp}}/o",
         "no tokens of split 'test'"),
        (f"{EVALUATE} --tokens {{made}}/test-tokens --prior {{made}}/p --out {{tmp}}/o",
         "no tokens of split 'train'"),
        (f"{EVALUATE} --tokens {{made}}/test-tokens --samples {{made}}/clips --controls "
         "--out {tmp}/o", "no tokens of split 'train'"),
        (f"{EVALUATE} --samples {{made}}/clips --generation bair-256 --out {{tmp}}/o",
         "bair-256: samples continue 1 given frame(s)"),
        (f"{EVALUATE} --samples {{made}}/clips --generation bear --out {{tmp}}/o", "'bear'"),
        # FVD of other people's videos
        (f"{FVD} {{made}}/short", "MADE/short: no video of split"),
        (f"{FVD} {{made}}/one", "MADE/one: FVD needs at least 2 clips"),
        (f"{FVD} {{made}}/clips --max-clips 1", "at least 2 clips"),
        (f"{FVD} {{made}}/clips --split tset", "no video in split"),
        ("video-vq fvd {made}/clips {made}/clips --frames 4 --protocol larp", "scores 16 frames"),
        (f"{FVD} {{made}}/foreign.safetensors", "features of the netw"),
        ("video-vq fvd {made}/clips {made}/saved.safetensors --frames 3 --protocol google",
         "clips of 4 frames"),
        (f"{FVD} {{made}}/single.safetensors", "single.safetensors: FVD needs at least 2 clips"),
        ("video-vq fvd {made}/long.safetensors {made}/long.safetensors",
         "the protocol needs"),
        ("video-vq fvd {made}/clips {made}/clips --save-real {tmp}/real.npz",
         "a file of features ends in .safetensors"),
        ("video-vq fvd {made}/clips {made}/clips --save-real {tmp}/none/real.safetensors",
         "there is no folder TMP/none"),
        # sheets
        ("data-prep verify {made}/tokens --sheet {tmp}/sheet.png", "which has no pictures"),
        ("data-prep verify {made}/clips --sheet {tmp}/none/sheet.png", "there is no folder"),
        ("data-prep stats {made}/clips --sheet {tmp}/none/sheet.png", "there is no folder"),
    ],
)  # fmt: skip
def test_a_wrong_input_costs_no_clip_and_no_network(refusal, monkeypatch, tmp_path, line, message):
    # Only what it takes to know the network's name: no weights are needed to be refused.
    for module in (feature_network, evaluation_setup):
        monkeypatch.setattr(module, "load_feature_network", lambda *_: named_i3d())
    assert message in refusal(line)
    left = {entry.name for entry in tmp_path.iterdir()} - {"cache"}
    assert not left


@pytest.mark.parametrize(
    ("line", "variable"),
    [
        (f"{EVALUATE} --out {{tmp}}/o", "VIDEO_VQ_I3D"),
        (f"{EVALUATE} --out {{tmp}}/o --st-lpips", "VIDEO_VQ_STLPIPS"),
        (f"{FVD} {{made}}/clips", "VIDEO_VQ_I3D"),
        ("video-vq train-tokenizer --config demo/tokenizer --data {made}/large --out {tmp}/o "
         "loss.perceptual.weight=1 data.num_frames=4", "VIDEO_VQ_STLPIPS"),
    ],
)  # fmt: skip
def test_missing_weights_cost_no_clip_and_no_network(
    refusal, monkeypatch, tmp_path, line, variable
):
    for name in ("VIDEO_VQ_I3D", "VIDEO_VQ_STLPIPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    error = refusal(line)
    assert "are missing; fetch them once with `video-vq doctor" in error
    assert variable in error
    assert not (tmp_path / "o").exists()


def test_frames_too_small_for_st_lpips_cost_no_clip_and_no_network(refusal, monkeypatch):
    from video_vq.evaluation import evaluate
    from video_vq.metrics.perceptual import StLpips

    network = StLpips("alex")
    monkeypatch.setattr(evaluate, "load_st_lpips", lambda trunk: network)
    error = refusal(f"{EVALUATE} --out {{tmp}}/o --st-lpips")
    assert "needs frames of at least 21 x 21 pixels, found 16 x 16; leave --st-lpips out" in error


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
@pytest.mark.parametrize(
    "line",
    [
        "video-vq reconstruct {made}/in.mp4 {tmp}/o$ --tokenizer {made}/t",
        f"video-vq continue {{made}}/in.mp4 {MODELS} --out {{tmp}}/o$",
    ],
)
def test_an_encoder_that_is_missing_costs_no_frame(refusal, monkeypatch, line, suffix):
    def none(name: str, mode: str) -> None:
        raise ValueError(name)  # as av.codec.codec.UnknownCodecError is

    monkeypatch.setattr(av, "Codec", none)
    assert f"TMP/o{suffix}: the FFmpeg of the installed PyAV has no" in refusal(
        line.replace("$", suffix)
    )


def test_samples_need_the_encoder_of_their_mp4s(refusal, monkeypatch):
    assert issubclass(UnknownCodecError, ValueError)
    with pytest.raises(ValueError, match="no-such-encoder"):
        av.Codec("no-such-encoder", "w")
    monkeypatch.setattr(av, "Codec", lambda *_: (_ for _ in ()).throw(ValueError()))
    assert "has no encoder 'libx264', which .mp4 needs" in refusal(f"{SAMPLE} --out {{tmp}}/o")


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
@pytest.mark.parametrize(
    "line",
    [
        "video-vq train-tokenizer --config demo/tokenizer --data {made}/clips",
        "video-vq train-prior --config tiny --tokens {made}/tokens",
    ],
)
def test_a_tracker_that_is_missing_costs_no_step(refusal, monkeypatch, tmp_path, line, tracker):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    error = refusal(f"{line} --out {{tmp}}/o --tracker {tracker}")
    assert f"--tracker {tracker}: not installed; `pip install {tracker}`" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("video-vq decode {made}/tokens --tokenizer {made}/t --out {tmp}/o", 4 * 4 * 16 * 16 * 3),
        (f"{SAMPLE} --num 5 --out {{tmp}}/o", 5 * 4 * 16 * 16 * 3),
    ],
)
def test_a_disk_that_is_too_small_costs_no_network(refusal, monkeypatch, line, size):
    def usage(path: Path) -> tuple[int, int, int]:
        return shutil._ntuple_diskusage(1 << 30, 0, size - 1)

    monkeypatch.setattr("video_vq.stores.places.shutil.disk_usage", usage)
    assert f"will take {size / 1e9:.3g} GB, its disk has" in refusal(line)


def test_a_full_disk_and_a_read_only_one_are_refused_and_a_finished_store_is_not(
    made, tmp_path, monkeypatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("video_vq.stores.places.tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match=r"No space left on device\); free some space or"):
        require_out(tmp_path / "a" / "b", {})
    require_out(made / "clips", {})  # nothing is written there


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/out", "loop", "loop/out"])
def test_a_place_that_cannot_be_looked_at_ends_in_no_traceback(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    require_out(tmp_path / name, {"store": tmp_path})
    with pytest.raises(InputError, match="is not a writable folder"):
        acquire(tmp_path / name)
    assert os.listdir(tmp_path) == ["loop"]


@pytest.mark.parametrize(
    "line",
    [
        "video-vq reconstruct {made}/in.mp4 {tmp}/a/b/out.mp4 --tokenizer {made}/p",
        "video-vq continue {made}/in.mp4 --prior {made}/p --tokenizer {made}/p --out {tmp}/a/o.mp4",
    ],
)
def test_a_video_that_is_refused_leaves_no_folder(refusal, tmp_path, line):
    assert "MADE/p" in refusal(line)
    assert not list(tmp_path.iterdir())


def test_looking_at_a_place_leaves_no_trace(tmp_path):
    require_out(tmp_path / "a" / "b", {"store": tmp_path})
    assert not list(tmp_path.iterdir())
