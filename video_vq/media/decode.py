"""Decodes a video's frames one after another, with equal frames from PyAV and from decord.

A frame is equal to the output of the ffmpeg program with its default scaler flags: the stored
picture is turned upright by its display matrix, then converted to RGB at native size. Decoders pad
their rows; every array that leaves this module is contiguous, without padding.
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
# decord's FFmpeg of 2021 decodes this family up to two levels away from today's.
DIFFERS_IN_DECORD = "msmpeg4"


def require_decoder(decoder: Decoder) -> None:
    """Raise unless a decoder is installed.

    Raises:
        InputError: decord is missing; it has wheels for Linux on x86-64 only.
    """
    if decoder == "decord" and importlib.util.find_spec("decord") is None:
        raise InputError(
            "decord is not installed (it is published for Linux on x86-64 only); "
            "use `--decoder pyav`, which gives the same frames"
        )


def pyav_version() -> str:
    """Return the versions that affect PyAV's frames: PyAV, FFmpeg's libraries, the machine."""
    import av

    libraries = (
        f"{name} {'.'.join(map(str, version))}"
        for name, version in sorted(av.library_versions.items())
    )
    return ", ".join((f"pyav {av.__version__}", *libraries, platform.machine()))


class FrameStream:
    """The frames of one video in display order, as uint8 h w c; iterate over them once.

    decord is used as long as it agrees with FFmpeg. It starts in the middle of some MPEG streams,
    converts colours differently at odd heights, ignores mirroring, and repeats frames in place of
    lost ones. Its first frame must therefore equal FFmpeg's, it must not repeat any frame, and PyAV
    takes over where this fails. So the frames of a healthy video do not depend on the decoder; each
    decoder repairs a damaged video in its own way.

    Attributes:
        num_frames: number of frames yielded so far.
        num_damaged: number of frames that FFmpeg reports as repaired; decord does not report them.
        handed_over: reason why PyAV took over from decord; None if it did not.

    Raises:
        UnreadableVideoError: a frame cannot be decoded, frames change their size, or there are more
            frames than the limits allow.
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
        """Yield frames as long as decord is correct; otherwise set `handed_over` and stop."""
        require_decoder("decord")
        if self.info.codec.startswith(DIFFERS_IN_DECORD):
            self.handed_over = f"its FFmpeg decodes {self.info.codec} differently"
            return
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        first = next(self._pyav_frames(), None)
        self.num_damaged = 0
        try:
            # fault_tol is the share of repeated frames at which decord raises: at the first.
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
    """The first frames of a video from PyAV, as in `FrameStream`, and the facts from `probe`.

    One pass over the file gives both, because opening it costs as much as several frames. Iterate
    once, to the end; `info` is then known.

    Args:
        path: path of the file.
        count: number of frames; there are fewer if the video ends earlier.
        limits: see `probe`.

    Raises:
        UnreadableVideoError: `probe` would refuse the video, even for packets after the requested
            frames; or a frame cannot be decoded or changes its size.
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
    """An FFmpeg filter graph that turns frames of one size and pixel format upright and into RGB.

    A filter graph is used instead of `VideoFrame.to_ndarray`, because only the graph places the
    chroma samples of odd heights and of more than 8 bits like the ffmpeg program.
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
        """Whether a frame has the size and pixel format of the first."""
        return self._key_of(frame) == self._key

    def __call__(self, frame: "av.VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
        """Return a frame as contiguous RGB, since FFmpeg's own rows may be padded."""
        self._graph.vpush(frame)
        return np.ascontiguousarray(self._graph.vpull().to_ndarray())
