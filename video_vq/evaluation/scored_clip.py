"""Clips to score, each identified by its content.

Clips in memory, and clips from frame folders and arrays, are identified by their pixels. Clips from
video files are identified by the file's bytes and the frame numbers, because hashing decoded
full-HD frames takes as long as decoding them; a file is decoded only if the clip's features are not
cached.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from video_vq.evaluation.feature_cache import PassingClip, clip_key
from video_vq.media.decode import FirstFrames, FrameStream, pyav_version
from video_vq.media.probe import DEFAULT_LIMITS, UnreadableVideoError, VideoInfo, probe
from video_vq.media.reading import USUAL, Reading
from video_vq.media.resample import frames_at_rate, keep
from video_vq.media.sources import VideoFile, source_of
from video_vq.metrics.protocol import FVDProtocol
from video_vq.metrics.resize import (
    NETWORK_SIZE,
    check_length,
    network_input,
    prepare_frames,
    rows_read,
)
from video_vq.stores.files import sha256_file, sha256_json

Frame = UInt8[np.ndarray, "h w 3"]
Clip = UInt8[np.ndarray, "t h w 3"]
# Returns a clip as network input on a device, for one of the protocols that the clip was read for.
ReadClip = Callable[[FVDProtocol, torch.device], Float[Tensor, "t 224 224 3"]]


class Cut(NamedTuple):
    """Settings for cutting clips out of videos.

    Attributes:
        num_frames, stride: number of frames per clip, and the frame stride in the video.
        fps: frame rate to which videos are converted first; None to keep each video's frame rate.
    """

    num_frames: int
    stride: int = 1
    fps: float | None = None

    @property
    def span(self) -> int:
        """Return the number of video frames from a clip's first frame to its last, inclusive."""
        return (self.num_frames - 1) * self.stride + 1


class ScoredClip(NamedTuple):
    """A clip that is identified by hashes, and whose pixels are read only on request.

    Attributes:
        key: hash that determines the pixels: clips with the same key have the same pixels.
        data_hash: hexadecimal hash of the clip's content, independent of the decoder.
        kind: function that returns the frame size and rate as text; cheaper after `read`.
        read: function that reads the clip for the given protocols.
    """

    key: bytes
    data_hash: str
    kind: Callable[[], str]
    read: Callable[[Sequence[FVDProtocol]], ReadClip]


def read_clip(clip: UInt8[Tensor, "t h w 3"]) -> ReadClip:
    """Wrap a clip in memory as a `ReadClip` that resizes the clip on the network's device."""

    def input_of(protocol: FVDProtocol, device: torch.device) -> Float[Tensor, "t 224 224 3"]:
        return rearrange(network_input(clip[None].to(device), protocol), "1 c t h w -> t h w c")

    return input_of


def clip_at_hand(clip: Clip, fps: float | None) -> ScoredClip:
    """Return a `ScoredClip` for a clip in memory; both hashes are computed by `clip_key`."""
    key = clip_key(clip)
    return ScoredClip(
        key,
        key.hex(),
        lambda: _kind(clip.shape[1:3], fps),
        lambda protocols: read_clip(torch.from_numpy(clip)),
    )


def clip_of_video(path: Path, cut: Cut, reading: Reading = USUAL) -> ScoredClip:
    """Return the first clip of a video: a video file, a frame folder, or a video in an array.

    Raises:
        UnreadableVideoError: the video cannot be read, or is shorter than a clip; `read` may also
            raise this error.
    """
    source = source_of(path, reading)
    if isinstance(source, VideoFile):
        return clip_of_file(path, cut)
    return _clip_of_pictures(source.probe(DEFAULT_LIMITS), cut)


def _clip_of_pictures(info: VideoInfo, cut: Cut) -> ScoredClip:
    """Return the first clip of a frame folder or an array, identified by the clip's pixels.

    Only one frame is in memory at a time; `read` decodes the frames again.
    """
    indices = range(info.num_packets) if cut.fps is None else frames_at_rate(info, cut.fps)
    chosen = list(indices[: cut.span : cut.stride])
    if len(chosen) < cut.num_frames:
        raise _too_short(info.path, cut)

    def passing() -> PassingClip:
        decoded = islice(FrameStream(info), chosen[-1] + 1)
        return PassingClip(keep(decoded, chosen), cut.num_frames)

    named = passing()
    for _ in named:
        pass

    def read(protocols: Sequence[FVDProtocol]) -> ReadClip:
        again = passing()
        inputs = _network_inputs(again, range(cut.num_frames), protocols)
        return _read_inputs(info.path, cut, inputs, again.key() == named.key())

    fps = info.fps if cut.fps is None else cut.fps
    kind = _kind(info.size_hw, None if fps is None else fps / cut.stride)
    return ScoredClip(named.key(), named.key().hex(), lambda: kind, read)


