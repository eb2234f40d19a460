"""Wrappers around Accelerate that detect missing processes and a failure of rank 0."""

import atexit
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from video_vq.errors import InputError
from video_vq.machine import is_launched
from video_vq.stores.lock import held


def make_accelerator() -> Accelerator:
    """Return an Accelerator for the number of processes that the launcher announces.

    Without CUDA, several processes run as gloo ranks on the CPU. Buffers are not broadcast: the
    codebook update already keeps its buffers bitwise equal on all ranks, and broadcasting would
    hide a missing all-reduce.

    Raises:
        InputError: WORLD_SIZE announces several processes, but there is no launcher, or Accelerate
            runs a different number; or as for `require_all_processes`.
    """
    require_all_processes(os.environ)
    # Accelerate passes the setting under its old name, which newer versions of torch deprecate.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    how = (
        f"Start with `accelerate launch --multi_gpu --num_processes {announced} -m video_vq …`, "
        "or unset WORLD_SIZE"
    )
    try:
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # MPS lacks float64, which the statistics need
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
            f"process(es): each would train by itself and overwrite the others. {how}"
        )
    if torch.distributed.is_initialized():
        atexit.register(_end_process_group)
    return accelerator


def _end_process_group() -> None:
    """End the process group before Python shuts down.

    Gloo's threads hold tensors, and freeing these tensors during the shutdown of Python can abort
    the process (pytorch/pytorch#179291).
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def require_all_processes(environment: Mapping[str, str]) -> None:
    """Raise an error if the launcher was asked for several processes but started only one.

    `accelerate launch --cpu --num_processes N` sets an address for N processes (MASTER_ADDR) but
    silently starts a single process without a rank.

    Args:
        environment: environment variables of this process.

    Raises:
        InputError: several processes were requested, but only this process was started.
    """
    alone = "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment
    if alone and is_launched(environment):
        raise InputError(
            "accelerate launch was asked for several processes and started one, as it does with "
            "--cpu; use `accelerate launch --multi_gpu --num_processes N -m video_vq …`, which "
            "without a GPU starts N processes on the CPU"
        )


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Run a block on rank 0 before the other ranks run the block.

    If rank 0 fails, the other ranks raise an error; with Accelerate's context manager of the same
    name, they would wait.

    Raises:
        InputError: rank 0 failed; raised on all other ranks.
    """
    if not accelerator.is_main_process and _main_failed(accelerator, False):
        raise InputError("rank 0 cannot continue; its message says why")
    failed = True
    try:
        yield
        failed = False
    finally:
        if accelerator.is_main_process:
            _main_failed(accelerator, failed)


def _main_failed(accelerator: Accelerator, failed: bool) -> bool:
    """Return whether rank 0 has failed.

    All ranks must call this function.
    """
    flag = torch.tensor(float(failed), device=accelerator.device)
    return bool(over_ranks(accelerator, flag, "sum") > 0)


@contextmanager
def holding(
    accelerator: Accelerator, path: Path | None, single_file: bool = False
) -> Iterator[None]:
    """Hold a lock on the output of all ranks for the duration of a block; rank 0 acquires the lock.

    Args:
        accelerator: accelerator of this process.
        path: output folder, or output file if `single_file`; None to lock nothing.
        single_file: whether `path` is a file.

    Raises:
        InputError: another process is writing to the path (see `video_vq.stores.lock`), or the
            folder cannot be created; raised on all ranks.
    """
    with ExitStack() as stack:
        if path is not None:
            with main_process_first(accelerator):
                if accelerator.is_main_process:
                    stack.enter_context(held(path, single_file))
        yield


def over_ranks(
    accelerator: Accelerator, value: torch.Tensor, how: Literal["sum", "mean"]
) -> torch.Tensor:
    """Return the sum or mean of a tensor over all ranks.

    All ranks must call this function.
    """
    reduced: Any = accelerator.reduce(value, how)
    return reduced
