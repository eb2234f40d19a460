"""Samples longer than a clip: the prior's window slides over latent frames."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from video_vq.models.priors import AnySampler
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.stages.decode_tokens import decode_grids
from video_vq.stages.given_frames import given_tokens
from video_vq.stages.sample_length import SampleLength


class LongSampler:
    """Draws samples of any length, in memory that their length does not show.

    A prior knows clips of T latent frames, of which the first holds one frame alone (the tokenizer
    is causal) and has no past. So each window is made a clip again: when it slides by k latent
    frames, its new first latent frame is the last frame of old latent frame k, decoded and encoded
    by itself; the T - 1 - k latent frames after that keep their tokens, and k new ones are drawn.

    Nothing of the key-value cache outlasts a slide: positions are learned for the latent frames of
    a clip, and all layers above the first have seen what was dropped. The T - k given latent frames
    are read again in one pass; within a window the cache is kept.

    Args:
        accelerator: its device and precision; decodes and encodes.
        sampler: the prior's sampler; the first window is what it draws of a clip.
        batch_size: samples at once, at most; decoded and encoded as a full batch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        tokenizer: VideoTokenizer,
        sampler: AnySampler,
        length: SampleLength,
        batch_size: int,
    ):
        self.accelerator, self.tokenizer, self.sampler = accelerator, tokenizer, sampler
        self.length, self.batch_size = length, batch_size

    def latents(
        self,
        seeds: Sequence[int],
        class_labels: Int[Tensor, " n"] | None = None,
        given: Int[Tensor, "n p *level"] | None = None,
        actions: Float[Tensor, "n t a"] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Int[Tensor, "n t h w *level"]]:
        """Yield the tokens of samples, window by window: what each adds.

        Args:
            seeds: one per sample; every window of it has noise of its own.
            class_labels: class of each sample, for all windows.
            given: the first tokens of each sample, of less than a clip.
            actions: numbers per latent frame of the sample.
            progress: called with the number of tokens just drawn.

        Raises:
            InputError: see `TokenSampler.draw`.
        """
        _, _, window, stride = self.length
        left = self.length.num_latents
        tokens: Tensor | None = None
        for number in range(self.length.num_windows):
            if tokens is not None:
                given = self._slid(tokens)
            of_window = None if actions is None else window_actions(actions, number, self.length)
            tokens = self.sampler.draw(seeds, class_labels, given, of_window, progress, number)
            new = tokens[:, -stride:] if number else tokens
            yield new[:, :left]
            left -= new.shape[1]
        assert left <= 0 <= left + window

    def _slid(self, tokens: Int[Tensor, "n t h w *level"]) -> Int[Tensor, "n p *level"]:
        """Return what the next window is given of this one's tokens."""
        stride = self.length.stride
        # Only the last of these frames is needed, but the decoder has a past.
        clips = decode_grids(
            self.accelerator, self.tokenizer, tokens[:, : stride + 1], self.batch_size
        )
        first = given_tokens(self.accelerator, self.tokenizer, clips[:, -1:], self.batch_size)
        kept = rearrange(tokens[:, stride + 1 :], "n t h w ... -> n (t h w) ...")
        return torch.cat([first, kept], dim=1)


def window_actions(
    actions: Float[Tensor, "n t a"], number: int, length: SampleLength
) -> Float[Tensor, "n window a"]:
    """Return the actions of one window: as in a clip, none lead to its first frame.

    What lies behind the sample's end is drawn and dropped; its actions are 0.
    """
    start = number * length.stride
    found = actions[:, start : start + length.window].clone()
    found[:, 0] = 0
    return F.pad(found, (0, 0, 0, length.window - found.shape[1]))


def decoded_frames(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    latents: Iterator[Int[Tensor, "n t h w *level"]],
) -> Iterator[UInt8[np.ndarray, "n t h w 3"]]:
    """Yield the frames of latent frames while they come, decoded as one stream.

    Args:
        tokenizer: causal.
    """

    def drawn() -> Iterator[Tensor]:
        while True:
            with torch.autocast(accelerator.device.type, enabled=False):  # a prior's own precision
                part = next(latents, None)
            if part is None:
                return
            yield part

    stream = tokenizer.decode_stream(drawn())
    while True:
        with accelerator.autocast():
            part = next(stream, None)
        if part is None:
            return
        yield to_uint8(part).cpu().numpy()
