"""Tests that frame folders and arrays give the same pixels as video files, or one message."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from video_vq.cli.options import require_video
from video_vq.errors import InputError
from video_vq.evaluation.fvd_comparison import require_scorable
from video_vq.evaluation.scored_clip import Cut
from video_vq.media import array_files, finder
from video_vq.media.decode import FrameStream
from video_vq.media.finder import VideoFinder
from video_vq.media.folder import FolderSettings, list_videos
from video_vq.media.probe import UnreadableVideoError
from video_vq.media.reading import EXAMPLE_PATTERN, Reading
from video_vq.media.sources import probe_video
from video_vq.media.tree import Tree
from video_vq.metrics.protocol import PROTOCOLS

FRAMES = np.random.default_rng(0).integers(0, 256, (12, 16, 24, 3), dtype=np.uint8)


def frames_of(path: Path, **reading) -> np.ndarray:
    return np.stack(list(FrameStream(probe_video(path, Reading(**reading)))))


def refusal(path: Path, **reading) -> str:
    with pytest.raises(InputError) as error:
        frames_of(path, **reading)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_pictures(folder: Path, frames=FRAMES, name="frame_{}.png", first=1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("{}.png", "walk2_{:03d}.png"):  # 10 would come before 9 by its letters
        folder = write_pictures(tmp_path / name[:2], name=name, first=3)
        assert np.array_equal(frames_of(folder), FRAMES)
    lossless = tmp_path / "webp"
    lossless.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(lossless / f"{number}.webp", lossless=True)
    assert np.array_equal(frames_of(lossless), FRAMES)


def test_grey_palette_and_turned_pictures_are_shown_as_rgb(tmp_path):
    grey = Image.fromarray(FRAMES[0, ..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for name, picture, expected in (
        ("grey", grey, np.repeat(FRAMES[0, ..., :1], 3, 2)),
        ("palette", grey.convert("P"), np.repeat(FRAMES[0, ..., :1], 3, 2)),
        ("opaque", Image.fromarray(FRAMES[0]).convert("RGBA"), FRAMES[0]),
        ("turned", Image.fromarray(FRAMES[0]), np.rot90(FRAMES[0], -1)),
    ):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "0.png", exif=exif if name == "turned" else Image.Exif())
        assert np.array_equal(frames_of(tmp_path / name)[0], expected), name


def test_gaps_are_said_and_a_constant_step_is_none(tmp_path):
    folder = write_pictures(tmp_path / "a")
    (folder / "frame_5.png").unlink()
    told = "11 frames are numbered from 1 to 12, so 1 is missing; those that are there follow"
    assert told in probe_video(folder).notes[0]
    assert any(told in note for note in list_videos(tmp_path, FolderSettings()).notes)
    every_fifth = tmp_path / "b"
    every_fifth.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(every_fifth / f"{5 * number:05d}.png")
    assert probe_video(every_fifth).notes == ()


def test_a_pattern_tells_the_videos_of_a_flat_folder_apart(tmp_path):
    for video in (2, 10):
        write_pictures(tmp_path, FRAMES[: video + 1], f"video{video}_frame{{}}.png")
    write_pictures(tmp_path, FRAMES[:1], "sheet{}.png")
    with pytest.raises(InputError, match="holds 15 pictures itself, so it is one video"):
        list_videos(tmp_path, FolderSettings())
    pattern = r"(?P<video>.+)_frame(?P<frame>[0-9]+)\.png"
    found = list_videos(tmp_path, FolderSettings(reading=Reading(frame_names=pattern)))
    assert [video.name for video in found.videos] == ["video10", "video2"]
    assert "pictures that do not match --frame-names: 1" in found.notes
    for video, num_frames in zip(found.videos, (11, 3), strict=True):
        frames = frames_of(tmp_path / video.name, frame_names=pattern)
        assert np.array_equal(frames, FRAMES[:num_frames])
    assert "no picture's name matches" in refusal(tmp_path / "video3", frame_names=pattern)


def test_a_table_lists_a_folder_of_several_videos_once(tmp_path, monkeypatch):
    for video in range(4):
        write_pictures(tmp_path / "all", FRAMES[: video + 1], f"v{video}_frame{{}}.png")
    (tmp_path / "all" / "v1").mkdir()  # a folder beside them takes nothing from the video
    (tmp_path / "all" / "empty").mkdir()
    listed = []
    monkeypatch.setattr(finder, "Tree", lambda *asked: listed.append(asked) or Tree(*asked))
    found = VideoFinder(tmp_path, Reading(frame_names=EXAMPLE_PATTERN))
    for video in range(4):
        frames = (tmp_path / "all").glob(f"v{video}_*")
        assert found.add_named(f"all/v{video}") == sum(each.stat().st_size for each in frames)
    assert len(listed) == 1
    for name in ("all/empty", "all/v9"):
        assert found.add_named(name) == "no picture's name matches --frame-names"
    flat = VideoFinder(tmp_path, Reading(frame_names=r"(?P<frame>\d+)\.jpg"))
    assert flat.add_named("all/empty") == "no picture's name matches --frame-names"


def test_a_rate_that_no_video_needs_is_refused_wherever_it_can_be_given(tmp_path):
    """A video file states its own rate; for `fvd`, one side without a rate is enough."""
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream = file.add_stream("ffv1", rate=10, width=24, height=16, pix_fmt="bgr0")
        for frame in FRAMES:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode(None))
    told = "--source-fps is for frame folders and arrays, and none are taken from"
    with pytest.raises(InputError, match=told):
        list_videos(tmp_path, FolderSettings(reading=Reading(fps=25.0)))
    for option in (Reading(fps=25.0), Reading(layout="thwc"), Reading(frame_names=EXAMPLE_PATTERN)):
        with pytest.raises(InputError, match="none are taken from"):
            require_video(tmp_path / "a.avi", option)
    for name in ("b.avi", "c.avi"):
        (tmp_path / name).hardlink_to(tmp_path / "a.avi")
    write_pictures(tmp_path / "frames" / "0")
    write_pictures(tmp_path / "frames" / "1")
    chosen = ([PROTOCOLS["styleganv"]], Cut(16))
    with pytest.raises(InputError, match=told):
        require_scorable(tmp_path, [tmp_path], *chosen, reading=Reading(fps=25.0))
    require_scorable(tmp_path, [tmp_path / "frames"], *chosen, reading=Reading(fps=25.0))
    found = list_videos(tmp_path / "frames", FolderSettings(stand_in_fps=5.0))
    assert found.reading.fps == 5
    assert found.notes == ("frames and arrays state no rate: assumed 5 frames per second (--fps)",)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("1.png", "2.png", "1.jpg"), "not named alike"),
        (("a1_1.png", "a1_2.png", "a2_1.png"), "differ in 2 numbers"),
        (("1.png", "01.png", "2.png"), "are one frame"),
        (("a.txt",), "without png, jpg or webp pictures"),
    ],
)
def test_names_without_one_order_are_refused(tmp_path, names, told):
    for name in names:
        Image.fromarray(FRAMES[0]).save(tmp_path / name, "PNG")
    assert told in refusal(tmp_path)


def test_a_listing_counts_frames_and_keeps_none_of_their_names(tmp_path):
    folder = tmp_path / "videos" / "long"
    folder.mkdir(parents=True)
    target = tmp_path / "videos" / "long" / "000000.png"
    Image.fromarray(FRAMES[0]).save(target)
    peaks = []
    for count in (200, 1500):
        for number in range(count):
            if not (folder / f"{number:06d}.png").exists():
                (folder / f"{number:06d}.png").hardlink_to(target)
        tracemalloc.start()
        (video,) = list_videos(tmp_path / "videos", FolderSettings()).videos
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert video.num_bytes == count * target.stat().st_size
    assert peaks[1] < peaks[0] + 30_000


def made_png(width: int, height: int, bits: int = 8, kind: int = 2, rows: int = 0) -> bytes:
    """Return a black PNG of the given size, truncated to hardly any pixels if `rows` is 0."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(rows * (1 + 8 * width) or 100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def saved(frame: np.ndarray, form: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, form, **options)
    return file.getvalue()


