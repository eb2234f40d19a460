"""Coordination of the ranks in a training run: stop flag, batch shares and gradients."""

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
    """Flag that is set if any rank gets a stop request or the run folder contains a file `stop`."""

    def __init__(
        self, accelerator: Accelerator, run_path: os.PathLike[str], request: StopRequest | None
    ):
        self._accelerator = accelerator
        self._file = os.path.join(run_path, "stop")
        self._request = request

    def is_set(self) -> bool:
        """Return whether to stop now; the result is the same on all ranks.

        All ranks must call this method.
        """
        asked = self._request is not None and self._request.reason != ""
        wants = asked or os.path.exists(self._file)
        flag = torch.tensor(float(wants), device=self._accelerator.device)
        return bool(over_ranks(self._accelerator, flag, "sum") > 0)

    def clear(self, step: int, steps: int, saved: bool) -> None:
        """Print instructions for resuming, and remove the stop file.

        Args:
            step: number of steps done.
            steps: number of steps of the whole run.
            saved: whether the checkpoint of this step was written.
        """
        state = "and saved; the same command resumes from there"
        if not saved:
            state = "but could not save; the same command resumes from the last good checkpoint"
        if step == 0:
            state = "before there was anything to save; the same command starts again"
        self._accelerator.print(f"stopped after step {step} of {steps} {state}")
        self.remove_file()

    def remove_file(self) -> None:
        """Remove the stop file, if any, so that the next start does not stop immediately."""
        if self._accelerator.is_main_process and os.path.exists(self._file):
            os.unlink(self._file)


def require_even_batch(accelerator: Accelerator, batch_size: int, accumulation: int) -> None:
    """Raise if the global batch cannot be split evenly among processes and micro-batches.

    Raises:
        InputError: the batch size is not divisible by accumulation x number of processes.
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
    """Yield this rank's items in batches.

    All ranks get the same number of batches, the last of which may be empty.
    """
    size, rank = accelerator.num_processes, accelerator.process_index
    mine = items[rank::size]
    for start in range(0, -(-len(items) // size), batch_size):
        yield mine[start : start + batch_size]


def clip_gradients(accelerator: Accelerator, model: torch.nn.Module, limit: float) -> torch.Tensor:
    """Clip the gradient norm to a limit; return the norm before clipping."""
    norm = accelerator.clip_grad_norm_(model.parameters(), limit)
    return torch.as_tensor(0.0 if norm is None else norm)


def all_finite(accelerator: Accelerator, *values: torch.Tensor) -> bool:
    """Return whether all values are finite on every rank.

    All ranks must call this function.
    """
    bad = torch.stack([~torch.isfinite(value.detach()).all() for value in values]).any()
    return bool(over_ranks(accelerator, bad.float(), "sum") == 0)
