"""Opens untrusted video files and reads their properties, with limits on size and duration."""

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from video_vq.errors import InputError

if TYPE_CHECKING:
    import av
    import av.container

# Supported containers. A playlist or script named .mp4 would make FFmpeg open other files.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,asf,ogg,"
    "ivf,nut,mxf,rm,dv,yuv4mpegpipe,obu,av1,gif"
)
MICROSECONDS = 1_000_000
MAX_PIXEL_ASPECT = 4  # discs and tapes have at most 16/9 x 3/2
# Containers that may contain a broadcast: MPEG transport and program streams (FFmpeg's flag
# AVFMT_TS_DISCONT is also set for Ogg). The limits are the ffmpeg program's (fftools,
# ts_discontinuity_detect): how far decoding times may step back, if a muxer omitted times, and how
# far decoding times may jump ahead.
BROADCASTS = ("mpegts", "mpeg")
MAX_BACK_SECONDS, MAX_AHEAD_SECONDS = Fraction(1, 10), 10


class UnreadableVideoError(InputError):
    """Raised for a video file that cannot be used; `reason` says why, without the path."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """The limits beyond which a video is refused.

    Attributes:
        max_pixels: maximum number of pixels in one frame.
        max_frames: maximum number of frames in one video.
        max_duration_seconds: maximum time between the first and the last timestamp; the header's
            duration is not used, because AVI headers overstate the duration.
        max_decoded_bytes: decoded size below which a video is never refused for its expansion.
        max_expansion: maximum number of decoded bytes per byte of the file. Real footage reaches
            about 2,000 (a motionless gym at 1080p); a file made to fill a disk reaches 10,000 or
            more.
    """

    max_pixels: int = 8192 * 4320
    max_frames: int = 1_000_000
    max_duration_seconds: int = 86_400
    max_decoded_bytes: int = 4 << 30
    max_expansion: int = 5_000

    def allowed_bytes(self, file_bytes: int) -> int:
        """Return the maximum number of RGB bytes to which a file of this size may decode."""
        return max(self.max_decoded_bytes, self.max_expansion * file_bytes)


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video that are known before its frames are decoded.

    Attributes:
        path: absolute path of the file.
        file_bytes: size of the file in bytes.
        container, codec: FFmpeg's names for the container and the codec.
        size_hw: height and width of the frames as shown, after rotation.
        fps: mean frames per second; None if unknown.
        num_packets: number of compressed frames in the file; an undamaged video decodes to the same
            number of frames.
        claimed_frames: number of frames according to the header (too large in AVI headers); None if
            not stated.
        duration_seconds: duration according to the header; None if not stated.
        pixel_aspect: width of a pixel divided by its height, as shown after rotation; 1 if not
            stated.
        upright: FFmpeg filters that rotate the stored frames upright, each as (name, argument).
        timestamps: time of each shown frame, in order and in units of `time_base`; None if the file
            has no timestamps. If times restart or jump, as in joined recordings, each part starts
            one frame interval of the previous part after the end of that part.
        time_base: seconds per unit of `timestamps`.
        num_parts: number of parts: 1, plus 1 for each restart or jump of the file's own timestamps.
        notes: notes on irregularities found before decoding, and on values that were inferred.
        frames: function that yields the frames; None for a video file, which FFmpeg decodes.
    """

    path: Path
    file_bytes: int
    container: str
    codec: str
    size_hw: tuple[int, int]
    fps: float | None
    num_packets: int
    claimed_frames: int | None
    duration_seconds: float | None
    pixel_aspect: Fraction
    upright: tuple[tuple[str, str], ...]
    timestamps: tuple[int, ...] | None = field(repr=False)
    time_base: Fraction
    num_parts: int = 1
    notes: tuple[str, ...] = ()
    frames: Callable[[], Iterator[np.ndarray]] | None = field(default=None, repr=False)

    @property
    def decoded_bytes(self) -> int:
        """Return the number of RGB bytes to which the packets decode."""
        return self.num_packets * self.size_hw[0] * self.size_hw[1] * 3


