"""Accelerate, made strict: as many processes as asked for, one stop flag, sums over ranks."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from video_vq.errors import InputError


def make_accelerator() -> Accelerator:
    """Return an Accelerator for whatever launched this process.

    Without an accelerator device several processes become gloo ranks on the CPU. Buffers are not
    broadcast: the codebook is bit-equal on all ranks by its own means, and a missing sum shows.

    Raises:
        InputError: the launcher announces another number of processes than Accelerate sees.
    """
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    how = (
        f"Start with `accelerate launch --multi_gpu --num_processes {announced} -m video_vq …`, "
        "or unset WORLD_SIZE"
    )
    try:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # MPS lacks the float64 of the statistics
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except ValueError as error:
        if announced == 1:
            raise
        message = f"WORLD_SIZE is {announced}, but there is no launcher: {error}. {how}"
        raise InputError(message) from None
    if accelerator.num_processes != announced:
        raise InputError(
            f"WORLD_SIZE is {announced}, but Accelerate runs {accelerator.num_processes} "
            f"process(es): each would train alone and overwrite the others. {how}"
        )
    return accelerator


class StopFlag:
    """Set by SIGTERM, SIGINT, SIGHUP or a file `stop`; looked at once per step, by all ranks."""

    def __init__(self, accelerator: Accelerator, run_path: os.PathLike[str]):
        self._accelerator = accelerator
        self._file = os.path.join(run_path, "stop")
        self._signal = 0

    @contextmanager
    def listening(self) -> Iterator["StopFlag"]:
        """Catch the signals inside the block; a second one of a kind ends the process at once."""
        before = {number: signal.signal(number, self._catch) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)
        name = signal.Signals(number).name
        print(f"{name}: finishing this step, then saving", file=sys.stderr, flush=True)

    def is_set(self) -> bool:
        """Whether any rank wants to stop; collective."""
        wants = bool(self._signal) or os.path.exists(self._file)
        flag = torch.tensor(float(wants), device=self._accelerator.device)
        return bool(over_ranks(self._accelerator, flag, "sum") > 0)

    def clear(self, step: int, steps: int, saved: bool) -> None:
        """Say how to go on, and remove the stop file, so that the next start does not stop."""
        state = (
            "and saved; the same command goes on from there"
            if saved
            else ("but could not save; the same command goes on from the last good checkpoint")
        )
        self._accelerator.print(f"stopped after step {step} of {steps} {state}")
        if self._accelerator.is_main_process and os.path.exists(self._file):
            os.unlink(self._file)


# SIGHUP: a launcher or terminal that goes away must not cost the steps since the last checkpoint.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def require_even_batch(accelerator: Accelerator, batch_size: int, accumulation: int) -> None:
    """Refuse a global batch that the processes cannot share evenly.

    Raises:
        InputError: it does not divide.
    """
    parts = accumulation * accelerator.num_processes
    if batch_size % parts:
        raise InputError(
            f"optim.batch_size = {batch_size} does not divide by {accumulation} micro-batches x "
            f"{accelerator.num_processes} processes; set it to a multiple of {parts}"
        )


def clip_gradients(accelerator: Accelerator, model: torch.nn.Module, limit: float) -> torch.Tensor:
    """Scale gradients down to a norm; return the norm that they had."""
    norm = accelerator.clip_grad_norm_(model.parameters(), limit)
    return torch.as_tensor(0.0 if norm is None else norm)


def all_finite(accelerator: Accelerator, *values: torch.Tensor) -> bool:
    """Whether the values are finite on every rank; collective."""
    bad = torch.stack([~torch.isfinite(value.detach()).all() for value in values]).any()
    return bool(over_ranks(accelerator, bad.float(), "sum") == 0)


def over_ranks(
    accelerator: Accelerator, value: torch.Tensor, how: Literal["sum", "mean"]
) -> torch.Tensor:
    """Return the sum or mean of a tensor over all ranks; collective."""
    reduced: Any = accelerator.reduce(value, how)
    return reduced
