"""Estimates the duration of a training run by running a few training steps."""

import json
import math
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from video_vq.distributed import make_accelerator
from video_vq.training.training_config import PriorTrainingConfig, TokenizerTrainingConfig

WARM_STEPS = 5  # not timed: initial codes, worker startup, compilation
TIMED_STEPS = 10
Config = TypeVar("Config", TokenizerTrainingConfig, PriorTrainingConfig)


class MeasuredTime(NamedTuple):
    """The estimated duration of a training run on this machine, with the measured times."""

    steps: int
    validations: int
    seconds_per_step: float
    seconds_per_validation: float
    seconds: float

    def line(self, batch_size: int) -> str:
        """Return the duration as one line of text."""
        return (
            f"time            about {_duration(self.seconds)} on this machine: {self.steps:,} "
            f"steps of {self.seconds_per_step:.3g} s "
            f"({batch_size / self.seconds_per_step:.3g} clips per second) and {self.validations:,} "
            f"validations of {self.seconds_per_validation:.3g} s; measured on {TIMED_STEPS} steps "
            "with their data loading, checkpoints come on top"
        )


def measured_time(
    train: Callable[[Config, Path, Path], Path | None], config: Config, store: Path
) -> MeasuredTime | None:
    """Return the estimated duration of a training run on this machine.

    To measure, `train` runs for 15 steps and one validation pass in a temporary folder that is
    deleted afterwards; the first 5 steps are not timed. Times include data loading. The
    discriminator, if any, is trained from the first step. All processes must call this function;
    the main process gets the estimate, and the others get None.

    Args:
        train: training function, `train_tokenizer` or `train_prior`.
        store: path of the clip store or token store for training.

    Raises:
        InputError: the training run itself would fail with this error.
    """
    accelerator = make_accelerator()
    with tempfile.TemporaryDirectory(prefix="video-vq-") as own:
        shared = _of_main_process(accelerator, own)
        with redirect_stdout(sys.stderr):  # stdout is for the plan
            accelerator.print(
                f"measuring {TIMED_STEPS} steps after {WARM_STEPS} to warm up, then a validation"
            )
            train(_shortened(config), store, Path(shared) / "run")
        if not accelerator.is_main_process:
            return None
        lines = (Path(shared) / "run" / "metrics.jsonl").read_text().splitlines()
    per_step, per_validation = _seconds(lines)
    steps = config.optim.steps
    validations = math.ceil(steps / config.run.validate_every)
    seconds = per_step * steps + per_validation * validations
    return MeasuredTime(steps, validations, per_step, per_validation, seconds)


def _of_main_process(accelerator: Accelerator, value: str) -> str:
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def _shortened(config: Config) -> Config:
    """Return the config of a short run that logs after the warm-up and validates at the end."""
    never = WARM_STEPS + TIMED_STEPS
    run = replace(config.run, log_every=WARM_STEPS, validate_every=never, checkpoint_every=never)
    short = replace(config, run=run, optim=replace(config.optim, steps=never))
    if isinstance(short, TokenizerTrainingConfig):
        adversarial = replace(short.loss.adversarial, start=0)
        return replace(short, loss=replace(short.loss, adversarial=adversarial))
    return short


def _seconds(lines: list[str]) -> tuple[float, float]:
    """Return the seconds per step and per validation, from the lines of metrics.jsonl."""
    values = [json.loads(line) for line in lines]
    clocks = {line["step"]: line["clock"] for line in values if "optim/lr" in line}
    validated = next(line["clock"] for line in values if any("validation/" in key for key in line))
    ended = clocks[WARM_STEPS + TIMED_STEPS]
    return (ended - clocks[WARM_STEPS]) / TIMED_STEPS, validated - ended


def _duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    if minutes < 2:
        return f"{math.ceil(seconds)} s"
    days, hours = divmod(minutes // 60, 24)
    parts = [(days, "d"), (hours, "h"), (minutes % 60, "min")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