def animated() -> bytes:
    others = [Image.fromarray(frame) for frame in FRAMES[1:3]]
    return saved(FRAMES[0], "PNG", save_all=True, append_images=others)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (made_png(10**9, 1), "1000000000x1, more than 35389440 pixels|than 35389440 pixels"),
        (made_png(8000, 4000), "0.png cannot be decoded"),
        (saved(FRAMES[0], "PNG")[:-200], "0.png cannot be decoded"),
        (saved(FRAMES[0], "JPEG")[:300], "0.png cannot be decoded"),
        (animated(), "0.png is animated; a frame is a still picture"),
        (b"not a picture", "0.png is no png, jpg or webp picture"),
        (b"", "0.png is no png, jpg or webp picture"),
        (saved(FRAMES[0], "GIF"), "0.png is no png, jpg or webp picture"),
        (saved(np.zeros((9, 9), np.uint16), "PNG"), "is of the mode I;16; save it as 8-bit"),
        (made_png(9, 9, 16, 2, rows=9), "0.png has 16 bits per channel; save it as 8-bit RGB"),
        (made_png(9, 9, 16, 6, rows=9), "0.png has 16 bits per channel; save it as 8-bit RGB"),
        (saved(np.zeros((9, 9, 4), np.uint8), "PNG"), "0.png is transparent"),
    ],
)
def test_a_hostile_picture_gets_one_sentence(tmp_path, data, told):
    (tmp_path / "0.png").write_bytes(data)
    found = refusal(tmp_path)
    assert any(part in found for part in told.split("|")), found


