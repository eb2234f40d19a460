"""Coordination of the ranks in a training run: stop flag, even batches, gradients."""

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator

from video_vq.distributed import over_ranks
from video_vq.errors import InputError
from video_vq.training.stop_request import StopRequest

T = TypeVar("T")


class StopFlag:
    """Tells whether any rank was asked to stop, by a request or a file `stop` in the run folder."""

    def __init__(
        self, accelerator: Accelerator, run_path: os.PathLike[str], request: StopRequest | None
    ):
        self._accelerator = accelerator
        self._file = os.path.join(run_path, "stop")
        self._request = request

    def is_set(self) -> bool:
        """Return whether to stop now, the same on all ranks; collective."""
        asked = self._request is not None and self._request.reason != ""
        wants = asked or os.path.exists(self._file)
        flag = torch.tensor(float(wants), device=self._accelerator.device)
        return bool(over_ranks(self._accelerator, flag, "sum") > 0)

    def clear(self, step: int, steps: int, saved: bool) -> None:
        """Print instructions for resuming, and remove the stop file.

        Args:
            step: number of steps done.
            steps: number of steps of the whole run.
            saved: whether the checkpoint of this step could be written.
        """
        state = "and saved; the same command resumes from there"
        if not saved:
            state = "but could not save; the same command resumes from the last good checkpoint"
        if step == 0:
            state = "before there was anything to save; the same command starts again"
        self._accelerator.print(f"stopped after step {step} of {steps} {state}")
        self.remove_file()

    def remove_file(self) -> None:
        """Remove the stop file, if there is one, so that the next start does not stop."""
        if self._accelerator.is_main_process and os.path.exists(self._file):
            os.unlink(self._file)


def require_even_batch(accelerator: Accelerator, batch_size: int, accumulation: int) -> None:
    """Refuse a global batch that the processes cannot share evenly.

    Raises:
        InputError: the batch size is not divisible by the number of processes.
    """
    parts = accumulation * accelerator.num_processes
    if batch_size % parts:
        raise InputError(
            f"optim.batch_size = {batch_size} is not divisible by {accumulation} micro-batches x "
            f"{accelerator.num_processes} processes; set it to a multiple of {parts}"
        )


def rank_batches(
    accelerator: Accelerator, items: Sequence[T], batch_size: int
) -> Iterator[Sequence[T]]:
    """Yield this rank's share in batches, the same number on every rank; the last may be empty."""
    size, rank = accelerator.num_processes, accelerator.process_index
    mine = items[rank::size]
    for start in range(0, -(-len(items) // size), batch_size):
        yield mine[start : start + batch_size]


def clip_gradients(accelerator: Accelerator, model: torch.nn.Module, limit: float) -> torch.Tensor:
    """Scale gradients down to a norm; return their original norm."""
    norm = accelerator.clip_grad_norm_(model.parameters(), limit)
    return torch.as_tensor(0.0 if norm is None else norm)


def all_finite(accelerator: Accelerator, *values: torch.Tensor) -> bool:
    """Whether the values are finite on every rank; collective."""
    bad = torch.stack([~torch.isfinite(value.detach()).all() for value in values]).any()
    return bool(over_ranks(accelerator, bad.float(), "sum") == 0)
