"""Trains a model for a budget of CPU time, with checks in between, and scores reconstructions."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from arms import CODEBOOK_SIZE, Ours
from jaxtyping import UInt8
from measure import DTYPES
from recipes import Baseline, Recipe
from torch import Tensor, nn

from video_vq.data.clip_config import ClipConfig
from video_vq.data.loader import ClipSequence, training_batches
from video_vq.metrics.code_usage import CodeUsage
from video_vq.metrics.reconstruction import psnr_per_clip, ssim_per_clip
from video_vq.models.tokenizer import to_pixels, to_uint8
from video_vq.stores.clips import ClipStore
from video_vq.training.optimizer import learning_rate, make_optimizer, set_learning_rate

NUM_FRAMES = 16
CHECKS, CHECKED_CLIPS = 24, 16  # of val PSNR while a training runs
GOALS = (26.0, 28.0)  # dB; the report tells the time to reach them

Clips = UInt8[Tensor, "b t h w 3"]


class Settings(NamedTuple):
    """The settings that all training runs of a comparison share, except for the seed."""

    batch_size: int
    precision: str
    num_clips: int  # that are scored
    seed: int


def autocast(settings: Settings) -> torch.autocast:
    """Return the autocast context for training and scoring."""
    return torch.autocast("cpu", DTYPES[settings.precision], settings.precision != "fp32")


@torch.no_grad()
def reconstruct(
    model: Ours | Baseline, clips: Clips, settings: Settings
) -> tuple[Clips, CodeUsage]:
    """Return reconstructions and the code usage."""
    model.eval()
    usage = CodeUsage(CODEBOOK_SIZE)
    copies = []
    for part in clips.split(settings.batch_size):
        with autocast(settings):
            output = model(to_pixels(part))
        copies.append(to_uint8(output.video))
        if output.codes is not None:
            usage.update(output.codes)
    return torch.cat(copies), usage


def similarity(copies: Clips, clips: Clips) -> dict[str, float]:
    """Return the mean PSNR and SSIM over the clips."""
    return {
        "psnr": float(psnr_per_clip(copies, clips).mean()),
        "ssim": float(ssim_per_clip(copies, clips).mean()),
    }


class Checks:
    """Measures PSNR on a few val clips at equal intervals of the training budget.

    The CPU time of these checks does not count towards the budget.

    Attributes:
        curve: CPU seconds of training and PSNR in dB, for each check.
        seconds: CPU seconds that the checks took.
    """

    def __init__(self, model: Ours | Baseline, clips: Clips, settings: Settings, budget: float):
        self.model = model
        self.clips = clips[:: max(1, len(clips) // CHECKED_CLIPS)][:CHECKED_CLIPS]
        self.settings = settings
        self.budget = budget
        self.curve: list[tuple[float, float]] = []
        self.seconds = 0.0

    def __call__(self, spent: float) -> None:
        """Record the PSNR in `curve` if a check is due after `spent` CPU seconds of training."""
        if spent < self.budget * (len(self.curve) + 1) / CHECKS:
            return
        started = time.process_time()
        copies, _ = reconstruct(self.model, self.clips, self.settings)
        self.curve.append((spent, similarity(copies, self.clips)["psnr"]))
        self.model.train()
        self.seconds += time.process_time() - started


def seconds_to_reach(goal: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """Return when a curve of seconds and dB first reaches a goal, interpolating linearly.

    The result is None if the curve never reaches it, and the time of the first check if that
    already reaches it.
    """
    for index, (seconds, psnr) in enumerate(curve):
        if psnr >= goal:
            if index == 0:
                return seconds
            before, lower = curve[index - 1]
            return before + (seconds - before) * (goal - lower) / (psnr - lower)
    return None


def train(
    model: Ours | Baseline,
    recipe: Recipe,
    store: ClipStore,
    val: Clips,
    settings: Settings,
    seconds: float,
    lr: float,
) -> dict[str, Any]:
    """Train for a budget of CPU seconds, but at least for one step; return the measurements."""
    config = replace(recipe.optimizer, lr=lr)
    loss_of = recipe.loss()
    optimizer = make_optimizer(model, config, model.outer_layers)
    if of_loss := list(loss_of.parameters()):
        optimizer.add_param_group({"params": of_loss, "weight_decay": 0.0})
    dataset = ClipSequence(store, "train", ClipConfig(NUM_FRAMES), settings.seed)
    batches = training_batches(
        dataset,
        first_step=0,
        last_step=10**9,
        rank=0,
        batch_size=settings.batch_size,
        accumulation=1,
        world_size=1,
        num_workers=0,
    )
    check = Checks(model, val, settings, seconds)
    model.train()
    started, steps, spent = time.process_time(), 0, 0.0
    for batch in batches:
        video = to_pixels(batch.clips)
        set_learning_rate(optimizer, learning_rate(config, int(config.steps * spent / seconds)))
        with autocast(settings):
            if steps == 0:
                model.begin(video)
            loss = loss_of(model(video), video, spent / seconds)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *of_loss], config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        model.end_step()
        steps += 1
        spent = time.process_time() - started - check.seconds
        check(spent)
        if spent >= seconds:
            break
    return {
        "steps": steps,
        "clips_per_second": steps * settings.batch_size / spent,
        "curve": check.curve,
        "seconds_to": {f"{goal:g}": seconds_to_reach(goal, check.curve) for goal in GOALS},
    }
