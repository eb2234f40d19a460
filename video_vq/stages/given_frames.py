"""Initial frames of real videos, from which generated samples continue."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Int, UInt8
from torch import Tensor

from video_vq.data.windows import usable_videos
from video_vq.errors import InputError
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stages.sample_job import FramesToGive
from video_vq.stores.clips import ClipStore


class GivenFrames:
    """The first frames of a store's videos, as pixels and as tokens of a causal tokenizer.

    Sample i begins with the first frames of video i // per_clip, counted over the split's videos
    that are long enough.

    Args:
        tokenizer: a causal tokenizer, so that the given tokens do not depend on later frames.

    Raises:
        InputError: the tokenizer is not causal, the store or split does not exist, no video is long
            enough, or the size or number of frames does not fit the tokenizer.
    """

    def __init__(self, request: FramesToGive, per_clip: int, tokenizer: VideoTokenizer):
        path, split, num_frames, shown = request
        facts = tokenizer.facts
        self.num_latents = given_latents(tokenizer, num_frames)
        self.store = ClipStore(path)
        if self.store.frame_size_hw != facts.frame_size_hw:
            raise InputError(
                f"{path}: frames of {self.store.frame_size_hw}, the tokenizer's are of "
                f"{facts.frame_size_hw}; prepare them at that size"
            )
        self.split, self.num_frames, self.per_clip, self.shown = split, num_frames, per_clip, shown
        self.tokenizer, self.stride = tokenizer, facts.stride
        self.videos = usable_videos(self.store, split, num_frames, facts.stride)

    @property
    def num_samples(self) -> int:
        """Return the total number of samples for all videos."""
        return len(self.videos) * self.per_clip

    def plan(self) -> dict[str, Any]:
        """Return the settings of the given frames, to be added to the plan of the sample store."""
        return {
            "given_data": self.store.content_hash,
            "given_split": self.split,
            "given_frames": self.num_frames,
            "samples_per_clip": self.per_clip,
            "given_shown": self.shown,
        }

    def video(self, number: int) -> int:
        """Return the store index of the video that a sample continues."""
        return self.videos[number // self.per_clip]

    def frames(self, number: int) -> UInt8[np.ndarray, "t h w 3"]:
        """Return a sample's given frames."""
        return self.store.read(self.video(number), 0, self.num_frames, self.stride)

    def tokens(
        self, accelerator: Accelerator, numbers: Sequence[int], batch_size: int
    ) -> Int[Tensor, "n p *level"]:
        """Return the given tokens of samples, encoded as one batch padded to `batch_size`."""
        frames = np.stack([self.frames(number) for number in numbers])
        return given_tokens(accelerator, self.tokenizer, frames, batch_size)


def with_frames(
    chunks: Iterable[UInt8[np.ndarray, "_ ..."]], first: UInt8[np.ndarray, "t ..."]
) -> Iterator[UInt8[np.ndarray, "_ ..."]]:
    """Yield the chunks of a video, with the video's first frames replaced by `first`."""
    for chunk in chunks:
        own = first[: len(chunk)]
        first = first[len(chunk) :]
        yield np.concatenate([own, chunk[len(own) :]]) if len(own) else chunk


def given_latents(tokenizer: VideoTokenizer, num_frames: int) -> int:
    """Return the number of latent frames for `num_frames` given frames.

    Raises:
        InputError: the tokenizer is not causal, or the given frames do not fill whole latent frames
            or leave no frame of a clip to generate.
    """
    backbone, facts = tokenizer.config.backbone, tokenizer.facts
    if not backbone.causal:
        raise InputError(
            "frames cannot be given: this tokenizer is not causal, so tokens of the first "
            "frames depend on later ones; train one that is (`train-tokenizer --config "
            "bair` or bair_small, for any clips of 64 px; in your own config, "
            "model.backbone.causal=true)"
        )
    stride = backbone.total_stride_thw[0]
    if num_frames >= facts.num_frames or (num_frames - 1) % stride:
        most = facts.num_frames - stride
        raise InputError(
            f"--given-frames {num_frames}: expected 1 + a multiple of {stride}, the tokenizer's "
            f"stride in time, and at most {most}: its clips have {facts.num_frames} frames in all"
        )
    return backbone.grid_thw((num_frames, *facts.frame_size_hw))[0]


@torch.no_grad()
def given_tokens(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    frames: UInt8[np.ndarray, "n g h w 3"],
    batch_size: int,
) -> Int[Tensor, "n p *level"]:
    """Return the tokens of clips' first frames, encoded as one batch padded to `batch_size`.

    Each clip is padded with the last given frame; no later frame is read.
    """
    index = np.minimum(np.arange(tokenizer.facts.num_frames), frames.shape[1] - 1)
    rows = np.minimum(np.arange(batch_size), len(frames) - 1)
    padded = torch.from_numpy(frames[rows][:, index])
    with accelerator.autocast():
        codes = tokenizer.encode(padded.to(accelerator.device))
    given = codes[: len(frames), : given_latents(tokenizer, frames.shape[1])].long().cpu()
    return rearrange(given, "n t h w ... -> n (t h w) ...")
