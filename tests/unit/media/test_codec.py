"""Tests of clips after a codec: counted bits, rate limits and the choice of size."""

import io

import av
import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.media import codec
from video_vq.media.codec import CODECS, CodecName, available_codecs, code_clip, payload_bits

NAMES = available_codecs()


def moving_square(num_frames: int = 5, height: int = 64, width: int = 64) -> np.ndarray:
    clip = np.full((num_frames, height, width, 3), 90, np.uint8)
    rows, columns = np.mgrid[:height, :width]
    clip[:] = ((2 * rows + columns) % 200)[..., None]
    for t in range(num_frames):
        clip[t, 8:20, 4 + 3 * t : 18 + 3 * t] = (230, 215, 205)
    return clip


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


@pytest.mark.parametrize("name", NAMES)
def test_more_bits_are_never_exceeded_and_buy_a_closer_clip(name: CodecName):
    clip = moving_square(4, 32, 32)
    few, many = (code_clip(clip, name, bits) for bits in (1_500, 5_000))
    assert few.payload_bits <= 1_500 < many.payload_bits <= 5_000
    assert few.payload_bits < few.file_bits
    assert few.clip.shape == clip.shape
    assert psnr(many.clip, clip) > psnr(few.clip, clip) + 2 > 20


def test_where_a_codec_cannot_go_so_low_it_says_what_it_took():
    coded = code_clip(moving_square(), "h264", 8)
    assert coded.quality == CODECS["h264"].qualities[1]
    assert 8 < coded.payload_bits < 4_000


def test_few_bits_are_better_spent_on_fewer_pixels_and_many_on_all():
    random = np.random.default_rng(0)
    texture = random.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8).repeat(4, 0)
    assert code_clip(texture, "h264", 2_000).form.size_hw < (64, 64)
    assert code_clip(texture, "h264", 10**6).form.size_hw == (64, 64)


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_size_and_a_small_one_come_back_as_they_were(name: CodecName):
    clip = moving_square(3, 33, 47)
    coded = code_clip(clip, name, 10**6)
    assert coded.clip.shape == clip.shape
    assert psnr(coded.clip, clip) > 30


def test_the_payload_is_what_an_elementary_stream_holds_besides_headers():
    clip = moving_square()
    file = codec._encode(clip, "h264", 30, codec.Form((64, 64), "yuv420p"))
    with av.open(io.BytesIO(file), "r") as opened:
        to_annex_b = av.BitStreamFilterContext("h264_mp4toannexb", opened.streams.video[0])
        packets = [out for packet in opened.demux(video=0) for out in to_annex_b.filter(packet)]
    stream = b"".join(map(bytes, packets)).replace(b"\0\0\0\1", b"\0\0\1")
    units = [unit for unit in stream.split(b"\0\0\1") if unit]
    pictures = [unit for unit in units if unit[0] & 31 in (1, 5)]
    assert len(pictures) == len(clip)
    # Of the others the stream has parameter sets alone: what x264 says of itself is not written.
    assert {unit[0] & 31 for unit in units} <= {1, 5, 7, 8}
    # The start code ends in zeros, which belong to no unit.
    assert payload_bits(file, "h264") == 8 * sum(map(len, pictures))


def test_av1_units_are_told_apart_as_the_specification_says():
    # A temporal delimiter of 0 bytes, a sequence header of 3, a frame of 130 with two length bytes.
    packet = bytes([0x12, 0x00, 0x0A, 0x03, 1, 2, 3, 0x32, 0x82, 0x01, *range(130)])
    assert list(codec._obus(packet)) == [(2, 2), (1, 5), (6, 133)]


def test_a_codec_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(codec, "available_codecs", lambda: ())
    with pytest.raises(InputError, match="has no encoder 'libx264'; install PyAV's own wheel"):
        code_clip(moving_square(), "h264", 1000)


def test_the_same_clip_gives_the_same_bits_twice():
    clip = moving_square()
    assert code_clip(clip, "h264", 9_000)[1:] == code_clip(clip, "h264", 9_000)[1:]
