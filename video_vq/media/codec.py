"""Encodes clips with H.264, HEVC or AV1 within a bit budget, as a baseline for tokenizers.

The best quality is found by bisection, at the original size of a clip and at smaller sizes.
"""

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.errors import InputError

CodecName = Literal["h264", "hevc", "av1"]
Clip = UInt8[np.ndarray, "t h w 3"]

SCALES = (0.5, 0.25)  # factors for height and width, by which clips are also scaled down
MIN_SIDE = 16  # pixels; smaller frames are padded
STEPS_PER_UNIT = 2  # qualities are tried in steps of 1/2
RATE = Fraction(25)


class CodecFacts(NamedTuple):
    """The names and options of one codec.

    Attributes:
        title: usual name of the codec.
        encoder: FFmpeg's name for the encoder.
        options: encoder options, tuned for a small squared error; the best form is chosen by the
            same criterion.
        qualities: best and worst quality (crf).
        pixels: pixel formats to try, with color at full size or at half the height and width.
        pictures: NAL or OBU types of coded pictures; all other types are headers.
        remarks: NAL types of supplemental information, which is removed from the file.
    """

    title: str
    encoder: str
    options: dict[str, str]
    qualities: tuple[int, int]
    pixels: tuple[str, ...]
    pictures: frozenset[int]
    remarks: tuple[int, ...] = ()


CODECS: dict[CodecName, CodecFacts] = {
    "h264": CodecFacts(
        "H.264", "libx264", {"preset": "veryslow", "tune": "psnr"},
        (0, 51), ("yuv444p", "yuv420p"), frozenset(range(1, 6)), (6,),
    ),
    "hevc": CodecFacts(
        "HEVC", "libx265",
        # cutree writes out of bounds for some frames below 64 pixels, and crashes the process.
        {"preset": "medium", "tune": "psnr", "x265-params": "log-level=none:info=0:cutree=0"},
        (0, 51), ("yuv444p", "yuv420p"), frozenset(range(32)), (39, 40),
    ),
    "av1": CodecFacts(
        "AV1", "libsvtav1", {"preset": "4", "svtav1-params": "tune=1"},
        (1, 63), ("yuv420p",), frozenset((3, 4, 6)),
    ),
}  # fmt: skip


class Form(NamedTuple):
    """The frame size and FFmpeg pixel format in which a clip is encoded."""

    size_hw: tuple[int, int]
    pixels: str


class CodedClip(NamedTuple):
    """A clip after encoding and decoding, with the number of bits used.

    Attributes:
        clip: the decoded clip, at the original size.
        payload_bits: number of bits of the coded pictures, without parameter sets, start codes and
            the container.
        file_bits: number of bits of the whole .mp4 file.
        quality: quality (crf) of the encoding.
        form: frame size and pixel format of the encoding.
    """

    clip: Clip
    payload_bits: int
    file_bits: int
    quality: float
    form: Form


def available_codecs() -> tuple[CodecName, ...]:
    """Return the codecs for which the FFmpeg of the installed PyAV has an encoder."""
    import av

    return tuple(name for name, facts in CODECS.items() if facts.encoder in av.codecs_available)


def code_clip(clip: Clip, codec: CodecName, max_bits: int | float) -> CodedClip:
    """Encode a clip with at most `max_bits` payload bits, and return the decoded result.

    The form with the smallest squared error is chosen. If no form fits into `max_bits`, the result
    with the fewest payload bits is returned.

    Args:
        clip: at least one frame, of any size.

    Raises:
        InputError: the installed FFmpeg has no encoder for the codec.
    """
    if codec not in available_codecs():
        raise InputError(
            f"the FFmpeg of the installed PyAV has no encoder {CODECS[codec].encoder!r}; install "
            "PyAV's own wheel (pip install --force-reinstall av)"
        )
    tries = [_best_within(clip, codec, form, max_bits) for form in _forms(clip, codec)]
    within = [one for one in tries if one.payload_bits <= max_bits]
    if not within:
        return min(tries, key=lambda one: one.payload_bits)
    return min(within, key=lambda one: _squared_error(one.clip, clip))


def payload_bits(file: bytes, codec: CodecName) -> int:
    """Return the number of bits of the coded pictures in an .mp4 file, counted over all packets."""
    import av

    with av.open(io.BytesIO(file), "r") as opened:
        packets = [bytes(packet) for packet in opened.demux(video=0)]
    units = (_obus(packet) if codec == "av1" else _nal_units(packet, codec) for packet in packets)
    pictures = CODECS[codec].pictures
    return 8 * sum(size for kind, size in chain.from_iterable(units) if kind in pictures)


