"""Converts a video file to frames of the requested rate and size, identically for every use."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.media.decode import Decoder, FrameStream
from video_vq.media.probe import DEFAULT_LIMITS, Limits, UnreadableVideoError, VideoInfo
from video_vq.media.reading import USUAL, Reading
from video_vq.media.resample import frames_at_rate, keep
from video_vq.media.resize import METHOD, resize
from video_vq.media.sources import VideoSource, source_of

# Increase a version when the same file and recipe give different bytes. RATED_FRAMES_VERSION is for
# recipes with a rate, whose frames are chosen by time stamps; FRAMES_VERSION is for other recipes.
FRAMES_VERSION = 2
RATED_FRAMES_VERSION = 3
# A slow core decodes and scales at ten times this rate.
BYTES_PER_CPU_SECOND = 50_000_000

Stage = Literal["read", "decode"]
Watch = Callable[[Stage, float], None]
"""Called when a stage of a file begins, with the stage and its limit on CPU time in seconds."""


@dataclass(frozen=True)
class FrameRecipe:
    """Settings for converting files to frames.

    Attributes:
        size_hw: height and width of the frames, in pixels.
        fps: frame rate to convert videos to; None keeps the rate of each video.
        stride: number of frames from one kept frame to the next; used only if `fps` is None.
        limits: limits on the size of a video.
        cpu_seconds: CPU time in seconds that a video may take, in addition to time proportional to
            the video's size.
        decoder: decoder to try first, which does not affect the frames of undamaged videos.
        reading: settings for reading frame folders and arrays.
    """

    size_hw: tuple[int, int]
    fps: float | None = None
    stride: int = 1
    limits: Limits = DEFAULT_LIMITS
    cpu_seconds: float = 60.0
    decoder: Decoder = "pyav"
    reading: Reading = USUAL

    def plan(self) -> dict[str, Any]:
        """Return the settings that determine the bytes of the frames, as JSON."""
        plan = self.to_json()
        del plan["decoder"]
        version = FRAMES_VERSION if self.fps is None else RATED_FRAMES_VERSION
        return {**plan, "resize": METHOD, "frames_version": version}

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON, without `reading` if it is the default; see `from_json`."""
        told = {**asdict(self), "size_hw": list(self.size_hw), "reading": self.reading.to_json()}
        if self.reading == USUAL:  # as in files written before this field existed
            del told["reading"]
        return told

    @staticmethod
    def from_json(value: dict[str, Any]) -> "FrameRecipe":
        """Restore a recipe from the result of `to_json`."""
        height, width = value["size_hw"]
        limits, reading = Limits(**value["limits"]), Reading(**value.get("reading", {}))
        made = {"size_hw": (height, width), "limits": limits, "reading": reading}
        return FrameRecipe(**{**value, **made})

    def cpu_limit(self, decoded_bytes: int) -> float:
        """Return the CPU time in seconds that a video of `decoded_bytes` bytes may take."""
        return self.cpu_seconds + decoded_bytes / BYTES_PER_CPU_SECOND


class OpenedFile(NamedTuple):
    """A video whose frames are decoded on iteration.

    Attributes:
        info: properties of the video.
        sha256: hash of the video's content.
        fps: frame rate of the kept frames; None if unknown.
        chosen: indices of the kept frames; None if every `stride`-th frame is kept.
        stream: stream of all frames in the video, whose counts are final after the last frame.
        frames: the kept frames, at the recipe's size; iteration may raise UnreadableVideoError.
    """

    info: VideoInfo
    sha256: str
    fps: float | None
    chosen: Sequence[int] | None
    stream: FrameStream
    frames: Iterator[UInt8[np.ndarray, "1 h w 3"]]

    def num_repeated(self) -> int | None:
        """Return the number of repeated frames; None without a fixed rate.

        The number is final after the last frame. Frames are repeated if the fixed rate is higher
        than the video's rate.
        """
        if self.chosen is None:
            return None
        kept = [number for number in self.chosen if number < self.stream.num_frames]
        return len(kept) - len(set(kept))

    def oddities(self) -> list[str]:
        """Return descriptions of the video's irregularities, complete after the last frame."""
        found = []
        if self.stream.num_frames != self.info.num_packets:
            found.append(f"{self.stream.num_frames} frames of {self.info.num_packets} packets")
        if (breaks := self.info.num_parts - 1) > 0:
            times = f"{breaks} times" if breaks > 1 else "once"
            found.append(f"its time stamps restart or leap {times}; its parts follow each other")
        if self.stream.handed_over is not None:
            found.append(f"PyAV took over from decord: {self.stream.handed_over}")
        found += self.info.notes
        if self.stream.num_damaged:
            found.append(f"damaged frames that were repaired: {self.stream.num_damaged}")
        return found


def open_file(path: str | Path, num_bytes: int, recipe: FrameRecipe, watch: Watch) -> OpenedFile:
    """Open one video: a video file, a frame folder, or a video in an array.

    Args:
        path: path of the video.
        num_bytes: size of the video in bytes when the video was listed.
        recipe: settings for converting the video to frames.
        watch: function that is called at the beginning of each stage.

    Raises:
        UnreadableVideoError: the video cannot be used; raised by this call, or on iteration.
    """
    source = source_of(path, recipe.reading)
    sha256 = _digest(source, num_bytes)
    watch("decode", recipe.cpu_seconds)
    info = source.probe(recipe.limits)
    chosen = None if recipe.fps is None else frames_at_rate(info, recipe.fps, recipe.limits)
    height, width = recipe.size_hw
    frames = info.num_packets if chosen is None else len(chosen)
    watch("decode", recipe.cpu_limit(info.decoded_bytes + frames * height * width * 3))
    stream = FrameStream(info, recipe.decoder, recipe.limits)
    frames = _kept(stream, chosen, recipe)
    return OpenedFile(info, sha256, _rate(info, recipe), chosen, stream, frames)


def _kept(
    stream: FrameStream, chosen: Sequence[int] | None, recipe: FrameRecipe
) -> Iterator[UInt8[np.ndarray, "1 h w 3"]]:
    decoded = iter(stream)
    kept = islice(decoded, 0, None, recipe.stride) if chosen is None else keep(decoded, chosen)
    try:
        for frame in kept:
            yield resize(frame[None], recipe.size_hw, stream.info.pixel_aspect)
        for _ in decoded:  # count the last frames, too, which a fixed rate may not need
            pass
    except MemoryError:
        reason = "needs more memory than a video may have"
        raise UnreadableVideoError(stream.info.path, reason) from None


def _rate(info: VideoInfo, recipe: FrameRecipe) -> float | None:
    if recipe.fps is not None:
        return recipe.fps
    return None if info.fps is None else info.fps / recipe.stride


def _digest(source: VideoSource, num_bytes: int) -> str:
    sha256, size = source.digest()
    if size != num_bytes:
        raise UnreadableVideoError(
            source.path,
            f"has {size:,} bytes, {num_bytes:,} when it was listed; something writes to it",
        )
    return sha256