def test_links_and_pipes_among_frames_cost_their_video_alone(tmp_path):
    outside = write_pictures(tmp_path / "outside")
    for name in "abcd":
        write_pictures(tmp_path / "videos" / name)
    root = tmp_path / "videos"
    (root / "a" / "frame_13.png").symlink_to("frame_13.png")
    (root / "b" / "frame_13.png").symlink_to(outside / "frame_1.png")
    os.mkfifo(root / "c" / "frame_13.png")
    (root / "d" / "frame_13.png").symlink_to("frame_1.png")  # stays inside
    (root / "loop").symlink_to(root)
    found = list_videos(root, FolderSettings())
    assert [video.name for video in found.videos] == ["d"]
    reasons = {entry.name: entry.reason for entry in found.left_out}
    assert "a loop of links" in reasons["a"]
    assert "leads out of the folder" in reasons["b"]
    assert "is not a regular file" in reasons["c"]
    assert "is not a regular file" in refusal(root / "c")
    assert "a link to a folder is not followed" in reasons["loop"]


def test_a_frame_of_another_size_ends_the_video(tmp_path):
    folder = write_pictures(tmp_path / "a")
    Image.fromarray(FRAMES[0, :8]).save(folder / "frame_13.png")
    assert "changes its size from 24x16 to 24x8 at frame 12" in refusal(folder)


def test_video_files_come_before_pictures_and_these_before_arrays(tmp_path):
    write_pictures(tmp_path / "thumbs")
    np.save(tmp_path / "actions.npy", FRAMES)
    found = list_videos(tmp_path, FolderSettings())
    assert [video.name for video in found.videos] == ["thumbs"]
    (tmp_path / "a.mp4").touch()
    found = list_videos(tmp_path, FolderSettings())
    assert [video.name for video in found.videos] == ["a.mp4"]
    assert found.reading == Reading()
    assert (
        "beside the video files there are folders of pictures (1) and files of arrays (1)"
        in found.notes[0]
    )
    found = list_videos(tmp_path, FolderSettings(extensions=(".npy",)))
    assert [video.name for video in found.videos] == ["actions.npy"]


BATCH = np.stack([FRAMES, 255 - FRAMES])


