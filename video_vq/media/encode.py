"""Writes files for viewing: videos, PNG images, animations and grids of clips.

Each file is written completely or not at all. The same frames give the same bytes, except with
H.264: libx264 encodes a macroblock differently in about one in a thousand clips (docs/log.md).
"""

import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from video_vq.errors import InputError

Codec = Literal["h264", "mpeg4", "vp9"]

# suffix -> container, default codec, supported codecs
_CONTAINERS: dict[str, tuple[str, Codec, tuple[Codec, ...]]] = {
    ".mp4": ("mp4", "h264", ("h264", "mpeg4", "vp9")),
    ".mkv": ("matroska", "h264", ("h264", "mpeg4", "vp9")),
    ".avi": ("avi", "mpeg4", ("mpeg4", "h264")),
    ".webm": ("webm", "vp9", ("vp9",)),
}
_ENCODERS: dict[Codec, str] = {"h264": "libx264", "mpeg4": "mpeg4", "vp9": "libvpx-vp9"}
# codec -> lowest, default and highest quantizer; a lower quantizer gives better, larger files
_QUALITY: dict[Codec, tuple[int, int, int]] = {
    "h264": (0, 18, 51),
    "mpeg4": (1, 2, 31),
    "vp9": (0, 24, 63),
}
LABEL_HEIGHT = 16  # pixels above a tile for the label


def write_video(
    path: str | Path,
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: int | float,
    codec: Codec | None = None,
    quality: int | None = None,
) -> None:
    """Write RGB frames as a video file; the suffix determines the container.

    Args:
        path: path of the file, which ends in .mp4, .mkv, .avi or .webm.
        frames: at least one frame, of even height and width, because color is stored at half
            size.
        fps: frames per second.
        codec: h264 (default for mp4 and mkv), mpeg4 (default for avi; MPEG-4 Part 2, as written by
            Xvid) or vp9 (default for webm); None for the container's default.
        quality: the codec's quantizer, where lower is better: h264 0..51, mpeg4 1..31, vp9 0..63;
            None for the codec's default.

    Raises:
        InputError: the suffix is unknown, the container does not support the codec, the height or
            width is odd, or the frame rate or quality is out of range.
    """
    path = Path(path)
    form = _format(path, codec, quality)
    _require_frames(frames)
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise InputError(
            f"{path}: a video needs an even height and width, found {height}x{width}; "
            "crop the frames, or write an animation (.webp, .gif)"
        )
    rate = _rate(path, fps)
    with _written_aside(path) as file:
        _mux(file, frames, rate, *form)


