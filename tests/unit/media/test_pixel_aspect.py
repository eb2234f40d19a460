"""Tests that videos with non-square pixels are prepared with square pixels."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from data_prep.cli import main
from video_vq.media.probe import probe
from video_vq.media.resize import crop_box, resize
from video_vq.stores.clips import ClipStore

HEIGHT, WIDTH, RADIUS = 96, 120, 36


def write_disc(path: Path, aspect: Fraction | None, degrees: int = 0) -> np.ndarray:
    """Write a video of a disc that is round if pixels are `aspect` times as wide as high.

    Players show the video rotated by `degrees`. The stored frame is returned.
    """
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    across = (x - WIDTH / 2) * float(aspect or 1)
    inside = np.hypot(y - HEIGHT / 2, across) < RADIUS
    frame = np.where(inside[..., None], 220, 40).astype(np.uint8).repeat(3, -1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4", "threads": "1"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if degrees:
            stream.set_display_rotation(degrees)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return frame


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize(
    ("aspect", "degrees", "shown"),
    [
        (None, 0, 1),
        (Fraction(1), 0, 1),
        (Fraction(4, 3), 0, Fraction(4, 3)),
        (Fraction(8, 9), 0, Fraction(8, 9)),
        (Fraction(4, 3), 90, Fraction(3, 4)),
        (Fraction(4, 3), 180, Fraction(4, 3)),
        (Fraction(8, 9), 270, Fraction(9, 8)),
    ],
)
def test_a_disc_is_round_in_the_store(tmp_path, aspect, degrees, shown, decoder):
    if decoder == "decord":
        pytest.importorskip("decord")
    (tmp_path / "videos").mkdir()
    write_disc(tmp_path / "videos" / "disc.mp4", aspect, degrees)
    assert probe(tmp_path / "videos" / "disc.mp4").pixel_aspect == shown
    command = ["folder", str(tmp_path / "videos"), "--out", str(tmp_path / "store")]
    assert main([*command, "--size", "64", "--decoder", decoder, "--workers", "1"]) == 0
    disc = ClipStore(tmp_path / "store").read(0)[0, ..., 1] > 130
    high, wide = disc.any(1).sum(), disc.any(0).sum()
    assert abs(int(high) - int(wide)) <= 1
    assert abs(disc.sum() / (np.pi * high * wide / 4) - 1) < 0.03


def test_an_aspect_that_no_film_has_is_not_believed(tmp_path):
    for aspect in (Fraction(50, 1), Fraction(41, 10), Fraction(10, 41)):
        write_disc(tmp_path / "ribbon.mp4", aspect)
        assert probe(tmp_path / "ribbon.mp4").pixel_aspect == 1
    for aspect in (Fraction(4), Fraction(1, 4)):
        write_disc(tmp_path / "wide.mp4", aspect, 90)
        assert probe(tmp_path / "wide.mp4").pixel_aspect == 1 / aspect


@pytest.mark.parametrize(
    ("aspect", "box"),
    [
        (1, (20.0, 0.0, 100.0, 80.0)),
        (Fraction(2), (40.0, 0.0, 80.0, 80.0)),
        (Fraction(1, 2), (0.0, 10.0, 120.0, 70.0)),
    ],
)
def test_the_box_has_the_targets_proportions_as_it_is_shown(aspect, box):
    assert crop_box((80, 120), (64, 64), aspect) == pytest.approx(box)
    left, top, right, bottom = box
    assert (right - left) * aspect == bottom - top


def test_frames_of_the_targets_size_are_scaled_when_their_pixels_are_not_square():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert resize(frames, (32, 32)) is frames
    assert not np.array_equal(resize(frames, (32, 32), Fraction(4, 3)), frames)
