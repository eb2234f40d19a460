"""Decodes a video's frames one after another; for undamaged videos, PyAV and decord agree.

Each frame equals the output of the ffmpeg program with default scaler flags: the stored frame is
rotated upright according to the display matrix, then converted to RGB at native size. Decoders pad
rows; every array that this module returns is contiguous, without padding.
"""

import importlib.util
import os
import platform
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from video_vq.errors import InputError
from video_vq.media.probe import (
    DEFAULT_LIMITS,
    CountedPackets,
    Limits,
    UnreadableVideoError,
    VideoInfo,
    opened,
    upright_filters,
)

if TYPE_CHECKING:
    import av

Decoder = Literal["pyav", "decord"]
# For this codec family, decord's FFmpeg from 2021 is up to two levels off from current versions.
DIFFERS_IN_DECORD = "msmpeg4"


def require_decoder(decoder: Decoder) -> None:
    """Raise an error unless a decoder is installed.

    Raises:
        InputError: decord is not installed (wheels exist for Linux on x86-64 only).
    """
    if decoder == "decord" and importlib.util.find_spec("decord") is None:
        raise InputError(
            "decord is not installed (it is published for Linux on x86-64 only); "
            "use `--decoder pyav`, which gives the same frames"
        )


def pyav_version() -> str:
    """Return the PyAV and FFmpeg library versions and the machine type, which affect frames."""
    import av

    libraries = (
        f"{name} {'.'.join(map(str, version))}"
        for name, version in sorted(av.library_versions.items())
    )
    return ", ".join((f"pyav {av.__version__}", *libraries, platform.machine()))


class FrameStream:
    """An iterable over one video's frames in display order, uint8 h w c; iterate only once.

    decord is used only while decord agrees with FFmpeg: decord starts in the middle of some MPEG
    streams, converts colors differently at odd heights, ignores mirroring, and repeats frames in
    place of lost frames. PyAV therefore takes over if decord's first frame differs from FFmpeg's,
    or if decord repeats a frame or fails. The frames of an undamaged video do not depend on the
    decoder; for a damaged video, each decoder repairs frames differently.

    Attributes:
        num_frames: number of frames yielded so far.
        num_damaged: number of frames that FFmpeg reports as repaired; decord reports no repairs.
        handed_over: reason why PyAV took over from decord; None if PyAV did not take over.

    Raises:
        UnreadableVideoError: there is no frame, a frame cannot be decoded, the frame size changes,
            or the frames exceed the limits.
        InputError: decord is requested, but not installed.
    """

    def __init__(self, info: VideoInfo, decoder: Decoder = "pyav", limits: Limits = DEFAULT_LIMITS):
        self.info = info
        self.decoder = decoder
        self.limits = limits
        self.num_frames = 0
        self.num_damaged = 0
        self.handed_over: str | None = None

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        height, width = self.info.size_hw
        allowed = self.limits.allowed_bytes(self.info.file_bytes)
        for frame in self._frames():
            self.num_frames += 1
            if self.num_frames * frame.nbytes > allowed or self.num_frames > self.limits.max_frames:
                raise UnreadableVideoError(
                    self.info.path,
                    f"decodes to more than its {self.info.num_packets:,} packets announce",
                )
            if frame.shape != (height, width, 3):
                raise _changed_size(self.info.path, (height, width), frame, self.num_frames - 1)
            yield frame
        if not self.num_frames:
            raise UnreadableVideoError(self.info.path, "holds no frame that can be decoded")

    def _frames(self) -> Iterator[np.ndarray]:
        if self.info.frames is not None:
            yield from self.info.frames()
            return
        if self.decoder == "decord":
            yield from self._decord_frames()
            if self.handed_over is None:
                return
        yield from islice(self._pyav_frames(), self.num_frames, None)

    def _pyav_frames(self) -> Iterator[np.ndarray]:
        self.num_damaged = 0
        with opened(self.info.path, self.limits) as (container, stream):
            convert: ToRgb | None = None
            for frame in container.decode(stream):
                if convert is None or not convert.takes(frame):
                    convert = ToRgb(frame, self.info.upright, stream.time_base)
                self.num_damaged += frame.is_corrupt
                yield convert(frame)

    def _decord_frames(self) -> Iterator[np.ndarray]:
        """Yield frames until decord fails or differs from FFmpeg; then set `handed_over`."""
        require_decoder("decord")
        if self.info.codec.startswith(DIFFERS_IN_DECORD):
            self.handed_over = f"its FFmpeg decodes {self.info.codec} differently"
            return
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        first = next(self._pyav_frames(), None)
        self.num_damaged = 0
        try:
            # decord raises above this fraction of repeated frames: at the first repeated frame.
            reader = decord.VideoReader(
                str(self.info.path),
                num_threads=1,
                fault_tol=1e-9,  # pyright: ignore[reportArgumentType]
            )
        except Exception as error:  # decord's errors have no common base
            self.handed_over = f"it could not open the file ({type(error).__name__})"
            return
        for index in range(self.info.num_packets):
            try:
                frame = np.ascontiguousarray(reader.next().asnumpy())
            except StopIteration:
                self.handed_over = "it gave fewer frames than there are packets"
                return
            except Exception as error:
                self.handed_over = f"it could not decode a frame ({type(error).__name__})"
                return
            if index == 0 and (first is None or not np.array_equal(first, frame)):
                self.handed_over = "its first frame is not FFmpeg's"
                return
            yield frame


