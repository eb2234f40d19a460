"""Times training, encoding and decoding with a config, and compares them with the bf16 peak."""

from collections.abc import Callable

import torch
from config_table import TokenizerCosts, names_of, tokenizer_costs
from correctness import switched_on
from day import Day, Figures, free, median_milliseconds, peak_gigabytes, tokenizer_config
from speed import known_ceilings
from torch import Tensor, nn

from video_vq.models.tokenizer import VideoTokenizer
from video_vq.training.losses import reconstruction_loss
from video_vq.training.optimizer import make_optimizer
from video_vq.training.training_config import TokenizerTrainingConfig

SHARE = 0.4  # of the card's memory that a timed batch may take, as estimated by `--dry-run`
MOST_CLIPS = 64


def measured(name: str, side: int) -> Callable[[Day], Figures]:
    """Return a function that times training, encoding and decoding with a config.

    Args:
        name: name of a shipped config.
        side: height and width of its frames.
    """

    def work(day: Day) -> Figures:
        config = tokenizer_config(day, names_of(name)[0])
        pixels = day.pick(side, 16)
        size = (config.data.num_frames, pixels, pixels)
        costs = tokenizer_costs(config, size, "bf16")
        batch = batch_that_fits(day, config, costs)
        ways: Figures = {}
        for way in day.pick(("as written", "channels_last", "compiled"), ("as written",)):
            free(day)
            with switched_on(way):
                ways[way] = training_figures(day, config, costs, batch, size, way)
        free(day)
        return {"batch": batch, "ways": ways, **coding_figures(day, config, costs, batch, size)}

    return work


def batch_that_fits(day: Day, config: TokenizerTrainingConfig, costs: TokenizerCosts) -> int:
    """Return the batch size to time: the config's own, as far as `SHARE` and `MOST_CLIPS` allow."""
    if day.is_smoke:
        return 1
    memory = SHARE * torch.cuda.get_device_properties(0).total_memory
    fit = int((memory - costs.weight_bytes) / costs.clip_bytes)
    return max(1, min(MOST_CLIPS, config.optim.batch_size, fit))


def training_figures(
    day: Day,
    config: TokenizerTrainingConfig,
    costs: TokenizerCosts,
    batch: int,
    size: tuple[int, int, int],
    way: str,
) -> Figures:
    """Time training steps; return their rate, its share of the bf16 peak, and their memory."""
    tokenizer, video = ready(day, config, batch, size)
    optimizer = make_optimizer(tokenizer, config.optim)
    if way == "compiled":
        tokenizer.encoder.compile()
        tokenizer.decoder.compile()
    step = training_step(day, tokenizer, optimizer, video)
    time = median_milliseconds(day, step, rounds=10)
    rate = costs.step_flops * batch / time / 1e9
    found: Figures = {
        "ms": time,
        "frames/s": 1000 * batch * size[0] / time,
        "TFLOP/s": rate,
        "share of bf16 peak": rate / known_ceilings(day)["bf16 TFLOP/s"],
    }
    if (peak := peak_gigabytes(day)) is not None:
        found["peak GB"] = peak
        found["dry run GB"] = (costs.weight_bytes + batch * costs.clip_bytes) / 1e9
    return found


def ready(
    day: Day, config: TokenizerTrainingConfig, batch: int, size: tuple[int, int, int]
) -> tuple[VideoTokenizer, Tensor]:
    """Return a tokenizer with initialized codes, and a batch of noise."""
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config.model, config.run.checkpoint_activations).to(day.device)
    video = torch.rand(batch, 3, *size, device=day.device) * 2 - 1
    with torch.no_grad(), autocast(day):
        tokenizer.quantizer.codebook.initialize((tokenizer.latents(video[:1]),), seed=0)
    return tokenizer.train(), video


def training_step(
    day: Day, tokenizer: VideoTokenizer, optimizer: torch.optim.Optimizer, video: Tensor
) -> Callable[[], None]:
    """Return a function that does a training step, without perceptual or adversarial loss."""

    def step() -> None:
        with autocast(day):
            output = tokenizer(video)
            loss = 4 * reconstruction_loss(output.video, video, "mse")
            for value in output.quantized.losses.values():
                loss = loss + 0.25 * value
        loss.backward()
        nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokenizer.quantizer.codebook.update(output.quantized.statistics, seed=0)

    return step


def coding_figures(
    day: Day,
    config: TokenizerTrainingConfig,
    costs: TokenizerCosts,
    batch: int,
    size: tuple[int, int, int],
) -> Figures:
    """Return frames/s of encoding, of decoding and, at the measured bf16 peak, of both together."""
    tokenizer, video = ready(day, config, batch, size)
    tokenizer.eval()
    found: Figures = {}
    frames = batch * size[0]
    with autocast(day):
        codes = tokenizer.encode(video)
        for name, work in (
            ("encode", lambda: tokenizer.encode(video)),
            ("decode", lambda: tokenizer.decode(codes)),
        ):
            found[f"{name} frames/s"] = 1000 * frames / median_milliseconds(day, work, rounds=10)
    peak = known_ceilings(day)["bf16 TFLOP/s"]
    found["encode and decode frames/s at the peak"] = size[0] * peak * 1e12 / costs.forward_flops
    return found


def autocast(day: Day) -> torch.autocast:
    """Return the context of bf16 autocast."""
    return torch.autocast(day.device, torch.bfloat16)
