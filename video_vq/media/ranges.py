"""Decodes ranges of a long video's frames, without decoding the whole file for each range."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from video_vq.media.decode import ToRgb
from video_vq.media.probe import (
    DEFAULT_LIMITS,
    Limits,
    UnreadableVideoError,
    VideoInfo,
    opened,
    probe,
)

if TYPE_CHECKING:
    import av


class FrameRanges:
    """Reads ranges of a video's frames, with a seek unless a range continues the previous range.

    Frames are identified by their times: the times of all packets are read first, and every decoded
    frame must have the next packet's time. This check detects wrong seeks and lost or repeated
    frames; after a wrong seek, the file is decoded from the beginning.

    Attributes:
        info: the result of `probe`.
        num_damaged: number of frames in the last range that FFmpeg reports as repaired.
        num_decoded: number of frames decoded so far, including those that were skipped.

    Raises:
        UnreadableVideoError: as for `probe`; or the frames have no timestamps, or the timestamps
            restart or jump.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS):
        self.info: VideoInfo = probe(path, limits)
        self.limits = limits
        self.num_damaged = 0
        self.num_decoded = 0
        times = self.info.timestamps
        if self.info.num_parts > 1:
            raise UnreadableVideoError(self.info.path, "its time stamps restart or leap")
        if times is None or any(after <= before for before, after in pairwise(times)):
            raise UnreadableVideoError(self.info.path, "its frames have no times of their own")
        self._times = times
        self._places = {time: place for place, time in enumerate(times)}
        self._decoder: Generator[tuple[int, av.VideoFrame]] | None = None
        self._head: tuple[int, av.VideoFrame] | None = None  # decoded, but not yet yielded
        self._next = 0  # position of the frame to be yielded next
        self._convert: ToRgb | None = None

    def seconds(self, place: int) -> float:
        """Return the time in seconds at which a frame is shown."""
        return float(self._times[place] * self.info.time_base)

    def nearest(self, seconds: float) -> int:
        """Return the index of the frame whose time is nearest to `seconds`."""
        times = np.asarray(self._times, np.float64) * float(self.info.time_base)
        return int(np.abs(times - seconds).argmin())

    def frames(self, first: int, count: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Yield `count` frames, starting at index `first`.

        Raises:
            UnreadableVideoError: a frame cannot be decoded, is missing, or differs in size.
        """
        self.num_damaged = 0
        if self._decoder is None or self._next != first:
            self._seek(first)
        for place in range(first, first + count):
            frame = self._take(place)
            pixels = self._to_rgb(frame)
            if pixels.shape != (*self.info.size_hw, 3):
                raise self._unreadable(f"changes its size at frame {place}")
            self.num_damaged += frame.is_corrupt
            self._next = place + 1
            yield pixels

    def close(self) -> None:
        """Close the file; reading another range opens the file again."""
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = self._head = self._convert = None

    def _seek(self, first: int) -> None:
        """Move the decoder to frame `first` or an earlier frame, at worst the file's beginning.

        A file may state a wrong position for a keyframe; the first frame after the seek is then too
        late or missing.
        """
        self.close()
        if first:
            self._decoder = self._decode(first)
            with suppress(UnreadableVideoError):
                self._head = next(self._decoder, None)
            if self._head is not None and self._head[0] <= first:
                return
            self.close()
        self._decoder = self._decode(0)

    def _take(self, wanted: int) -> "av.VideoFrame":
        """Return the frame at an index, skipping earlier frames."""
        assert self._decoder is not None
        before = -1
        while True:
            found = self._head or next(self._decoder, None)
            self._head = None
            if found is None:
                raise self._unreadable(f"ends before frame {wanted}")
            place, frame = found
            if place == wanted:
                return frame
            if place > wanted or place <= before:
                raise self._unreadable(f"frame {wanted} is lost: frame {place} comes in its place")
            before = place

    def _unreadable(self, reason: str) -> UnreadableVideoError:
        self.close()
        return UnreadableVideoError(self.info.path, reason)

    def _to_rgb(self, frame: "av.VideoFrame") -> np.ndarray:
        from av.error import FFmpegError

        try:
            if self._convert is None or not self._convert.takes(frame):
                self._convert = ToRgb(frame, self.info.upright, self.info.time_base)
            return self._convert(frame)
        except (FFmpegError, ValueError, RuntimeError, MemoryError) as error:
            raise self._unreadable(f"a frame cannot be converted to RGB ({error})") from None

    def _decode(self, first: int) -> "Generator[tuple[int, av.VideoFrame]]":
        """Yield the index and the image of each frame after a seek to frame `first`."""
        with opened(self.info.path, self.limits) as (container, stream):
            if first:
                container.seek(self._times[first], stream=stream, backward=True)
            for frame in container.decode(stream):
                place = self._places.get(frame.pts) if frame.pts is not None else None
                if place is None:
                    raise UnreadableVideoError(
                        self.info.path, f"a frame has the time {frame.pts}, which no packet has"
                    )
                self.num_decoded += 1
                yield place, frame
