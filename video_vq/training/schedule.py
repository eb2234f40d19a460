"""The learning rate of each optimizer step."""

import math

from video_vq.training.training_config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the rate of an optimizer step: linear warm-up, then a cosine to `final_lr` x lr."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)
