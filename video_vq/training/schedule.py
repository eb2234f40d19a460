"""The learning rate of each optimizer step."""

import math

from video_vq.training.training_config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the learning rate of an optimizer step.

    It rises linearly over `warmup_steps` and then falls to `final_lr` x lr: along a cosine, or,
    with `decay_steps`, linearly over only that many final steps (warm-up–stable–decay).

    Args:
        step: number of optimizer steps before this one.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.decay_steps is None:
        done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        left = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        left = min(1.0, max(0.0, (config.steps - step) / config.decay_steps))
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)