@pytest.mark.parametrize("axes", ["bthwc", "btchw", "bcthw", "thwc", "tchw", "cthw", "hwtc"])
@pytest.mark.parametrize("form", ["npy", "npz", "packed.npz", "safetensors"])
def test_every_layout_and_file_gives_the_same_pixels(tmp_path, axes, form):
    batch = "b" in axes
    array = np.einsum(f"bthwc->{'b' if not batch else ''}{axes}", BATCH)
    array = np.ascontiguousarray(array if batch else array[0])
    path = tmp_path / f"x.{form}"
    if form == "npy":
        np.save(path, array)
    elif form == "npz":
        np.savez(path, labels=np.arange(3), video=array)
    elif form == "packed.npz":
        np.savez_compressed(path, video=array)
    else:
        save_file({"labels": np.arange(3), "video": array}, path)
    layout = None if axes in ("bthwc", "btchw", "bcthw", "thwc", "tchw", "cthw") else axes
    found = list_videos(path, FolderSettings(reading=Reading(layout=layout)))
    member = "" if form == "npy" else "video"
    places = [f"#{member}{':' if member else ''}{n}" for n in (0, 1)] if batch else [""]
    assert [video.name for video in found.videos] == [path.name + place for place in places]
    for number, video in enumerate(found.videos):
        assert np.array_equal(frames_of(tmp_path / video.name, layout=layout), BATCH[number])
        assert video.num_bytes == FRAMES.nbytes
    if batch:
        assert "holds 2 videos; name one, for example x." in refusal(path, layout=layout)
        assert "holds 2 videos, from 0 on" in refusal(tmp_path / f"{found.videos[0].name}7")