class FirstFrames:
    """The first frames of a video, as from `FrameStream` with PyAV, and the result of `probe`.

    A single pass over the file gives both, because opening a file takes as long as decoding several
    frames. Iterate once, to the end; `info` is then set.

    Args:
        path: path of the file.
        count: maximum number of frames.
        limits: limits on the video, as for `probe`.

    Raises:
        UnreadableVideoError: `probe` would refuse the video, even because of packets after the
            requested frames; or a frame cannot be decoded, or the frame size changes.
    """

    def __init__(self, path: Path, count: int, limits: Limits = DEFAULT_LIMITS):
        self.path, self.count, self.limits = Path(os.path.abspath(path)), count, limits
        self.info: VideoInfo | None = None

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        with opened(self.path, self.limits) as (container, stream):
            packets = CountedPackets(self.path, container, stream, self.limits)
            passing = iter(packets)
            frames = (frame for packet in passing for frame in stream.decode(packet))
            first: av.VideoFrame | None = None
            convert: ToRgb | None = None
            shape: tuple[int, ...] | None = None
            for number, frame in enumerate(islice(frames, self.count)):
                first = first or frame
                if convert is None or not convert.takes(frame):
                    upright = upright_filters(self.path, first)
                    convert = ToRgb(frame, upright, stream.time_base)
                pixels = convert(frame)
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    raise _changed_size(self.path, shape[:2], pixels, number)
                yield pixels
            for _ in passing:
                pass
            self.info = packets.info(first)


def _changed_size(
    path: Path, size_hw: tuple[int, ...], frame: np.ndarray, number: int
) -> UnreadableVideoError:
    return UnreadableVideoError(
        path,
        f"changes its size from {size_hw[1]}x{size_hw[0]} to {frame.shape[1]}x{frame.shape[0]} "
        f"at frame {number}",
    )


class ToRgb:
    """An FFmpeg filter graph that converts frames of one size and pixel format to upright RGB.

    A filter graph is used instead of `VideoFrame.to_ndarray`, because for odd heights and for more
    than 8 bits, only the graph positions chroma samples as the ffmpeg program does.
    """

    def __init__(
        self,
        frame: "av.VideoFrame",
        upright: tuple[tuple[str, str], ...],
        time_base: Fraction | None,
    ):
        from av.filter import Graph

        self._key = self._key_of(frame)
        self._graph = Graph()
        self._graph.threads = 1
        last = self._graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=time_base or Fraction(1, 1000),
        )
        for name, argument in (*upright, ("format", "rgb24"), ("buffersink", "")):
            step = self._graph.add(name, argument or None)
            last.link_to(step)
            last = step
        self._graph.configure()

    @staticmethod
    def _key_of(frame: "av.VideoFrame") -> tuple[int, int, str]:
        return frame.width, frame.height, frame.format.name

    def takes(self, frame: "av.VideoFrame") -> bool:
        """Return whether a frame has the size and pixel format for which the graph was made."""
        return self._key_of(frame) == self._key

    def __call__(self, frame: "av.VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
        """Return a frame as upright, contiguous RGB, without FFmpeg's row padding."""
        self._graph.vpush(frame)
        return np.ascontiguousarray(self._graph.vpull().to_ndarray())
