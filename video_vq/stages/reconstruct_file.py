"""Reconstructs a video file with a tokenizer, and shows file and reconstruction side by side."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import UInt8

from video_vq.errors import InputError
from video_vq.media.decode import FrameStream
from video_vq.media.encode import write_frames
from video_vq.media.probe import VideoInfo
from video_vq.media.resize import resize
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.models.tokenizer_config import TimeSformerConfig
from video_vq.progress import progress

GAP = 4  # white pixels between the two images

Frame = UInt8[np.ndarray, "_ _ 3"]


class FileReconstruction(NamedTuple):
    """Measurements of a reconstructed video file.

    Attributes:
        num_frames, size_hw: length and frame size of the reconstruction.
        num_tokens: number of tokens for the whole video.
        bits_per_pixel: number of bits of all tokens, log2 K per token, divided by frames x height x
            width.
        psnr: peak signal-to-noise ratio in dB, from the mean squared error over all frames;
            infinite for an exact copy.
        num_damaged: number of damaged frames that the file's decoder repaired.
    """

    num_frames: int
    size_hw: tuple[int, int]
    num_tokens: int
    bits_per_pixel: float
    psnr: float
    num_damaged: int


def reconstruct_file(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    info: VideoInfo,
    out: Path,
    short_side: int | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
) -> FileReconstruction:
    """Write a video that shows a file's frames on the left and their reconstruction on the right.

    Frames with non-square pixels are first resized to square pixels, as a player shows them. A
    causal tokenizer processes the video as a stream; any other tokenizer processes separate clips
    of its training length. Clips and frames are padded with the last frame, row or column to a size
    that the tokenizer supports, and cropped afterwards. Memory use does not grow with the length.

    Args:
        accelerator: accelerator of a single process, which determines the device and precision.
        out: path of the video to write; an existing file is replaced.
        short_side: approximate length in pixels of the shorter side of the scaled frames; None
            keeps the size, with square pixels. A TimeSformer supports only one size, to which
            frames are scaled and cropped.
        num_frames: number of frames to take from the start; None takes all.
        fps: frame rate of the output; None for the file's mean rate.

    Raises:
        InputError: the file cannot be decoded or has no frame rate, or `out` cannot be written.
    """
    fps = fps or info.fps
    if fps is None:
        raise InputError(f"{info.path}: does not give a frame rate; name one with --fps")
    size_hw = _target_size(tokenizer, square_size(info.size_hw, info.pixel_aspect), short_side)
    stream = FrameStream(info)
    shown = _Shown(tokenizer, size_hw, info.pixel_aspect)
    total = min(info.num_packets, num_frames or info.num_packets)
    with progress("reconstructing", total, "frame") as bar, accelerator.autocast():
        written = write_frames(out, shown.pairs(islice(stream, num_frames), bar.update), fps)
    bits = math.log2(tokenizer.config.quantizer.codebook_size) * shown.num_tokens
    pixels = written * math.prod(size_hw)
    error = shown.squared_error / (3 * pixels)
    return FileReconstruction(
        written,
        size_hw,
        shown.num_tokens,
        bits / pixels,
        10 * math.log10(255**2 / error) if error else math.inf,
        stream.num_damaged,
    )


class _Shown:
    def __init__(self, tokenizer: VideoTokenizer, size_hw: tuple[int, int], pixel_aspect: Fraction):
        self.tokenizer = tokenizer
        self.size_hw, self.pixel_aspect = size_hw, pixel_aspect
        _, *stride_hw = tokenizer.config.backbone.total_stride_thw
        self.fill = [(0, -side % by) for side, by in zip(size_hw, stride_hw, strict=True)]
        self.waiting: deque[Frame] = deque()  # frames that are not yet reconstructed
        self.num_tokens = 0
        self.squared_error = 0

    def pairs(self, frames: Iterable[Frame], tick: Callable[[], object]) -> Iterator[Frame]:
        """Yield each frame next to its reconstruction, as one image."""
        gap = np.full((self.size_hw[0], GAP, 3), 255, np.uint8)
        for video in self._reconstructed(self._chunks(frames)):
            for copy in to_uint8(video)[0].cpu().numpy()[:, : self.size_hw[0], : self.size_hw[1]]:
                if not self.waiting:
                    return  # the remaining frames pad the last clip
                frame = self.waiting.popleft()
                difference = frame.astype(np.int32) - copy
                self.squared_error += int((difference * difference).sum(dtype=np.int64))
                yield np.concatenate([frame, gap, copy], axis=1)
                tick()

    def _chunks(self, frames: Iterable[Frame]) -> Iterator[torch.Tensor]:
        """Yield frames as one-frame videos, padded by repeating the last frame.

        For a causal tokenizer, the padding completes the last latent frame; for any other
        tokenizer, it completes the last clip.
        """
        stride_t = self.tokenizer.config.backbone.total_stride_thw[0]
        rest, by = (1, stride_t) if self._causal else (0, self.tokenizer.facts.num_frames)
        number = 0
        chunk = None
        for frame in frames:
            number += 1
            shown = resize(frame[None], self.size_hw, self.pixel_aspect)[0]
            self.waiting.append(shown)
            chunk = torch.from_numpy(np.pad(shown, (*self.fill, (0, 0)), mode="edge"))[None, None]
            yield chunk
        if chunk is not None:
            for _ in range((rest - number) % by):
                yield chunk

    def _reconstructed(self, chunks: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        if self._causal:
            yield from self.tokenizer.decode_stream(self._counted(chunks))
            return
        while clip := list(islice(chunks, self.tokenizer.facts.num_frames)):
            codes = self.tokenizer.encode(torch.cat(clip, 1))
            self.num_tokens += codes.numel()
            yield self.tokenizer.decode(codes)

    def _counted(self, chunks: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for codes in self.tokenizer.encode_stream(chunks):
            self.num_tokens += codes.numel()
            yield codes

    @property
    def _causal(self) -> bool:
        return self.tokenizer.config.backbone.causal


def square_size(size_hw: tuple[int, int], pixel_aspect: Fraction) -> tuple[int, int]:
    """Return the frame size after resizing to square pixels; neither side shrinks.

    Args:
        pixel_aspect: width of a pixel divided by its height, as shown by a player.
    """
    height, width = size_hw
    if pixel_aspect >= 1:
        return height, round(width * pixel_aspect)
    return round(height / pixel_aspect), width


def _target_size(
    tokenizer: VideoTokenizer, size_hw: tuple[int, int], short_side: int | None
) -> tuple[int, int]:
    """Return the size at which frames are reconstructed and shown."""
    backbone = tokenizer.config.backbone
    if isinstance(backbone, TimeSformerConfig):
        return backbone.size_thw[1], backbone.size_thw[2]
    if short_side is None:
        return size_hw
    scale = short_side / min(size_hw)
    height, width = (max(1, round(side * scale)) for side in size_hw)
    return height, width
