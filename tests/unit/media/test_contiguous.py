"""Tests that all video readers return contiguous frames, even if a decoder pads rows."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from made_videos import encode

from video_vq.media.decode import Decoder, FirstFrames, FrameStream
from video_vq.media.file_decoders import decode
from video_vq.media.prepared import FrameRecipe
from video_vq.media.ranges import FrameRanges
from video_vq.media.resize import resize

HAS_DECORD = importlib.util.find_spec("decord") is not None
DECODERS: list[Decoder] = ["pyav", "decord"] if HAS_DECORD else ["pyav"]
WIDTHS = range(1, 261)
NUM_FRAMES, HEIGHT = 2, 2


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[int, tuple[Path, np.ndarray]]:
    """Return a lossless video and its frames, by width."""
    root = tmp_path_factory.mktemp("widths")
    made = {}
    for width in WIDTHS:
        rng = np.random.default_rng(width)
        frames = rng.integers(0, 256, (NUM_FRAMES, HEIGHT, width, 3), np.uint8)
        made[width] = encode(root / f"{width}.mov", frames, "png", "rgb24"), frames
    return made


def require_contiguous(found: list[np.ndarray], expected: np.ndarray, width: int) -> None:
    assert all(frame.flags.c_contiguous for frame in found), width
    assert np.array_equal(np.stack(found), expected), width


def test_every_reader_hands_on_contiguous_frames_of_every_width(videos):
    for width, (path, frames) in videos.items():
        ranges = FrameRanges(path)
        require_contiguous(list(ranges.frames(0, NUM_FRAMES)), frames, width)
        ranges.close()
        require_contiguous(list(FirstFrames(path, NUM_FRAMES)), frames, width)
        for decoder in DECODERS:
            require_contiguous(list(FrameStream(ranges.info, decoder)), frames, width)


@pytest.mark.parametrize("size_hw", [None, (4, 3)])
def test_a_worker_writes_the_frames_of_every_width_resized_or_not(videos, tmp_path, size_hw):
    raw = tmp_path / "frames"
    for width, (path, frames) in videos.items():
        recipe = FrameRecipe(size_hw or (HEIGHT, width)).to_json()
        job = {"path": str(path), "num_bytes": path.stat().st_size, "frames": str(raw)}
        expected = frames if size_hw is None else resize(frames, size_hw)
        # Where frames are scaled, the decoders take turns: this is Pillow's array, not theirs.
        for decoder in DECODERS if size_hw is None else [DECODERS[width % len(DECODERS)]]:
            decode({**job, "recipe": {**recipe, "decoder": decoder}}, lambda *_: None)
            assert raw.read_bytes() == expected.tobytes(), width
