"""Tests that both decoders return all stored frames upright, or a reason why not."""

import importlib.util
import os
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import audio_only, cut, encode, scene

from video_vq.errors import InputError
from video_vq.media import decode
from video_vq.media.decode import Decoder, FirstFrames, FrameStream, require_decoder
from video_vq.media.probe import Limits, UnreadableVideoError, probe

HAS_DECORD = importlib.util.find_spec("decord") is not None
DECODERS = [
    "pyav",
    pytest.param("decord", marks=pytest.mark.skipif(not HAS_DECORD, reason="no wheel here")),
]
pytestmark = pytest.mark.parametrize("decoder", DECODERS)


def decoded(path: Path, decoder: Decoder) -> np.ndarray:
    return np.stack(list(FrameStream(probe(path), decoder)))


def simply_decoded(path: Path) -> np.ndarray:
    """Return frames from a plain PyAV loop, correct for upright 4:2:0 videos with even sizes."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


LOSSY = {
    "XviD without B-frames": ("a.avi", "mpeg4", {"qmin": "2", "qmax": "2"}),
    "XviD with B-frames": ("a.avi", "mpeg4", {"qmin": "2", "qmax": "2", "bf": "2"}),
    "h264 with B-frames": ("a.mp4", "libx264", {"crf": "12"}),
    "h264 in matroska": ("a.mkv", "libx264", {"crf": "12", "bf": "3"}),
    "vp9": ("a.webm", "libvpx-vp9", {"crf": "10", "b": "0", "cpu-used": "8"}),
    "mpeg2": ("a.mpg", "mpeg2video", {"qmin": "2", "qmax": "2"}),
    "mpeg2 in a transport stream": ("a.ts", "mpeg2video", {"qmin": "2", "qmax": "2"}),
    "motion jpeg": ("a.avi", "mjpeg", {"qmin": "2", "qmax": "2"}),
    "msmpeg4": ("a.avi", "msmpeg4", {"qmin": "2", "qmax": "2"}),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_every_frame_comes_out_once_and_in_order(tmp_path, decoder, kind):
    name, codec, options = LOSSY[kind]
    frames = scene(29, 64, 96)
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(tmp_path / name, frames, codec, pix_fmt, options)
    found = decoded(path, decoder)
    assert found.dtype == np.uint8
    assert np.array_equal(found, simply_decoded(path))
    distance = np.abs(found[:, None].astype(np.int16) - frames).mean(axis=(2, 3, 4))
    assert distance.argmin(axis=1).tolist() == list(range(29))


@pytest.mark.parametrize("kind", LOSSY)
def test_the_first_frames_and_what_is_known_of_a_video_come_in_one_pass(tmp_path, decoder, kind):
    name, codec, options = LOSSY[kind]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(tmp_path / name, scene(29, 64, 96), codec, pix_fmt, options)
    expected, info = decoded(path, decoder), probe(path)
    for count in (1, 16, 40):
        first = FirstFrames(path, count)
        assert np.array_equal(np.stack(list(first)), expected[:count])
        assert first.info == info


def test_a_lossless_video_comes_back_bit_for_bit_at_an_odd_size(tmp_path, decoder):
    frames = scene(9, 61, 83)
    path = encode(tmp_path / "a.mov", frames, "png", "rgb24")
    assert np.array_equal(decoded(path, decoder), frames)


@pytest.mark.parametrize("height", [61, 62])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_colours_do_not_depend_on_the_decoder(tmp_path, decoder, height, pix_fmt):
    path = encode(tmp_path / "a.mkv", scene(5, height, 83), "ffv1", pix_fmt)
    assert np.array_equal(decoded(path, decoder), decoded(path, "pyav"))


def test_grey_is_grey_whatever_the_chroma_sampling(tmp_path, decoder):
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (len(levels), 35, 45, 3)).copy()
    for pix_fmt in ("yuv420p", "yuv444p"):
        path = encode(tmp_path / f"{pix_fmt}.mkv", frames, "ffv1", pix_fmt)
        assert np.abs(decoded(path, decoder).astype(int) - frames).max() <= 2


# set_display_rotation turns counterclockwise, then flips; so does this.
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
def test_pictures_are_turned_upright_by_the_display_matrix(
    tmp_path, decoder, degrees, hflip, vflip
):
    frames = scene(4, 34, 52)
    path = encode(tmp_path / "a.mov", frames, "png", "rgb24", rotation=(degrees, hflip, vflip))
    plain = simply_decoded(path)
    assert np.array_equal(plain, frames)
    upright = np.rot90(plain, degrees // 90, axes=(1, 2))
    upright = upright[:, :, ::-1] if hflip else upright
    upright = upright[:, ::-1] if vflip else upright
    assert probe(path).size_hw == upright.shape[1:3]
    assert np.array_equal(decoded(path, decoder), upright)
    assert np.array_equal(np.stack(list(FirstFrames(path, 4))), upright)


def test_a_picture_turned_by_less_than_a_quarter_is_refused(tmp_path, decoder):
    path = encode(tmp_path / "a.mov", scene(3, 32, 32), "png", "rgb24", rotation=(30, False, False))
    with pytest.raises(UnreadableVideoError, match="rotated by 330 degrees; only quarter turns"):
        decoded(path, decoder)


def test_a_variable_rate_keeps_every_frame_and_its_time(tmp_path, decoder):
    times = [0, 40, 80, 500, 520, 1500, 1540]
    frames = scene(len(times), 32, 48)
    path = encode(tmp_path / "a.mkv", frames, "ffv1", "bgr0", times=times)
    info = probe(path)
    assert info.timestamps is not None
    assert [round(stamp * info.time_base * 1000) for stamp in info.timestamps] == times
    assert np.array_equal(decoded(path, decoder), frames)


def test_a_video_of_one_frame_is_a_video(tmp_path, decoder):
    frames = scene(1, 32, 48)
    path = encode(tmp_path / "a.mkv", frames, "ffv1", "bgr0")
    assert probe(path).num_packets == 1
    assert np.array_equal(decoded(path, decoder), frames)


def test_what_the_header_says_is_read_but_not_believed(tmp_path, decoder):
    path = encode(tmp_path / "a.avi", scene(20, 32, 48), options={"bf": "2"})
    data = path.read_bytes()
    # AVI: total frames in the main header, length in the stream's.
    main, stream = data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32
    for position in (main, stream):
        assert data[position : position + 4] == (20).to_bytes(4, "little")
        data = data[:position] + (50_000).to_bytes(4, "little") + data[position + 4 :]
    path.write_bytes(data)
    info = probe(path)
    assert info.claimed_frames == 50_000
    assert (info.num_packets, info.codec, info.fps, info.size_hw) == (20, "mpeg4", 25.0, (32, 48))
    assert len(decoded(path, decoder)) == 20


def hls_playlist(path: Path) -> None:
    part = encode(path.with_name("part.ts"), scene(3, 32, 32), "mpeg2video")
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{part}\n#EXT-X-ENDLIST\n")


REFUSALS = {
    "text": ("a.mp4", lambda path: path.write_text("hello\n" * 99), "not a video file"),
    "empty": ("a.mp4", lambda path: path.write_bytes(b""), "not a video file"),
    "missing": ("a.mp4", lambda path: None, "no such file"),
    "folder": ("a.mp4", lambda path: path.mkdir(), "not a video file"),
    "audio": ("a.mp4", audio_only, "holds no video track"),
    "playlist of other files": ("a.mp4", hls_playlist, "not a video file"),
    "script of other files": (
        "a.mp4",
        lambda path: path.write_text("ffconcat version 1.0\nfile 'part.ts'\n"),
        "not a video file",
    ),
    "cut avi": (
        "a.avi",
        lambda path: cut(encode(path, scene(60, 64, 64)), 0.8),
        r"cut off or damaged: packet \d+ is incomplete",
    ),
    "cut mp4": (
        "a.mp4",
        lambda path: cut(encode(path, scene(30, 64, 64), "libx264"), 0.6),
        "not a video file",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_is_no_whole_video_is_refused_with_the_reason(tmp_path, decoder, refusal):
    name, make, reason = REFUSALS[refusal]
    path = tmp_path / name
    make(path)
    with pytest.raises(UnreadableVideoError, match=reason) as caught:
        decoded(path, decoder)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    with pytest.raises(UnreadableVideoError, match=reason):
        list(FirstFrames(path, 4))  # even where these are whole


def test_a_picture_that_changes_its_size_is_refused(tmp_path, decoder):
    path = tmp_path / "a.ts"
    parts = [
        encode(tmp_path / f"{side}.ts", scene(30, side, side), "mpeg2video") for side in (64, 96)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    changed = "changes its size from 64x64 to 96x96"
    with pytest.raises(UnreadableVideoError, match=changed):
        decoded(path, decoder)
    with pytest.raises(UnreadableVideoError, match=changed):
        list(FirstFrames(path, 40))


def test_limits_refuse_a_video_before_it_is_decoded(tmp_path, decoder):
    path = encode(tmp_path / "a.mp4", np.zeros((60, 512, 512, 3), np.uint8), "libx264")
    assert path.stat().st_size < 20_000
    with pytest.raises(UnreadableVideoError, match="is 512x512, more than 250000 pixels"):
        probe(path, Limits(max_pixels=250_000))
    with pytest.raises(UnreadableVideoError, match="more than 59 frames"):
        probe(path, Limits(max_frames=59))
    with pytest.raises(UnreadableVideoError, match="more than 59 frames"):
        list(FirstFrames(path, 1, Limits(max_frames=59)))
    with pytest.raises(UnreadableVideoError, match=r"would decode to 47,185,920 \(60 frames of"):
        probe(path, Limits(max_decoded_bytes=1 << 20, max_expansion=1000))
    assert probe(path, Limits(max_decoded_bytes=50 << 20)).decoded_bytes == 47_185_920
    assert len(decoded(path, decoder)) == 60


def test_a_video_that_lasts_for_ever_is_refused_by_its_time_stamps(tmp_path, decoder):
    path = encode(tmp_path / "a.mkv", scene(3, 32, 48), "ffv1", "bgr0", times=[0, 40, 90_000_000])
    with pytest.raises(UnreadableVideoError, match="lasts 90,000 s by its time stamps, more than"):
        decoded(path, decoder)
    assert len(list(FrameStream(probe(path, Limits(max_duration_seconds=90_001))))) == 3


def test_the_cap_on_decoded_bytes_holds_while_decoding_too(tmp_path, decoder):
    path = encode(tmp_path / "a.avi", scene(10, 64, 64))
    info = probe(path)
    limits = Limits(max_decoded_bytes=5 * 64 * 64 * 3, max_expansion=0)
    frames = FrameStream(info, decoder, limits)
    with pytest.raises(UnreadableVideoError, match="decodes to more than"):
        list(frames)
    assert frames.num_frames == 6


def test_files_are_closed_even_when_only_some_frames_are_taken(tmp_path, decoder):
    path = encode(tmp_path / "a.avi", scene(10, 64, 64))

    def times_open() -> int:
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        return sum(os.path.exists(link) and os.path.samefile(link, path) for link in links)

    frames = iter(FrameStream(probe(path), decoder))
    next(frames)
    assert times_open() >= 1
    del frames
    assert times_open() == 0


def test_damage_is_counted_or_refused_and_never_more_than_that(tmp_path, decoder):
    if decoder == "decord":
        pytest.skip("decord may hang on damaged files: it is only given them in a worker")
    intact = encode(tmp_path / "a.avi", scene(24, 64, 64), options={"bf": "2"}).read_bytes()
    start = intact.index(b"movi")
    rng = np.random.default_rng(0)
    seen = {"refused": 0, "counted": 0, "unseen": 0}
    for _ in range(60):
        damaged = bytearray(intact)
        for position in rng.integers(start, len(intact), 6):
            damaged[position] ^= int(rng.integers(1, 256))
        path = tmp_path / "b.avi"
        path.write_bytes(damaged)
        try:
            frames = FrameStream(probe(path), decoder)
            assert all(frame.shape == (64, 64, 3) for frame in frames)
        except UnreadableVideoError:
            seen["refused"] += 1
        else:
            lost = frames.num_frames < frames.info.num_packets
            seen["counted" if frames.num_damaged or lost else "unseen"] += 1
    # A codec carries no checksum: some damage looks like a picture.
    assert seen["refused"] + seen["counted"] > 30
    frames = FrameStream(probe(encode(tmp_path / "c.avi", scene(24, 64, 64))), decoder)
    list(frames)
    assert frames.num_damaged == 0


def test_pyav_takes_over_where_decord_is_wrong_and_says_so(tmp_path, decoder):
    usual = encode(tmp_path / "a.avi", scene(9, 64, 64))
    odd = encode(tmp_path / "b.avi", scene(9, 63, 64))
    mirrored = encode(
        tmp_path / "c.mov", scene(9, 64, 64), "png", "rgb24", rotation=(0, True, False)
    )
    said = []
    for path in (usual, odd, mirrored):
        frames = FrameStream(probe(path), decoder)
        assert len(list(frames)) == 9
        said.append(frames.handed_over)
    first = "its first frame is not FFmpeg's"
    assert said == ([None, None, None] if decoder == "pyav" else [None, first, first])


def test_a_frame_that_is_lost_is_not_repeated_in_its_place(tmp_path, decoder):
    options = {"qmin": "2", "qmax": "2"}
    path = encode(tmp_path / "a.mkv", scene(150, 64, 96), "mpeg2video", options=options)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    position, size = packets[100]
    assert position is not None
    begin = position + 6  # past the head of the block
    data = path.read_bytes()
    path.write_bytes(data[:begin] + bytes(size) + data[begin + size :])
    expected = simply_decoded(path)
    assert len(expected) < 150
    frames = FrameStream(probe(path), decoder)
    found = np.stack(list(frames))
    # decord goes on where it can, and PyAV from there: no frame comes twice, none anew.
    assert np.array_equal(found, expected)
    assert not any(map(np.array_equal, found[1:], found[:-1]))
    could_not = "it could not decode a frame (DECORDLimitReachedError)"
    assert frames.handed_over == (None if decoder == "pyav" else could_not)


def test_a_missing_decord_is_named_before_any_work(monkeypatch, decoder):
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda _: None)
    require_decoder("pyav")
    with pytest.raises(InputError, match=r"published for Linux on x86-64 only.*--decoder pyav"):
        require_decoder("decord")


def test_a_codec_that_nobody_knows_is_refused(tmp_path, decoder):
    path = encode(tmp_path / "a.webm", scene(3, 32, 48), "libvpx")
    data = path.read_bytes()
    assert data.count(b"V_VP8") == 1
    path.write_bytes(data.replace(b"V_VP8", b"V_XX8"))
    with pytest.raises(UnreadableVideoError, match="uses a codec that FFmpeg does not know"):
        decoded(path, decoder)