@pytest.mark.parametrize(
    ("values", "scale"),
    [("unit", lambda x: x / 255), ("signed", lambda x: x / 127.5 - 1), ("byte", lambda x: x)],
)
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_the_range_of_floats_is_found_over_all_arrays(tmp_path, values, scale, dtype):
    """A bright clip by itself would seem to be in [0, 1]; the other clip shows the true range."""
    bright = (FRAMES // 2 + 128).astype(np.uint8)
    for name, clip in (("0", FRAMES), ("1", bright)):
        np.save(tmp_path / f"{name}.npy", scale(clip.astype(np.float64)).astype(dtype))
    found = list_videos(tmp_path, FolderSettings())
    assert found.reading.values == values
    assert any(f"(--values {values})" in note for note in found.notes)
    for name, clip in (("0", FRAMES), ("1", bright)):
        read = frames_of(tmp_path / f"{name}.npy", values=values)
        assert np.array_equal(read, clip)


def test_values_that_no_range_holds_are_refused(tmp_path):
    for name, value, told in (
        ("over", 1.2, "in none of the ranges 0 to 1, -1 to 1 and 0 to 255; clip them"),
        ("nan", np.nan, "holds values that are not finite"),
    ):
        array = FRAMES / np.float32(255)
        array[3, 0, 0, 0] = value
        np.save(tmp_path / f"{name}.npy", array)
        assert told in refusal(tmp_path / f"{name}.npy")
        stated = refusal(tmp_path / f"{name}.npy", values="unit")
        assert "frame 3 holds values from" in stated


def npy_header(*shape: int) -> bytes:
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


class Bomb:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_hostile_arrays_get_one_sentence_and_nothing_is_unpickled(tmp_path):
    objects = np.empty(3, object)
    objects[:] = [Bomb()] * 3
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", video=objects)
    good = io.BytesIO()
    np.save(good, FRAMES)
    whole = good.getvalue()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    for name, shape in (("lie", (10**12, 16, 24, 3)), ("minus", (-12, 16, 24, 3))):
        (tmp_path / f"{name}.npy").write_bytes(npy_header(*shape) + FRAMES.tobytes())
    (tmp_path / "no.npy").write_bytes(b"\x93NUMPY\x01\x00\x20\x00{'descr': __import__('os')}")
    np.save(tmp_path / "int.npy", FRAMES.astype(np.int64))
    np.save(tmp_path / "empty.npy", FRAMES[:0])
    np.save(tmp_path / "flat.npy", FRAMES.reshape(-1))
    np.save(tmp_path / "both.npy", np.zeros((3, 3, 16, 16), np.uint8))
    (tmp_path / "no.npz").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "no.safetensors").write_bytes(b"\xff" * 20)
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Bomb()))
    for name, told in (
        ("objects.npy", "holds pickled objects, which are not read; save the frames as an array"),
        ("objects.npz", "holds pickled objects"),
        (
            "cut.npy",
            "is cut off, or its header is wrong: uint8 12 x 16 x 24 x 3 takes 13,824 bytes",
        ),
        ("lie.npy", "takes 1,152,000,000,000,000 bytes, 13,824 are there"),
        ("minus.npy", "is an array without frames"),
        ("no.npy", "is no readable npy file"),
        ("int.npy", "is of int64; videos are uint8, or floats"),
        ("empty.npy", "is an array without frames"),
        ("flat.npy", "uint8 13824 is in none of the layouts"),
        ("both.npy", "may be t c h w or c t h w: say which with --layout"),
        ("no.npz", "is no readable npz file"),
        ("no.safetensors", "is no readable safetensors file"),
        ("x.pt", "is a pickle, which may run any code when it is read, and is not opened"),
        ("gone.npy", "cannot be read (No such file"),
    ):
        assert told in refusal(tmp_path / name), name


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_CONTENT_BYTES", 10_000)
    np.savez_compressed(tmp_path / "bomb.npz", video=np.zeros((99, 64, 64, 3), np.uint8))
    assert "would unpack from" in refusal(tmp_path / "bomb.npz")
    np.savez_compressed(tmp_path / "short.npz", video=FRAMES)
    data = bytearray((tmp_path / "short.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "short.npz") as archive:
        place = archive.infolist()[0].header_offset + 200
    data[place : place + 50] = bytes(50)
    (tmp_path / "short.npz").write_bytes(data)
    assert "short.npz" in refusal(tmp_path / "short.npz")


def test_members_that_overlap_and_a_huge_directory_are_refused(tmp_path, monkeypatch):
    """Overlapping members would yield the same bytes as often as they are listed."""
    np.savez(tmp_path / "x.npz", a=FRAMES, b=FRAMES)
    data = (tmp_path / "x.npz").read_bytes()
    second = data.rindex(b"PK\1\2")  # its entry in the directory, with its place at byte 42
    (tmp_path / "over.npz").write_bytes(data[: second + 42] + bytes(4) + data[second + 46 :])
    assert "'b.npy' in it lies over another file" in refusal(tmp_path / "over.npz")
    monkeypatch.setattr(array_files, "MAX_DIRECTORY_BYTES", 50)
    assert "a directory of more than 50 bytes" in refusal(tmp_path / "x.npz")


def test_the_length_of_an_array_header_is_not_trusted(tmp_path):
    """A compressed member could state a 4 GB header, which NumPy would read before checking."""
    head = b"\x93NUMPY\x02\x00" + (1 << 22).to_bytes(4, "little")
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("video.npy", head + bytes(1 << 22))
    (tmp_path / "x.npy").write_bytes(head + bytes(1 << 22))
    for form in ("npy", "npz"):
        tracemalloc.start()
        told = refusal(tmp_path / f"x.{form}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "states a header of 4,194,304 bytes, more than 10,000" in told
        assert peak < 1 << 20
    with open(tmp_path / "2.npy", "wb") as file:
        np.lib.format.write_array(file, FRAMES, (2, 0))
    assert np.array_equal(frames_of(tmp_path / "2.npy"), FRAMES)


def test_a_folder_of_pickles_says_the_way_out(tmp_path):
    (tmp_path / "samples.pt").touch()
    with pytest.raises(
        InputError, match=r"pickles \(1 there\) are not opened: save the frames as an array"
    ):
        list_videos(tmp_path, FolderSettings())
    with pytest.raises(UnreadableVideoError, match="is a pickle"):
        probe_video(tmp_path / "samples.pt")
