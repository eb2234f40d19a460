"""Draws samples that are longer than a clip, by sliding the prior's window over latent frames."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

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
    """Draws samples of any length, using memory that does not depend on the length.

    A prior models clips of T latent frames. The tokenizer is causal, so the first latent frame of a
    clip covers a single frame and has no past. Each window must therefore be a clip, too: when the
    window slides by k latent frames, the last frame of old latent frame k is decoded, and encoded
    by itself as the new first latent frame. The T - 1 - k latent frames after old latent frame k
    keep their tokens, and k new latent frames are drawn.

    No part of the key-value cache can be kept when the window slides, because position embeddings
    are learned for the latent frames of a clip, and all layers above the first depend on the
    dropped frames. The prior therefore processes the T - k given latent frames again in one pass;
    within a window, the cache is kept.

    Args:
        accelerator: accelerator whose device and precision are used for decoding and encoding.
        sampler: the prior's sampler, which draws one window at a time.
        batch_size: maximum number of samples in a batch; smaller batches are padded for decoding
            and encoding.
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
        """Yield the tokens that each window adds to the samples.

        Args:
            seeds: one seed per sample; each window of a sample uses different noise.
            class_labels: class of each sample, used for all of the sample's windows.
            given: first tokens of each sample, fewer than in a clip.
            actions: action values for each latent frame of the samples.
            progress: function that is called with the number of tokens just drawn.

        Raises:
            InputError: as for `TokenSampler.draw`.
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
        """Return the given tokens of the next window, computed from the current window's tokens."""
        stride = self.length.stride
        # Only the last of these frames is needed, but the decoder depends on the earlier ones.
        clips = decode_grids(
            self.accelerator, self.tokenizer, tokens[:, : stride + 1], self.batch_size
        )
        first = given_tokens(self.accelerator, self.tokenizer, clips[:, -1:], self.batch_size)
        kept = rearrange(tokens[:, stride + 1 :], "n t h w ... -> n (t h w) ...")
        return torch.cat([first, kept], dim=1)


def window_actions(
    actions: Float[Tensor, "n t a"], number: int, length: SampleLength
) -> Float[Tensor, "n window a"]:
    """Return the actions of one window; as in a clip, the first latent frame's actions are 0.

    The actions are also 0 for latent frames beyond the end of the sample, which are drawn but
    dropped.
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
    """Decode a stream of latent frames, and yield the decoded frames chunk by chunk.

    Args:
        tokenizer: a causal tokenizer.
    """
    # The prior draws at its own precision, so autocast is off.
    drawn = _inside(partial(torch.autocast, accelerator.device.type, enabled=False), latents)
    for part in _inside(accelerator.autocast, tokenizer.decode_stream(drawn)):
        yield to_uint8(part).cpu().numpy()


def _inside(
    context: Callable[..., AbstractContextManager[Any]], parts: Iterator[Tensor]
) -> Iterator[Tensor]:
    """Yield the tensors of an iterator, computing each tensor inside a new context."""
    while True:
        with context():
            part = next(parts, None)
        if part is None:
            return
        yield part
