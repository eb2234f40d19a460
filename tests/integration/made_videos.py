"""Videos for tests, both ordinary and malicious."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream


def scene(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return frames of a pattern that moves right by 3 pixels per frame, on a static ramp."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    still = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    ramp = np.linspace(0, 120, width)[:, None]
    moving = [np.roll(still, 3 * t, axis=1) // 2 + ramp for t in range(num_frames)]
    return np.stack(moving).astype(np.uint8)


def encode(
    path: Path,
    frames: Sequence[np.ndarray] | np.ndarray,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: tuple[int, bool, bool] | None = None,
    times: Sequence[int] | None = None,
    start: int = 0,
) -> Path:
    """Write a video with the given frame times in ms, or at 25 fps from frame number `start`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            degrees, hflip, vflip = rotation
            stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        for index, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=pix_fmt)
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = start + index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def joined(path: Path, parts: Sequence[tuple[np.ndarray, int]], *settings: Any) -> Path:
    """Write the concatenated bytes of videos, each given by its frames and first frame number."""
    data = b""
    for number, (frames, start) in enumerate(parts):
        part = path.with_name(f"part{number}{path.suffix}")
        data += encode(part, frames, *settings, start=start).read_bytes()
        part.unlink()
    path.write_bytes(data)
    return path


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def bomb(path: Path, num_frames: int, size_hw: tuple[int, int]) -> Path:
    """Write a video of identical black H.264 key frames, far smaller than its decoded pixels."""
    height, width = size_hw
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "1"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, level in zip(frame.planes, (16, 128, 128), strict=True):
            plane.update(bytes([level]) * plane.buffer_size)
        (packet, *_) = [*stream.encode(frame), *stream.encode(None)]
        data, time_base = bytes(packet), Fraction(1, 25)
        for number in range(num_frames):
            copy = av.Packet(data)
            copy.stream, copy.time_base, copy.pts, copy.dts = stream, time_base, number, number
            copy.is_keyframe = True
            container.mux(copy)
    return path
