"""Tests that equal clips as lossless videos, frame folders and arrays give equal results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_videos import encode, scene
from PIL import Image
from safetensors.numpy import save_file

import data_prep.cli
import video_vq.cli
from data_prep.sources.table import list_table
from video_vq.errors import InputError
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.evaluation.fvd_comparison import FVDComparison
from video_vq.evaluation.scored_clip import Cut
from video_vq.media.folder import FolderSettings, list_videos
from video_vq.media.prepared import FrameRecipe, open_file
from video_vq.media.reading import Reading
from video_vq.metrics.protocol import PROTOCOLS
from video_vq.stores.clips import ClipStore

PROTOCOL = PROTOCOLS["styleganv"]
NUM_VIDEOS, NUM_FRAMES, FPS = 6, 34, 25
FORMS = ("lossless", "frames", "flat", "array.npy", "array.npz", "tensors.safetensors")
PATTERN = r"(?P<video>.+)_frame(?P<frame>[0-9]+)\.png"
RATED = ("--source-fps", str(FPS))


class Random(torch.nn.Module):
    """A small network with random weights, so that scores need no download."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv3d(3, 8, (4, 16, 16), (4, 16, 16))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.conv(video).tanh().mean((2, 3, 4)) * 10


def clips_of(seed: int) -> np.ndarray:
    clips = [scene(NUM_FRAMES, 48, 64, seed=10 * seed + number) for number in range(NUM_VIDEOS)]
    return np.stack(clips)


