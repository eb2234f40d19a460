"""Tokenizer losses by name, unweighted and in float32, and the weights of the losses."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from video_vq.data.loader import read_windows
from video_vq.data.order import rank_positions
from video_vq.data.windows import scoring_windows
from video_vq.errors import InputError
from video_vq.metrics.perceptual import TRUNKS, StLpips, load_st_lpips
from video_vq.models.tokenizer import TokenizerOutput
from video_vq.stores.clips import ClipStore
from video_vq.training.discriminator import Discriminator, check_adversarial
from video_vq.training.training_config import (
    AdversarialConfig,
    PerceptualConfig,
    TokenizerTrainingConfig,
)

Video = Float[Tensor, "b 3 t h w"]

MEASURED_CLIPS = 256  # number of training clips; enough to measure the variance to a few percent


class TokenizerLosses:
    """All tokenizer losses by name, including the networks that the losses need.

    `reconstruction`, `temporal`, `perceptual` and `adversarial` are computed here, the last three
    only if they have a weight other than 0. The quantizer losses (`commitment`, `codebook`, …) are
    part of the tokenizer's output. A step is identified by the number of preceding optimizer steps,
    including skipped steps.

    Args:
        store: clip store used for training; a reconstruction weight of "data" is measured on this
            store.

    Attributes:
        discriminator: adversarial discriminator; None if the adversarial weight is 0.

    Raises:
        InputError: a network does not support these clips or this precision, or network weights are
            missing (see `load_perceptual` and `check_adversarial`), or the reconstruction weight
            cannot be measured (see `reconstruction_weight`).
    """

    def __init__(self, accelerator: Accelerator, config: TokenizerTrainingConfig, store: ClipStore):
        self._accelerator, self._config = accelerator, config
        self.discriminator: Discriminator | None = None
        adversarial, size_hw = config.loss.adversarial, store.frame_size_hw
        check_adversarial(adversarial, accelerator.mixed_precision, size_hw)
        if adversarial.weight:
            self.discriminator = Discriminator(accelerator, adversarial, config.optim)
        self._perceptual = load_perceptual(
            config.loss.perceptual, (config.data.num_frames, *size_hw), accelerator.device
        )
        self._reconstruction_weight = reconstruction_weight(store, config)

    def __call__(
        self, output: TokenizerOutput, video: Video, step: int, micro_batch: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the unweighted losses of a micro-batch by name."""
        of_video = self.of_decoded(output.video, video, step, micro_batch)
        reconstruction = of_video.pop("reconstruction")
        return {"reconstruction": reconstruction, **output.quantized.losses, **of_video}

    def of_decoded(
        self, decoded: Video, video: Video, step: int, micro_batch: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the unweighted losses that depend on the decoded video, by name."""
        config, optim = self._config.loss, self._config.optim
        losses = {"reconstruction": reconstruction_loss(decoded, video, config.reconstruction)}
        if config.temporal:
            losses["temporal"] = temporal_loss(decoded, video, config.reconstruction)
        if self._perceptual is not None:
            positions = rank_positions(
                step,
                micro_batch,
                self._accelerator.process_index,
                batch_size=optim.batch_size,
                accumulation=optim.accumulation,
                world_size=self._accelerator.num_processes,
            )
            frames = draw_frames(
                video.shape[2], config.perceptual, positions, self._config.run.seed
            )
            losses["perceptual"] = perceptual_loss(self._perceptual, decoded, video, frames)
        if (discriminator := self.discriminator_at(step)) is not None:
            losses["adversarial"] = discriminator.fooling_loss(decoded)
        return losses

    def total(self, losses: dict[str, Float[Tensor, ""]], step: int) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses at a step; see `weight`."""
        return torch.stack([self.weight(name, step) * losses[name] for name in losses]).sum()

    def discriminator_at(self, step: int) -> Discriminator | None:
        """Return the discriminator if there is one and this step trains it; None otherwise.

        The discriminator is trained, and used in `of_decoded`, from step `adversarial.start` on.
        """
        return self.discriminator if step >= self._config.loss.adversarial.start else None

    def weight(self, name: str, step: int) -> float:
        """Return the weight of a loss at a step.

        A quantizer loss has the weight of the same name in the config's `loss` section, and weight
        0 during the continuous steps.
        """
        config = self._config.loss
        match name:
            case "reconstruction":
                return self._reconstruction_weight
            case "temporal":
                return config.temporal
            case "perceptual":
                return config.perceptual.weight
            case "adversarial":
                return adversarial_weight(config.adversarial, step)
        return getattr(config, name) if step >= self._config.continuous_steps else 0.0


def reconstruction_loss(
    output: Video, target: Video, kind: Literal["l1", "mse"]
) -> Float[Tensor, ""]:
    """Return the mean absolute or squared error of pixels in [-1, 1]."""
    if kind == "l1":
        return F.l1_loss(output.float(), target)
    return F.mse_loss(output.float(), target)


def temporal_loss(output: Video, target: Video, kind: Literal["l1", "mse"]) -> Float[Tensor, ""]:
    """Return the mean absolute or squared error of the differences between consecutive frames.

    For an error e in the pixels, "mse" is the mean of (e_t − e_{t−1})²: 2·(1 − ρ) times the error's
    variance if the errors of consecutive frames have correlation ρ. The loss is therefore 0 for a
    constant error and largest for an error whose sign alternates.
    """
    return reconstruction_loss(output.float().diff(dim=2), target.diff(dim=2), kind)


def perceptual_loss(
    network: StLpips, output: Video, target: Video, frames: Int[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Return the mean ST-LPIPS distance over the chosen frames of all clips.

    Args:
        network: frozen perceptual network, through which gradients pass.
        output: reconstructions, in [-1, 1].
        target: originals, in [-1, 1].
        frames: indices of the frames to compare, for each clip.
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
    """Draw distinct frame indices for each clip, from the seed and the clip's position in the run.

    The indices are the same for any number of ranks and micro-batches.

    Args:
        config: settings of the perceptual loss, including the number of frames to draw.
        positions: positions of the clips in the training run; see `rank_positions`.
    """
    drawn = [
        np.random.default_rng([seed, position, 0xF4A]).permutation(num_frames)[: config.num_frames]
        for position in positions
    ]
    return torch.from_numpy(np.stack(drawn))


def reconstruction_weight(store: ClipStore, config: TokenizerTrainingConfig) -> float:
    """Return the reconstruction weight; if the setting is "data", measure it on training clips.

    Raises:
        InputError: all pixels of the measured clips are equal.
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
            f"{store.path}: all pixels of {len(windows)} training clips are equal, so they have no "
            "variance to divide by; set loss.reconstruction_weight to a number, or check the data"
        )
    return 1 / spread


def load_perceptual(
    config: PerceptualConfig, size_thw: tuple[int, int, int], device: torch.device
) -> StLpips | None:
    """Return the network of the perceptual loss, or None if the perceptual weight is 0.

    Raises:
        InputError: the frames are too small for the network, a clip has fewer than
            `config.num_frames` frames, or the network's weights are missing.
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


def adversarial_weight(config: AdversarialConfig, step: int) -> float:
    """Return the adversarial weight at a step, which grows linearly from zero."""
    grown = (step + 1 - config.start) / max(1, config.warmup_steps)
    return config.weight * min(1.0, max(0.0, grown))
