"""Tests of written videos, images, animations and grids."""

import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from video_vq.errors import InputError
from video_vq.media.encode import LABEL_HEIGHT, tile, write_animation, write_png, write_video


def moving_gradient(num_frames=9, height=48, width=64, step=4):
    """Return smooth frames that grow redder, on which every codec has small losses."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    return np.stack([step * t + x + y, 200 - x, 60 + 2 * y], axis=-1).clip(0, 255).astype(np.uint8)


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(stream)]
        return np.stack(pictures), rate, stream.codec_context.name, stream.codec_context.codec_tag


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "h264"),
        ("clip.mkv", "h264"),
        ("clip.avi", "mpeg4"),
        ("clip.webm", "vp9"),
        ("CLIP.MP4", "h264"),
    ],
)
def test_a_written_video_comes_back_with_its_frames_size_and_rate(tmp_path, name, codec):
    frames = moving_gradient()
    write_video(tmp_path / name, frames, fps=25)
    back, rate, found_codec, _ = decoded(tmp_path / name)
    assert (back.shape, rate, found_codec) == (frames.shape, 25, codec)
    for picture, original in zip(back.astype(int), frames.astype(int), strict=True):
        assert np.abs(picture - original).mean() < 3  # frames in order: they differ by 4 per step


def test_an_avi_is_what_xvid_writes(tmp_path):
    write_video(tmp_path / "clip.avi", moving_gradient(), fps=25)
    assert decoded(tmp_path / "clip.avi")[2:] == ("mpeg4", "XVID")


def test_a_single_frame_is_a_video(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_gradient(num_frames=1), fps=5)
    assert decoded(tmp_path / "clip.mp4")[0].shape == (1, 48, 64, 3)


@pytest.mark.parametrize(
    ("fps", "rate"), [(29.97, Fraction(30000, 1001)), (12.5, Fraction(25, 2)), (24, 24)]
)
def test_a_rate_is_kept_as_its_fraction(tmp_path, fps, rate):
    write_video(tmp_path / "clip.avi", moving_gradient(), fps=fps)
    assert decoded(tmp_path / "clip.avi")[1] == rate


@pytest.mark.parametrize("name", ["clip.avi", "clip.webm"])
def test_the_same_frames_give_the_same_bytes(tmp_path, name):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / name, frames, fps=25)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_better_quality_is_nearer_to_the_frames_and_larger(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8).repeat(2, 0)
    errors, sizes = [], []
    for quality in (40, 10):
        path = tmp_path / f"{quality}.mp4"
        write_video(path, frames, fps=25, quality=quality)
        errors.append(np.square(decoded(path)[0].astype(float) - frames).mean())
        sizes.append(path.stat().st_size)
    assert errors[0] > errors[1]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("clip.mov", {}, "ends in .mp4"),
        ("clip", {}, "ends in .mp4"),
        ("clip.webm", {"codec": "h264"}, "holds vp9"),
        ("clip.mp4", {"quality": 52}, "0..51"),
        ("clip.avi", {"quality": 0}, "1..31"),
        ("clip.mp4", {"fps": float("nan")}, "between 0.1 and 1000"),
        ("clip.mp4", {"fps": 0}, "between 0.1 and 1000"),
    ],
)
def test_a_wrong_setting_is_an_input_error_that_leaves_no_file(tmp_path, name, arguments, message):
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / name, moving_gradient(), **{"fps": 25, **arguments})
    assert not list(tmp_path.iterdir())


def test_an_odd_size_is_refused_with_its_numbers(tmp_path):
    with pytest.raises(InputError, match="found 47x64"):
        write_video(tmp_path / "clip.mp4", moving_gradient(height=47), fps=25)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_video(path, moving_gradient(), fps=25)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_png_comes_back_exactly(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    write_png(tmp_path / "image.png", image)
    with Image.open(tmp_path / "image.png") as opened:
        assert np.array_equal(np.asarray(opened), image)


def test_a_png_that_is_not_called_so_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.png"):
        write_png(tmp_path / "image.jpg", moving_gradient()[0])


@pytest.mark.parametrize("name", ["clip.webp", "clip.gif"])
def test_an_animation_plays_all_frames_forever_at_its_rate(tmp_path, name):
    frames = moving_gradient(height=47, step=16)  # WebP merges frames that hardly differ
    write_animation(tmp_path / name, frames, fps=25)
    with Image.open(tmp_path / name) as opened:
        assert opened.info["loop"] == 0
        pictures, durations = [], []
        for picture in ImageSequence.Iterator(opened):
            pictures.append(np.asarray(picture.convert("RGB")))
            durations.append(picture.info["duration"])  # set when the picture is decoded
    assert durations == [40] * len(frames)
    for picture, original in zip(pictures, frames.astype(int), strict=True):
        assert np.abs(picture - original).mean() < 6


def test_an_animation_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.webp or \.gif"):
        write_animation(tmp_path / "clip.apng", moving_gradient(), fps=25)
    with pytest.raises(InputError, match=r"0\.\.100"):
        write_animation(tmp_path / "clip.webp", moving_gradient(), fps=25, quality=101)


def test_a_grid_holds_each_clip_at_its_place_enlarged_pixel_by_pixel():
    clips = list(np.random.default_rng(0).integers(0, 256, (5, 2, 4, 6, 3), np.uint8))
    grid = tile(clips, columns=3, gap=1, scale=2)
    assert grid.shape == (2, 2 * (1 + 8) + 2, 3 * (1 + 12) + 1, 3)  # 19 rows padded to 20
    covered = np.zeros(grid.shape, bool)
    for place, clip in enumerate(clips):
        y, x = 1 + place // 3 * 9, 1 + place % 3 * 13
        cell = (slice(None), slice(y, y + 8), slice(x, x + 12))
        for dy in range(2):
            for dx in range(2):
                assert np.array_equal(grid[cell][:, dy::2, dx::2], clip)
        covered[cell] = True
    assert (grid[~covered] == 255).all()


def test_labels_stand_above_their_clips_and_change_none_of_them():
    clips = list(np.random.default_rng(0).integers(0, 256, (2, 2, 32, 40, 3), np.uint8))
    grid = tile(clips, columns=2, gap=2, labels=["PushLeft", ""])
    top = 2 + LABEL_HEIGHT
    assert np.array_equal(grid[:, top : top + 32, 2:42], clips[0])
    assert np.array_equal(grid[:, top : top + 32, 44:84], clips[1])
    assert (grid[:, 2:top, 2:42] < 100).any()
    assert (grid[:, 2:top, 44:84] == 255).all()


def test_a_grid_of_unlike_clips_or_labels_is_refused():
    clips = [moving_gradient(), moving_gradient(num_frames=8)]
    with pytest.raises(ValueError, match="one shape"):
        tile(clips, columns=2)
    with pytest.raises(ValueError, match="1 labels for 2 clips"):
        tile([clips[0], clips[0]], columns=2, labels=["a"])


def test_importing_the_writers_loads_neither_av_nor_pillow():
    code = (
        "import sys, video_vq.media.encode\n"
        "assert not {'av', 'PIL', 'torch'} & set(sys.modules), 'loaded at import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