def write_frames(
    path: str | Path, frames: Iterable[UInt8[np.ndarray, "_ _ 3"]], fps: int | float
) -> int:
    """Write an iterable of RGB frames as a video file, and return the number of frames.

    Memory use does not grow with the number of frames. An existing file is replaced at the end.

    Args:
        path: path of the file, as for `write_video`; the container's default codec and quality are
            used.
        frames: at least one frame, all of equal size; the last row or column is repeated to make
            the height or width even.
        fps: frames per second.

    Raises:
        InputError: the suffix is unknown, the frame rate is out of range, there is no frame, or the
            file cannot be written.
    """
    path = Path(path)
    form, rate = _format(path, None, None), _rate(path, fps)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: there is no frame to write; a video needs at least one")
    _require_frames(first[None])
    odd = first.shape[0] % 2, first.shape[1] % 2
    even = (
        np.pad(frame, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else frame
        for frame in chain([first], frames)
    )
    try:
        with _written_aside(path) as file:
            return _mux(file, even, rate, *form)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def require_video_name(path: str | Path) -> None:
    """Reject a file name that `write_video` would reject, or for which there is no encoder.

    Raises:
        InputError: the suffix is unknown, or its encoder is not available; the message lists the
            known suffixes, or names the encoder.
    """
    import av

    path = Path(path)
    _, codec, _ = _format(path, None, None)
    try:
        av.Codec(_ENCODERS[codec], "w")
    except ValueError:
        raise InputError(
            f"{path}: the FFmpeg of the installed PyAV has no encoder {_ENCODERS[codec]!r}, which "
            f"{path.suffix} needs; install PyAV's own wheel (pip install --force-reinstall av), or "
            "choose .avi"
        ) from None


def _format(path: Path, codec: Codec | None, quality: int | None) -> tuple[str, Codec, int]:
    if path.suffix.lower() not in _CONTAINERS:
        raise InputError(
            f"{path}: a video ends in {', '.join(_CONTAINERS)}, found {path.suffix!r}; "
            "rename it, or write an animation (.webp, .gif)"
        )
    container, default, allowed = _CONTAINERS[path.suffix.lower()]
    codec = codec or default
    if codec not in allowed:
        raise InputError(
            f"{path}: {path.suffix} holds {' or '.join(allowed)}, found codec {codec!r}; "
            "choose another codec or suffix"
        )
    lowest, usual, highest = _QUALITY[codec]
    quality = usual if quality is None else quality
    if not lowest <= quality <= highest:
        raise InputError(f"{path}: {codec} takes a quality of {lowest}..{highest}, found {quality}")
    return container, codec, quality


def encode_mp4(frames: UInt8[np.ndarray, "t h w 3"], fps: int | float, quality: int = 18) -> bytes:
    """Return RGB frames as the bytes of an H.264 mp4 file that browsers can play.

    Args:
        frames: at least one frame, of any size; the last row or column is repeated to make the
            height or width even.
        fps: frames per second.
        quality: the quantizer, 0..51; a lower quantizer gives a better and larger file.

    Raises:
        InputError: the frame rate or the quality is out of range.
    """
    _require_frames(frames)
    lowest, _, highest = _QUALITY["h264"]
    if not lowest <= quality <= highest:
        raise InputError(f"H.264 takes a quality of {lowest}..{highest}, found {quality}")
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    _mux(buffer, even, _rate(Path("an mp4"), fps), "mp4", "h264", quality)
    return buffer.getvalue()


def _rate(path: Path, fps: int | float) -> Fraction:
    """Return the frame rate as a fraction that every container can store; 29.97 is 30000/1001."""
    if not (math.isfinite(fps) and 0.1 <= fps <= 1000):
        raise InputError(f"{path}: a frame rate lies between 0.1 and 1000 per second, found {fps}")
    broadcast = Fraction(1000 * round(fps * 1.001), 1001)
    if fps != round(fps) and abs(float(broadcast) - fps) < 0.005:
        return broadcast
    return Fraction(fps).limit_denominator(1001)


def _mux(
    target: io.BytesIO | io.BufferedWriter,
    frames: Iterable[UInt8[np.ndarray, "_ _ 3"]],
    rate: Fraction,
    container: str,
    codec: Codec,
    quality: int,
) -> int:
    """Encode at least one frame into a seekable file, and return the number of frames."""
    import av
    from av.video.stream import VideoStream

    # One thread and the bitexact flags: no random ids, dates or races in the output.
    options = {"flags": "+bitexact", "threads": "1"}
    if codec == "mpeg4":
        options |= {"qmin": str(quality), "qmax": str(quality), "b": "100000000"}
    else:
        options |= {"crf": str(quality)}
    if codec == "h264":
        # With B-frames, equal frames give different bytes more often.
        options |= {"bf": "0"}
    if codec == "vp9":
        options |= {"b": "0", "cpu-used": "2", "row-mt": "0"}
    frames = iter(frames)
    first = next(frames)
    number = 0
    with av.open(
        target, "w", format=container, container_options={"fflags": "+bitexact"}
    ) as output:
        stream = output.add_stream(_ENCODERS[codec], rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        if codec == "mpeg4":
            stream.codec_context.codec_tag = "XVID" if container == "avi" else "mp4v"
        for array in chain([first], frames):
            number += 1
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return number


def write_png(path: str | Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write one RGB image as a PNG file.

    Raises:
        InputError: the name does not end in .png.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: an image ends in .png, found {path.suffix!r}")
    _require_frames(image[None])
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", optimize=True)
    _write_whole(path, buffer.getvalue())


def write_animation(
    path: str | Path, frames: UInt8[np.ndarray, "t h w 3"], fps: int | float, quality: int = 80
) -> None:
    """Write RGB frames as a looping animation, for a README or a report.

    Args:
        path: path of the file, which ends in .webp (small, all colors) or .gif (one palette of 256
            colors).
        frames: at least one frame, of any size.
        fps: frames per second; a GIF rounds frame durations to 10 ms.
        quality: WebP quality, from 0 to 100.

    Raises:
        InputError: the suffix is unknown, or the frame rate or quality is out of range.
    """
    from PIL import Image

    path = Path(path)
    _require_frames(frames)
    milliseconds = round(1000 / _rate(path, fps))
    if not 0 <= quality <= 100:
        raise InputError(f"{path}: an animation takes a quality of 0..100, found {quality}")
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    buffer = io.BytesIO()
    if path.suffix.lower() == ".webp":
        images[0].save(
            buffer, "WEBP", save_all=True, append_images=images[1:], loop=0,
            duration=milliseconds, quality=quality, method=4,
        )  # fmt: skip
    elif path.suffix.lower() == ".gif":
        images = _share_palette(frames)
        images[0].save(
            buffer, "GIF", save_all=True, append_images=images[1:], loop=0,
            duration=max(10, 10 * round(milliseconds / 10)), optimize=False,
        )  # fmt: skip
    else:
        raise InputError(f"{path}: an animation ends in .webp or .gif, found {path.suffix!r}")
    _write_whole(path, buffer.getvalue())


def _share_palette(frames: UInt8[np.ndarray, "t h w 3"]) -> list:
    """Reduce all frames to one palette without dithering, for stable colors and small files."""
    from PIL import Image

    samples = frames[:: max(1, len(frames) // 16)]
    mosaic = Image.fromarray(np.ascontiguousarray(samples.reshape(-1, frames.shape[2], 3)))
    palette = mosaic.quantize(256, dither=Image.Dither.NONE)
    return [
        Image.fromarray(np.ascontiguousarray(frame)).quantize(
            palette=palette, dither=Image.Dither.NONE
        )
        for frame in frames
    ]


def tile(
    clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]],
    columns: int,
    gap: int = 2,
    scale: int = 1,
    labels: Sequence[str] | None = None,
    background: int = 255,
) -> UInt8[np.ndarray, "_ _ _ 3"]:
    """Arrange clips in a grid, row by row, and return the grid as one clip.

    Args:
        clips: clips of equal length and size.
        columns: number of tiles in a row.
        gap: number of pixels around each tile.
        scale: integer enlargement factor; pixels are repeated.
        labels: short text above each tile, clipped to the tile width; None for no labels.
        background: gray level between the tiles, 0 to 255; labels have a white background.

    Returns:
        The grid, with an even height and width, as codecs require.
    """
    shapes = {clip.shape for clip in clips}
    if len(shapes) != 1:
        raise ValueError(f"a grid needs clips of one shape t h w c, found {sorted(shapes)}")
    if columns < 1 or gap < 0 or scale < 1:
        raise ValueError(f"columns {columns} and scale {scale} start at 1, gap {gap} at 0")
    if labels is not None and len(labels) != len(clips):
        raise ValueError(f"{len(labels)} labels for {len(clips)} clips")
    _require_frames(clips[0])
    num_frames, height, width = (int(side) for side in clips[0].shape[:3])
    height, width = height * scale, width * scale
    top = gap + (LABEL_HEIGHT if labels is not None else 0)
    columns = min(columns, len(clips))
    rows = math.ceil(len(clips) / columns)
    size = [rows * (top + height) + gap, columns * (gap + width) + gap]
    grid = np.full((num_frames, *(side + side % 2 for side in size), 3), background, np.uint8)
    for place, clip in enumerate(clips):
        y = place // columns * (top + height) + top
        x = place % columns * (gap + width) + gap
        grid[:, y : y + height, x : x + width] = clip.repeat(scale, 1).repeat(scale, 2)
        if labels is not None:
            grid[:, y - LABEL_HEIGHT : y, x : x + width] = _text(labels[place], width)
    return grid


def _text(text: str, width: int) -> UInt8[np.ndarray, "label_h w 3"]:
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (width, LABEL_HEIGHT), "white")
    font = ImageFont.load_default(size=11)
    ImageDraw.Draw(strip).text((0, LABEL_HEIGHT - 3), text, fill="black", font=font, anchor="ls")
    return np.asarray(strip)


def _require_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(
            f"pictures are non-empty uint8 arrays ending in h w 3, "
            f"found {frames.dtype} of t h w c = {frames.shape}"
        )


def _write_whole(path: Path, data: bytes) -> None:
    with _written_aside(path) as file:
        file.write(data)


@contextmanager
def _written_aside(path: Path) -> Iterator[io.BufferedWriter]:
    """Write a temporary file and rename it at the end, so that readers never see a partial file."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