def write_forms(root: Path, clips: np.ndarray) -> None:
    for name in ("lossless", "flat"):
        (root / name).mkdir(parents=True)
    for number, clip in enumerate(clips):
        encode(root / "lossless" / f"{number}.avi", clip, "ffv1", "bgr0")
        folder = root / "frames" / f"{number}"
        folder.mkdir(parents=True)
        for place, frame in enumerate(clip):
            Image.fromarray(frame).save(folder / f"{place}.png")
            Image.fromarray(frame).save(root / "flat" / f"{number}_frame{place}.png")
    np.save(root / "array.npy", clips.transpose(0, 1, 4, 2, 3))
    np.savez_compressed(root / "array.npz", labels=np.arange(len(clips)), clips=clips)
    floats = (clips.transpose(0, 4, 1, 2, 3) / np.float32(127.5) - 1).astype(np.float32)
    save_file({"samples": np.ascontiguousarray(floats)}, root / "tensors.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("formats")
    for side, seed in (("real", 0), ("fake", 1)):
        write_forms(root / side, clips_of(seed))
    return root


def reading_of(form: str) -> Reading:
    if form == "lossless":
        return Reading()
    return Reading(fps=float(FPS), frame_names=PATTERN if form == "flat" else None)


def store_of(path: Path, out: Path, *options: str) -> ClipStore:
    flat = ("--frame-names", PATTERN) if path.name == "flat" else ()
    command = ["folder", str(path), "--out", str(out), "--val", "0", "--test", "0", *flat]
    assert data_prep.cli.main([*command, "--workers", "1", *options]) == 0
    return ClipStore(out)


@pytest.mark.parametrize("rate", [None, 12.5])
def test_fvd_does_not_depend_on_what_the_clips_come_as(made, tmp_path, rate):
    cut = Cut(16, 1, rate)
    network = FeatureNetwork(Random(), "random", "0" * 64, 8)

    def fvd(form: str) -> float:
        # No cache is shared: equal clips of two forms would be looked up, not computed.
        comparison = FVDComparison(
            network, [PROTOCOL], cut, cache=tmp_path / form, reading=reading_of(form)
        )
        sides = [made / side / form for side in ("real", "fake")]
        (score,) = comparison.scores(*comparison.read_all(sides[0], sides[1:]))["protocols"]
        return score["scores"][0]["fvd"]

    scores = {form: fvd(form) for form in FORMS}
    assert scores["lossless"] > 0.01
    for form, score in scores.items():
        assert score == pytest.approx(scores["lossless"], rel=1e-6), form


@pytest.mark.parametrize(("fps", "stride"), [(None, 1), (None, 3), (10.0, 1)])
def test_every_form_gives_the_same_frames_at_every_rate(made, fps, stride):
    listed = {}
    for form in FORMS:
        found = list_videos(made / "real" / form, FolderSettings(reading=reading_of(form)))
        recipe = FrameRecipe((32, 32), fps, stride, reading=found.reading)
        opened = [
            open_file(found.root / video.name, video.num_bytes, recipe, lambda *_: None)
            for video in found.videos
        ]
        assert {video.fps for video in opened} == {fps or FPS / stride}
        listed[form] = np.stack([np.concatenate(list(video.frames)) for video in opened])
    num_frames = {(None, 1): 34, (None, 3): 12, (10.0, 1): 14}[fps, stride]
    assert listed["lossless"].shape[:2] == (NUM_VIDEOS, num_frames)
    for form, pixels in listed.items():
        assert np.array_equal(pixels, listed["lossless"]), form


def test_stores_of_three_forms_hold_the_same_pixels(made, tmp_path, capsys):
    stores = {}
    for form in ("lossless", "frames", "array.npz"):
        rate = () if form == "lossless" else RATED
        options = ("--size", "32", "--fps", "10", *rate)
        store = store_of(made / "real" / form, tmp_path / form, *options)
        assert {video.fps for video in store.videos} == {10}
        stores[form] = np.stack([store.read(number) for number in range(NUM_VIDEOS)])
        assert np.array_equal(stores[form], stores["lossless"]), form
    said = capsys.readouterr().err
    assert "uint8 6 x 34 x 48 x 64 x 3 read as the axes b t h w c" in said
    assert "frames and arrays state no rate: assumed 25 frames per second (--source-fps)" in said


def test_a_store_of_the_clips_scores_as_they_do(made, tmp_path):
    """The clips have 16 frames, so that the first frame of a window cannot vary."""
    network = FeatureNetwork(Random(), "random", "0" * 64, 8)
    sides: dict[str, list[Path]] = {"store": [], "npy": []}
    for side in ("real", "fake"):
        short = tmp_path / side / "short.npy"
        short.parent.mkdir()
        np.save(short, np.load(made / side / "array.npy")[:, :16])
        sides["npy"].append(short)
        store_of(short, tmp_path / side / "store", "--size", "48x64")
        sides["store"].append(tmp_path / side / "store")
    scores = []
    for name, (real, fake) in sides.items():
        comparison = FVDComparison(network, [PROTOCOL], Cut(16), cache=tmp_path / name)
        found = comparison.scores(*comparison.read_all(real, [fake]))
        scores.append(found["protocols"][0]["scores"][0]["fvd"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_table_names_frame_folders_and_videos_of_arrays(made, tmp_path):
    root = made / "real"
    table = tmp_path / "videos.csv"
    table.write_text(
        "path,split\nframes/0,train\narray.npy#1,val\ntensors.safetensors#samples:2,test\n"
    )
    store = store_of(table, tmp_path / "store", "--root", str(root), "--size", "48x64")
    clips = clips_of(0)
    assert [video.split for video in store.videos] == ["train", "val", "test"]
    for number in range(3):
        assert np.array_equal(store.read(number), clips[number])
    table.write_text("path\narray.npy\narray.npy#9\nframes\n")
    with pytest.raises(InputError) as refused:
        list_table(table, root, FolderSettings())
    for told in (
        "line 2: 'array.npy': holds 6 videos; name one, for example array.npy#5",
        "line 3: 'array.npy#9': holds 6 videos, from 0 on",
        "line 4: 'frames': is a folder without png, jpg or webp pictures",
    ):
        assert told in str(refused.value)


def test_fvd_on_the_command_line_takes_an_array_and_says_how_it_was_read(made, tmp_path, capsys):
    sides = [str(made / side / "tensors.safetensors") for side in ("real", "fake")]
    network = ["--network", "test_formats:make_random"]
    assert video_vq.cli.main(["fvd", *sides, *network, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["real"]["num_clips"] == NUM_VIDEOS
    assert any("read as the axes b c t h w" in warning for warning in told["warnings"])
    assert any("(--values signed)" in warning for warning in told["warnings"])


def make_random() -> torch.nn.Module:
    """Return the network for `--network test_formats:make_random`."""
    return Random()


def test_info_and_view_know_frame_folders_and_arrays(made, tmp_path, capsys):
    for name, told in (
        ("frames/0", "the frames of a video"),
        ("frames", "a folder of videos"),
        ("array.npz", "arrays of videos"),
        ("array.npy", "arrays of videos"),
    ):
        assert video_vq.cli.main(["info", str(made / "real" / name)]) == 0
        assert told in capsys.readouterr().out
        page = tmp_path / f"{Path(name).name}.html"
        command = ["view", str(made / "real" / name), "--out", str(page), "--no-open"]
        assert video_vq.cli.main(command) == 0
        assert page.stat().st_size > 10_000