def probe(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Read a video's header, first frame and packets, and return its properties.

    Raises:
        UnreadableVideoError: the file is not a video, has no video track, is truncated, cannot be
            decoded, exceeds the limits, or is rotated by an angle that is not a multiple of 90
            degrees.
    """
    path = Path(os.path.abspath(path))
    with opened(path, limits) as (container, stream):
        counted = CountedPackets(path, container, stream, limits)
        first: av.VideoFrame | None = None
        for packet in counted:
            if first is None:
                first = next(iter(stream.decode(packet)), None)
        return counted.info(first)


class CountedPackets:
    """An iterable that inspects an open video's packets; iterate once, then call `info`.

    Raises:
        UnreadableVideoError: as for `probe`.
    """

    def __init__(
        self,
        path: Path,
        container: "av.container.InputContainer",
        stream: "av.VideoStream",
        limits: Limits,
    ):
        self._path, self._container, self._stream, self._limits = path, container, stream, limits
        # Presentation and decoding time of each packet, part by part.
        self._parts: list[list[tuple[int | None, int | None]]] = [[]]
        self._num_packets = 0
        self._decoding_time: int | None = None  # last known decoding time
        self._is_broadcast = container.format.name in BROADCASTS

    def __iter__(self) -> "Iterator[av.Packet]":
        for packet in self._container.demux(self._stream):
            yield packet
            if not packet.size or packet.is_discard:
                continue
            if packet.is_corrupt and self._container.format.name != "mpegts":
                raise UnreadableVideoError(
                    self._path, f"is cut off or damaged: packet {self._num_packets} is incomplete"
                )
            if self._begins_part(packet):
                self._parts.append([])
            self._parts[-1].append((packet.pts, packet.dts))
            self._num_packets += 1
            if self._num_packets > self._limits.max_frames:
                raise UnreadableVideoError(
                    self._path,
                    f"has more than {self._limits.max_frames:,} frames; cut it into pieces",
                )

    def _begins_part(self, packet: "av.Packet") -> bool:
        """Return whether a packet's decoding time does not continue the previous packet's.

        In every container, a keyframe is decoded after all earlier packets. Other packets may step
        back a little if a muxer omitted decoding times. A broadcast may restart or jump ahead at
        any packet; in other containers, a jump ahead is a long still image.
        """
        before, now = self._decoding_time, packet.dts
        self._decoding_time = before if now is None else now
        if before is None or now is None:
            return False
        if now <= before and packet.is_keyframe:
            return True
        seconds = (now - before) * self._time_base
        return self._is_broadcast and not -MAX_BACK_SECONDS <= seconds <= MAX_AHEAD_SECONDS

    @property
    def _time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, MICROSECONDS)

    def _timestamps(self, rate: Fraction | None) -> tuple[int, ...] | None:
        """Return the time of each frame, part by part; None if a packet has no time.

        Args:
            rate: frames per second, which gives the frame interval until a part with several frames
                does; None if unknown.
        """
        distance = max(1, round(1 / (rate * self._time_base))) if rate else 1
        by_decoding = self._is_broadcast and (len(self._parts) > 1 or self._shown_far_off())
        joined: list[int] = []
        for part in self._parts:
            all_times = [decoded if by_decoding else shown for shown, decoded in part]
            times = sorted(time for time in all_times if time is not None)
            if len(times) < len(part):
                return None
            later = joined[-1] + distance - times[0] if joined else 0
            joined += [time + later for time in times]
            if len(times) > 1:
                distance = max(1, round((times[-1] - times[0]) / (len(times) - 1)))
        return tuple(joined)

    def _shown_far_off(self) -> bool:
        """Return whether a frame's presentation time is far from its decoding time.

        At a jump, FFmpeg gives the last frame of a part a presentation time in the next part. The
        decoding times at a jump are correct and equally spaced.
        """
        most = MAX_AHEAD_SECONDS / self._time_base
        return any(
            abs(shown - decoded) > most
            for part in self._parts
            for shown, decoded in part
            if shown is not None and decoded is not None
        )

    def info(self, first: "av.VideoFrame | None") -> VideoInfo:
        """Return the video's properties; call this method after iterating over all packets.

        Args:
            first: the first decoded frame; None if no frame can be decoded.
        """
        if first is None:
            raise UnreadableVideoError(self._path, "holds no frame that can be decoded")
        upright = upright_filters(self._path, first)
        turned = any(name == "transpose" for name, _ in upright)
        height, width = (first.width, first.height) if turned else (first.height, first.width)
        stream = self._stream
        rate = stream.average_rate or stream.guessed_rate
        info = VideoInfo(
            path=self._path,
            file_bytes=self._path.stat().st_size,
            container=self._container.format.name,
            codec=stream.codec_context.name,
            size_hw=(height, width),
            fps=float(rate) if rate else None,
            num_packets=self._num_packets,
            claimed_frames=stream.frames or None,
            duration_seconds=_duration(self._container, stream),
            pixel_aspect=_pixel_aspect(stream, turned),
            upright=upright,
            timestamps=self._timestamps(rate),
            time_base=self._time_base,
            num_parts=len(self._parts),
        )
        require_size(info, self._limits)
        return info


def require_size(info: VideoInfo, limits: Limits) -> None:
    """Reject a video whose duration or decoded size exceeds the limits.

    Raises:
        UnreadableVideoError: the video is too long or too large.
    """
    stamps = info.timestamps or (0,)
    seconds = (stamps[-1] - stamps[0]) * info.time_base
    if seconds > limits.max_duration_seconds:
        raise UnreadableVideoError(
            info.path,
            f"lasts {float(seconds):,.0f} s by its time stamps, more than "
            f"{limits.max_duration_seconds:,}; cut it into pieces",
        )
    if info.decoded_bytes > limits.allowed_bytes(info.file_bytes):
        height, width = info.size_hw
        raise UnreadableVideoError(
            info.path,
            f"{info.file_bytes:,} bytes would decode to {info.decoded_bytes:,} "
            f"({info.num_packets:,} frames of {width}x{height}), more than "
            f"{limits.max_expansion:,} times its size",
        )


def _pixel_aspect(stream: "av.VideoStream", turned: bool) -> Fraction:
    """Return the aspect ratio of a pixel as shown; extreme values in a header are ignored."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        return Fraction(1)
    return 1 / aspect if turned else aspect


def _duration(container: "av.container.InputContainer", stream: "av.VideoStream") -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / MICROSECONDS if container.duration else None


@contextmanager
def opened(
    path: Path, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """Open a file's video track with one decoder thread; raise UnreadableVideoError on errors."""
    import av
    from av.error import FFmpegError
    from av.video.stream import VideoStream

    problem = "is not a video file that FFmpeg understands"
    try:
        with av.open(
            str(path),
            mode="r",
            options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS},
            metadata_errors="replace",
        ) as container:
            stream = container.streams.best("video")
            if (
                not isinstance(stream, VideoStream)
                or stream.disposition & stream.disposition.attached_pic
            ):
                raise UnreadableVideoError(path, "holds no video track")
            if stream.codec_context is None:  # contrary to PyAV's stubs
                raise UnreadableVideoError(path, "uses a codec that FFmpeg does not know")
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            if stream.width * stream.height > limits.max_pixels:
                raise UnreadableVideoError(
                    path, f"is {stream.width}x{stream.height}, more than {limits.max_pixels} pixels"
                )
            # Coded frames may be padded; the limit stops a stream that grows after the header.
            stream.codec_context.options = {"max_pixels": str(2 * limits.max_pixels)}
            problem = "cannot be decoded"
            yield container, stream
    except UnreadableVideoError:
        raise
    except MemoryError:
        raise UnreadableVideoError(path, "asks for more memory than there is") from None
    except FileNotFoundError:
        raise UnreadableVideoError(path, "no such file") from None
    except (FFmpegError, OSError, ValueError, RuntimeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableVideoError(path, f"{problem} ({reason})") from None


def upright_filters(path: Path, frame: "av.VideoFrame") -> tuple[tuple[str, str], ...]:
    """Return the filters that apply a frame's display matrix, as in the ffmpeg program.

    See FFmpeg, fftools/ffmpeg_filter.c, configure_input_video_filter.
    """
    matrix = None
    entries: Any = frame.side_data  # PyAV's stubs declare a mapping
    for side_data in entries:
        if side_data.type.name == "DISPLAYMATRIX":
            matrix = struct.unpack("=9i", bytes(side_data)[:36])
    if matrix is None:
        return ()
    scale = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not all(scale):
        return ()
    turn = math.degrees(math.atan2(matrix[1] / scale[1], matrix[0] / scale[0]))
    degrees = round(turn) % 360
    if degrees in (359, 0, 1):
        return (("vflip", ""),) if matrix[4] < 0 else ()
    if degrees in (89, 90, 91):
        return (("transpose", "cclock_flip" if matrix[3] > 0 else "clock"),)
    if degrees in (179, 180, 181):
        flips = (("hflip", matrix[0] < 0), ("vflip", matrix[4] < 0))
        return tuple((name, "") for name, wanted in flips if wanted)
    if degrees in (269, 270, 271):
        return (("transpose", "clock_flip" if matrix[3] < 0 else "cclock"),)
    raise UnreadableVideoError(
        path, f"is rotated by {degrees} degrees; only quarter turns are supported"
    )