def _nal_units(packet: bytes, codec: CodecName) -> Iterator[tuple[int, int]]:
    """Yield the type and size of each NAL unit; an .mp4 file stores each size in four bytes."""
    place = 0
    while place < len(packet):
        size = int.from_bytes(packet[place : place + 4], "big")
        header = packet[place + 4]
        yield (header & 31 if codec == "h264" else header >> 1 & 63), size
        place += 4 + size


def _obus(packet: bytes) -> Iterator[tuple[int, int]]:
    """Yield the type and size of each open bitstream unit (AV1 specification, section 5.3)."""
    place = 0
    while place < len(packet):
        header = packet[place]
        start, place = place, place + (2 if header & 4 else 1)
        size, shift, more = 0, 0, True
        while more:  # little-endian base 128
            size |= (packet[place] & 127) << shift
            more, shift, place = packet[place] > 127, shift + 7, place + 1
        place += size
        yield header >> 3 & 15, place - start


def _forms(clip: Clip, codec: CodecName) -> list[Form]:
    """Return the forms in which a codec can encode a clip, with the original size first.

    Sizes are even, as subsampled color requires, and no side is shorter than encoders accept.
    """
    facts = CODECS[codec]
    height, width = clip.shape[1:3]
    own = tuple(max(MIN_SIDE, side + side % 2) for side in (height, width))
    scaled = [tuple(2 * round(side * scale / 2) for side in (height, width)) for scale in SCALES]
    sizes = [own, *(size for size in scaled if min(size) >= MIN_SIDE)]
    return [Form((size[0], size[1]), pixels) for size in sizes for pixels in facts.pixels]


def _best_within(clip: Clip, codec: CodecName, form: Form, max_bits: int | float) -> CodedClip:
    """Return the clip at the best quality whose payload fits, or else at the worst quality."""
    low, high = (STEPS_PER_UNIT * quality for quality in CODECS[codec].qualities)
    file = b""  # the encoding at quality `high`, once the payload has fitted at some quality
    while low < high:
        middle = (low + high) // 2
        coded = _encode(clip, codec, middle / STEPS_PER_UNIT, form)
        if payload_bits(coded, codec) <= max_bits:
            high, file = middle, coded
        else:
            low = middle + 1
    quality = high / STEPS_PER_UNIT
    file = file or _encode(clip, codec, quality, form)
    decoded = _decode(file, form, clip.shape[1:3])
    return CodedClip(decoded, payload_bits(file, codec), 8 * len(file), quality, form)


def _encode(clip: Clip, codec: CodecName, quality: int | float, form: Form) -> bytes:
    """Return a clip as a reproducible .mp4 file with one key frame."""
    import av
    from av.bitstream import BitStreamFilterContext
    from av.video.stream import VideoStream

    facts = CODECS[codec]
    height, width = form.size_hw
    if not _is_scaled(form, clip.shape[1:3]):
        missing = (height - clip.shape[1], width - clip.shape[2])
        clip = np.pad(clip, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    os.environ.setdefault("SVT_LOG", "1")  # errors only; SVT-AV1 has no other setting for this
    options = {**facts.options, "crf": f"{quality:g}", "threads": "1", "flags": "+bitexact"}
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(facts.encoder, rate=RATE, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, form.pixels
        stream.codec_context.gop_size = 2 * len(clip)
        kinds = "|".join(map(str, facts.remarks)) or "0"
        trim = BitStreamFilterContext(f"filter_units=remove_types={kinds}", stream)
        for frame in clip:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(width, height, form.pixels, interpolation=_scaler())
            for packet in stream.encode(picture):
                output.mux(trim.filter(packet))
        for packet in stream.encode(None):
            output.mux(trim.filter(packet))
    return buffer.getvalue()


def _decode(file: bytes, form: Form, size_hw: tuple[int, ...]) -> Clip:
    import av

    height, width = size_hw if _is_scaled(form, size_hw) else form.size_hw
    with av.open(io.BytesIO(file), "r") as opened:
        frames = [
            frame.reformat(width, height, "rgb24", interpolation=_scaler()).to_ndarray()
            for frame in opened.decode(video=0)
        ]
    return np.stack(frames)[:, : size_hw[0], : size_hw[1]]


def _is_scaled(form: Form, size_hw: tuple[int, ...]) -> bool:
    """Return whether a clip is scaled down to the form, rather than padded to it."""
    return form.size_hw[0] < size_hw[0]


def _scaler() -> int:
    """Return swscale's flags for exact bicubic scaling with color interpolated, not repeated."""
    from av.video.reformatter import Interpolation as Scale

    return Scale.BICUBIC | Scale.ACCURATE_RND | Scale.FULL_CHR_H_INT | Scale.FULL_CHR_H_INP


def _squared_error(clip: Clip, reference: Clip) -> float:
    return float(np.square(clip.astype(np.float32) - reference).mean())
