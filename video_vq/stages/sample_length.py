"""Computes the length of samples, and the windows of samples that are longer than a clip."""

import math
from typing import NamedTuple

from video_vq.errors import InputError
from video_vq.models.tokenizer_config import TokenizerConfig, TokenizerFacts


class SampleLength(NamedTuple):
    """The length of a sample, and the length and stride of its windows.

    Attributes:
        num_frames: number of frames in a sample.
        num_latents: number of latent frames in a sample.
        window: number of latent frames in a window, as in a clip of the prior's training.
        stride: number of latent frames that each window after the first adds.
    """

    num_frames: int
    num_latents: int
    window: int
    stride: int

    @property
    def num_windows(self) -> int:
        """Return the number of windows in a sample."""
        return 1 + max(0, -(-(self.num_latents - self.window) // self.stride))

    def num_drawn(self, num_given: int) -> int:
        """Return the number of latent frames to draw if the first `num_given` are given.

        The number includes latent frames of the last window beyond the end of the sample.
        """
        return self.window - num_given + (self.num_windows - 1) * self.stride


def clip_length(facts: TokenizerFacts) -> SampleLength:
    """Return the length of a tokenizer's clips, which are one window long."""
    num_latents = facts.grid_thw[0]
    return SampleLength(facts.num_frames, num_latents, num_latents, num_latents)


def length_of_latents(
    num_latents: int, config: TokenizerConfig, facts: TokenizerFacts, stride: int | None
) -> SampleLength:
    """Return the length of samples with a given number of latent frames.

    Args:
        stride: number of latent frames that each window adds; None for half a window.

    Raises:
        InputError: the tokenizer is not causal, a clip has a single latent frame, or the stride is
            less than 1 or not less than the window.
    """
    if not config.backbone.causal:
        raise InputError(
            "--seconds needs a causal tokenizer; in this one, each frame depends on later "
            "ones, so clips cannot be continued; train one with "
            "model.backbone.causal=true, or leave --seconds out"
        )
    window = facts.grid_thw[0]
    if window < 2:
        raise InputError(
            "--seconds: the prior's clips have one latent frame, so it cannot continue "
            "them; train tokenizer and prior on longer clips"
        )
    stride = window // 2 if stride is None else stride
    if not 1 <= stride < window:
        raise InputError(
            f"--window-stride {stride}: expected 1 to {window - 1}; the prior's clips have "
            f"{window} latent frames, and a window continues at least one of them"
        )
    frames_per_latent = config.backbone.total_stride_thw[0]
    num_frames = 1 + (num_latents - 1) * frames_per_latent
    return SampleLength(num_frames, num_latents, window, stride)


def latents_within(seconds: float, fps: float, frames_per_latent: int, is_first: bool) -> int:
    """Return the smallest number of latent frames that last at least `seconds`.

    Args:
        is_first: whether the latent frames begin a video, so that the first covers a single frame.
    """
    num_frames = math.ceil(seconds * fps - 1e-6) - is_first
    return max(0, -(-num_frames // frames_per_latent)) + is_first
