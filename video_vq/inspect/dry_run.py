"""Plans a training run without starting it: model size, data, bit rate, memory and steps."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from video_vq.config import to_json
from video_vq.data.loader import blank_tokens
from video_vq.data.windows import EpochClips
from video_vq.errors import InputError
from video_vq.facts import codes as told_codes
from video_vq.inspect.costs import averaged_bytes, saved_bytes, through
from video_vq.inspect.timing import MeasuredTime, measured_time
from video_vq.machine import asked_precision
from video_vq.models.discriminator import PatchDiscriminator
from video_vq.models.prior import prior_loss
from video_vq.models.prior_config import config_for
from video_vq.models.priors import build_prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.nn.blocks import num_parameters
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore
from video_vq.training.prior import train_prior
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import (
    OptimizerConfig,
    PriorTrainingConfig,
    TokenizerTrainingConfig,
)


class Plan(NamedTuple):
    """A planned training run: the settings, the numbers by name, and the lines of a description."""

    config: dict[str, Any]
    numbers: dict[str, Any]
    lines: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the settings and the numbers as JSON."""
        return {"config": self.config, **self.numbers}

    def text(self) -> str:
        """Return the description as text, without the settings, which `to_json` returns."""
        end = "dry run: nothing was written; --json prints the settings, too"
        return "\n".join([*self.lines, "", end])


def plan_tokenizer(config: TokenizerTrainingConfig, data: Path, with_time: bool = False) -> Plan:
    """Return a plan for a `train_tokenizer` run.

    Args:
        with_time: whether to also run a few steps to estimate the duration; see `measured_time`.

    Raises:
        InputError: the clip store cannot be used, or does not suit the config; or the batch size
            does not suit the number of processes.
    """
    store = ClipStore(data)
    size_thw = (config.data.num_frames, *store.frame_size_hw)
    grid_thw = config.model.backbone.grid_thw(size_thw)
    clips = EpochClips(store, "train", config.data, config.run.seed)
    per_process = micro_batch(config.optim)
    with FakeTensorMode():
        tokenizer = VideoTokenizer(config.model, config.run.checkpoint_activations)
        video = torch.zeros(per_process, 3, *size_thw)
        activations = saved_bytes(tokenizer, lambda: through(tokenizer, video), asked_precision())
    bits = math.log2(config.model.quantizer.codebook_size)
    tokens = math.prod(grid_thw)
    raw = math.prod(size_thw) * 24
    time = measured_time(train_tokenizer, config, data) if with_time else None
    numbers = {
        "parameters": num_parameters(tokenizer),
        "clip_thw": size_thw,
        "grid_thw": grid_thw,
        "bits_per_token": bits,
        "compression": raw / (tokens * bits),
        "train_videos": len(clips.videos),
        "train_clips": len(clips),
    }
    lines = [
        f"parameters      {_count(tokenizer)} (encoder {_count(tokenizer.encoder)}, "
        f"decoder {_count(tokenizer.decoder)}, quantizer {_count(tokenizer.quantizer)})",
        *_other_networks(config),
        f"clip            {_times(size_thw)} pixels, stride {config.data.stride}",
        f"tokens          {_times(grid_thw)} = {tokens:,} a clip, {bits:g} bits each",
        f"compression     {raw / (tokens * bits):.1f} x ({raw / 8e3:,.1f} kB of pixels to "
        f"{tokens * bits / 8e3:,.2f} kB){_bit_rate(store, config, tokens * bits)}",
        f"data            {len(clips.videos):,} train videos of {data}, {len(clips):,} clips "
        f"an epoch ({config.data.windows})",
        *_steps(config.optim, len(clips), "clips", "clips of an epoch"),
    ]
    return _plan(config, numbers, lines, tokenizer, activations, time)