def clip_of_file(file: Path, cut: Cut) -> ScoredClip:
    """Return the first clip of a video file, without decoding the file.

    The content hash covers the file's SHA-256 and the frame numbers; the key also covers the
    decoder's version.

    Raises:
        UnreadableVideoError: the file cannot be read; `read` also raises this error if the file is
            shorter than a clip, or has changed.
    """
    file_hash = _content_hash(file)
    info, indices = None, range(cut.span)
    if cut.fps is not None:
        info = probe(file)
        indices = frames_at_rate(info, cut.fps)
    chosen = list(indices)[: cut.span : cut.stride]
    data_hash = sha256_json({"file": file_hash, "frames": chosen})

    def read(protocols: Sequence[FVDProtocol]) -> ReadClip:
        nonlocal info
        frames = FirstFrames(file, chosen[-1] + 1)
        inputs = _network_inputs(frames, chosen, protocols)
        if len(chosen) < cut.num_frames:
            inputs = None
        found = _read_inputs(file, cut, inputs, inputs is None or _content_hash(file) == file_hash)
        info = frames.info
        return found

    def kind() -> str:
        found = info or probe(file)
        fps = found.fps if cut.fps is None else cut.fps
        return _kind(found.size_hw, None if fps is None else fps / cut.stride)

    key = sha256_json({"clip": data_hash, "decoder": pyav_version()})
    return ScoredClip(bytes.fromhex(key), data_hash, kind, read)


def _read_inputs(
    path: Path, cut: Cut, inputs: dict[str, Float[Tensor, "t 224 224 3"]] | None, is_same: bool
) -> ReadClip:
    """Return a `ReadClip` that selects one of a clip's network inputs.

    Args:
        inputs: network input for each preparation; None if the video is too short.
        is_same: whether the video is unchanged since the clip was identified.
    """
    if inputs is None:
        raise _too_short(path, cut)
    if not is_same:
        raise UnreadableVideoError(path, "was changed while it was read; score it again")

    def input_of(protocol: FVDProtocol, device: torch.device) -> Float[Tensor, "t 224 224 3"]:
        check_length(cut.num_frames, protocol)
        return inputs[protocol.preparation].to(device)

    return input_of


def _too_short(path: Path, cut: Cut) -> UnreadableVideoError:
    return UnreadableVideoError(
        path,
        f"is shorter than a clip of {cut.span} frames "
        f"({cut.num_frames} at stride {cut.stride}); lower --frames or --stride",
    )


def _content_hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError as error:
        raise UnreadableVideoError(file, f"cannot be read ({error.strerror})") from None


def _network_inputs(
    frames: Iterable[Frame], indices: Sequence[int], protocols: Sequence[FVDProtocol]
) -> dict[str, Float[Tensor, "t 224 224 3"]] | None:
    """Return the network input for each preparation, or None if the video is too short.

    Each frame is resized right after decoding, since a clip of full-HD frames would take 100 MB.

    Args:
        indices: ascending indices of the clip's frames.
    """
    shape = (len(indices), NETWORK_SIZE, NETWORK_SIZE, 3)
    inputs = {protocol.preparation: torch.empty(shape) for protocol in protocols}
    pixels, rows = torch.empty(0), np.empty(0, np.int64)
    count = 0
    decoded = iter(frames)
    for frame in keep(decoded, indices):
        if not count:  # zeros, because unread rows must still be finite
            pixels = torch.zeros((1, *frame.shape))
            rows = rows_read(frame.shape[:2], protocols)
        pixels.numpy()[0, rows] = frame[rows]
        for protocol in protocols:
            prepare_frames(pixels, protocol, inputs[protocol.preparation][count : count + 1])
        count += 1
    for _ in decoded:  # run to the end, to raise any error about the rest of the file
        pass
    return inputs if count == len(indices) else None


def _kind(size_hw: tuple[int, ...], fps: float | None) -> str:
    rate = "unknown rate" if fps is None else f"{fps:.4g} fps"
    return f"{size_hw[0]}x{size_hw[1]} at {rate}"
