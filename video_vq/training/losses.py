"""Losses of the tokenizer: unweighted, float32, and what they are weighed with."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from video_vq.data.loader import read_windows
from video_vq.data.windows import scoring_windows
from video_vq.errors import InputError
from video_vq.metrics.perceptual import TRUNKS, StLpips, load_st_lpips
from video_vq.stores.clips import ClipStore
from video_vq.training.training_config import (
    PerceptualConfig,
    TokenizerLossConfig,
    TokenizerTrainingConfig,
)

Video = Float[Tensor, "b 3 t h w"]

MEASURED_CLIPS = 256  # of the training data; their pixels tell its variance to a few percent


def reconstruction_loss(
    output: Video, target: Video, kind: Literal["l1", "mse"]
) -> Float[Tensor, ""]:
    """Return the mean absolute or squared error of pixels in [-1, 1]."""
    if kind == "l1":
        return F.l1_loss(output.float(), target)
    return F.mse_loss(output.float(), target)


def perceptual_loss(
    network: StLpips, output: Video, target: Video, frames: Int[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Return the mean ST-LPIPS of the named frames of each clip.

    Args:
        network: frozen; gradients pass through it.
        output: what was decoded.
        target: the originals.
        frames: numbers of frames, each clip's own.
    """
    clip = torch.arange(len(frames), device=output.device)[:, None]
    frames = frames.to(output.device)
    chosen = (
        rearrange(video.movedim(2, 1)[clip, frames], "b n c h w -> (b n) c h w")
        for video in (output.float(), target)
    )
    return network(*chosen).mean()


def draw_frames(
    num_frames: int, config: PerceptualConfig, positions: Sequence[int], seed: int
) -> Int[Tensor, "b n"]:
    """Draw different frames of each clip, by the clip's position in the training alone.

    Any number of ranks and micro-batches draws the same.

    Args:
        num_frames: of a clip.
        config: says how many to draw.
        positions: of the clips, see `rank_positions`.
        seed: of the run.
    """
    drawn = [
        np.random.default_rng([seed, position, 0xF4A]).permutation(num_frames)[: config.num_frames]
        for position in positions
    ]
    return torch.from_numpy(np.stack(drawn))


def reconstruction_weight(store: ClipStore, config: TokenizerTrainingConfig) -> float:
    """Return the weight of the reconstruction loss, measured on training clips if it is "data".

    Raises:
        InputError: all pixels are alike.
    """
    if config.loss.reconstruction_weight != "data":
        return config.loss.reconstruction_weight
    clip = config.data
    windows = scoring_windows(
        *(store, "train", clip.num_frames, clip.stride, MEASURED_CLIPS, config.run.seed),
        clip.short_videos,
    )
    levels = torch.zeros(256, dtype=torch.float64)
    for window in windows:
        levels += torch.bincount(read_windows(store, [window]).flatten(), minlength=256)
    share, value = levels / levels.sum(), torch.arange(256, dtype=torch.float64) / 127.5 - 1
    power = 1 if config.loss.reconstruction == "l1" else 2
    spread = float((share * (value - (share * value).sum()).abs() ** power).sum())
    if spread < 1e-8:
        raise InputError(
            f"{store.path}: all pixels of {len(windows)} training clips are alike, so they have no "
            "variance to divide by; set loss.reconstruction_weight to a number, or look at the data"
        )
    return 1 / spread


def load_perceptual(
    config: PerceptualConfig, size_thw: tuple[int, int, int], device: torch.device
) -> StLpips | None:
    """Return the network of the perceptual loss, None where it has no weight.

    Raises:
        InputError: frames are too small for it, a clip has fewer than are to be drawn, or the
            network's weights are not here.
    """
    if not config.weight:
        return None
    num_frames, height, width = size_thw
    least = TRUNKS[config.trunk].min_size
    if min(height, width) < least:
        raise InputError(
            f"the perceptual loss on {config.trunk} takes frames of at least {least} x {least} "
            f"pixels, found {height} x {width}; set loss.perceptual.weight=0"
        )
    if config.num_frames > num_frames:
        raise InputError(
            f"loss.perceptual.num_frames = {config.num_frames} is more than the {num_frames} "
            "frames of a clip (data.num_frames)"
        )
    return load_st_lpips(config.trunk).to(device)


def loss_weights(
    config: TokenizerLossConfig, reconstruction_weight: float, step: int
) -> dict[str, float]:
    """Return what each loss is weighed with at a step; the adversarial one grows from zero."""
    adversarial = config.adversarial
    grown = (step + 1 - adversarial.start) / max(1, adversarial.warmup_steps)
    return {
        "reconstruction": reconstruction_weight,
        "commitment": config.commitment,
        "codebook": config.codebook,
        "perceptual": config.perceptual.weight,
        "adversarial": adversarial.weight * min(1.0, max(0.0, grown)),
    }