def plan_prior(config: PriorTrainingConfig, tokens: Path, with_time: bool = False) -> Plan:
    """Return a plan for a `train_prior` run; see `plan_tokenizer`."""
    store = TokenStore(tokens)
    header = store.header
    grids = len(store.rows("train"))
    model_config = config_for(header, config.model)
    per_process = micro_batch(config.optim)
    count = math.prod(header.grid_thw)
    with FakeTensorMode():
        prior = build_prior(model_config, config.run.checkpoint_activations)
        blank = blank_tokens(header, per_process)
        activations = saved_bytes(
            prior,
            lambda: prior_loss(prior(*blank), blank.tokens, prior.sub_codes).nats,
            asked_precision(),
        )
    time = measured_time(train_prior, config, tokens) if with_time else None
    numbers = {
        "parameters": num_parameters(prior),
        "grid_thw": header.grid_thw,
        "vocabulary": header.vocabulary,
        "bits_per_token": math.log2(header.codebook_size),
        "classes": len(header.classes),
        "num_action_dims": header.num_action_dims,
        "train_grids": grids,
    }
    lines = [
        f"parameters      {_count(prior)} (blocks {_count(prior.blocks)}), {config.model.kind}",
        f"tokens          {_times(header.grid_thw)} = {count:,} a clip, of "
        f"{told_codes(header.vocabulary)} codes; a uniform guess costs "
        f"{math.log2(header.codebook_size):g} bits per token",
        f"classes         {len(header.classes)}",
        f"actions         {header.num_action_dims} numbers per latent frame",
        f"data            {grids:,} train grids of {tokens}",
        *_steps(config.optim, grids, "grids", "train grids"),
    ]
    return _plan(config, numbers, lines, prior, activations, time)


def micro_batch(optim: OptimizerConfig) -> int:
    """Return the number of clips in each process's forward pass.

    The launcher's WORLD_SIZE variable gives the number of processes.

    Raises:
        InputError: the batch size is not divisible by the number of processes times the number of
            micro-batches.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(optim.batch_size, optim.accumulation * processes)
    if rest:
        raise InputError(
            f"optim.batch_size = {optim.batch_size} is not divisible by {optim.accumulation} "
            f"micro-batches x {processes} processes"
        )
    return share


def _other_networks(config: TokenizerTrainingConfig) -> list[str]:
    """Return a description line for each network that is used only by a loss."""
    perceptual, adversarial = config.loss.perceptual, config.loss.adversarial
    lines = []
    if perceptual.weight:
        lines.append(
            f"perceptual      ST-LPIPS on {perceptual.trunk}, {perceptual.num_frames} frames of "
            "each clip; its memory comes on top"
        )
    if adversarial.weight:
        with FakeTensorMode():
            network = PatchDiscriminator(adversarial.channels, adversarial.levels)
        lines.append(
            f"discriminator   {_count(network)} parameters from step {adversarial.start + 1} on; "
            "its memory comes on top"
        )
    return lines


def _count(module: nn.Module) -> str:
    number = num_parameters(module)
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


def _times(sides: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in sides)


def _bit_rate(store: ClipStore, config: TokenizerTrainingConfig, bits_per_clip: float) -> str:
    rates = {video.fps for video in store.videos}
    fps = rates.pop() if len(rates) == 1 else None
    if fps is None:
        return ""
    seconds = config.data.num_frames * config.data.stride / fps
    return f", {bits_per_clip / seconds / 1e3:,.1f} kbit per second of video"


def _steps(optim: OptimizerConfig, items: int, what: str, pool: str) -> list[str]:
    seen = optim.steps * optim.batch_size
    return [
        f"steps           {optim.steps:,} of {optim.batch_size} {what}: {seen:,} {what}, "
        f"{seen / items:,.1f} times the {pool}"
    ]


def _plan(
    config: TokenizerTrainingConfig | PriorTrainingConfig,
    numbers: dict[str, Any],
    lines: list[str],
    model: nn.Module,
    activations: int,
    time: MeasuredTime | None,
) -> Plan:
    """Return a plan, adding the numbers that tokenizer and prior training have in common.

    Args:
        numbers: numbers that are specific to the model, by name.
        lines: description lines that are specific to the model.
        activations: number of bytes that are saved for the backward pass of one micro-batch.
        time: measured duration; None if the duration was not measured.
    """
    optim, weights = config.optim, averaged_bytes(model, config.optim)
    per_process = micro_batch(optim)
    memory = (
        f"memory          about {(weights + activations) / 1e9:.2f} GB on each process: "
        f"{weights / 1e9:.2f} weights and optimizer, {activations / 1e9:.2f} activations of "
        f"{per_process} clips (precision {asked_precision()}); workspace and the framework come "
        "on top"
    )
    numbers = {
        **numbers,
        "steps": optim.steps,
        "batch_size": optim.batch_size,
        "micro_batch_size": per_process,
        "bytes_of_weights_and_optimizer": weights,
        "bytes_of_activations": activations,
        "precision": asked_precision(),
        "time": None if time is None else time._asdict(),
    }
    told = [] if time is None else [time.line(optim.batch_size)]
    return Plan(to_json(config), numbers, [*lines, memory, *told])
