"""Validation batches, split among the ranks; iteration ends early if the run has to stop."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from accelerate import Accelerator

from video_vq.training.distributed import StopFlag, rank_batches
from video_vq.training.progress_line import ProgressLine

T = TypeVar("T")


def validation_batches(
    accelerator: Accelerator, items: Sequence[T], unit: str, batch_size: int, stop: StopFlag
) -> Iterator[Sequence[T] | None]:
    """Yield this rank's share of the items in batches.

    All ranks must call this function. Before each batch, all ranks check whether to stop, even
    ranks that have finished their share.

    Args:
        items: items of all ranks together.
        unit: name of an item for messages: "clip" or "grid".
        batch_size: number of items per batch on one rank.

    Yields:
        Batches that are not empty, and finally None if a stop was requested.
    """
    started, done = time.monotonic(), 0
    progress = ProgressLine(
        f"validating: {unit}", len(items), rate=f"{unit}s", is_shown=accelerator.is_main_process
    )
    for mine in rank_batches(accelerator, items, batch_size):
        if stop.is_set():
            yield None
            return
        if mine:
            yield mine
            done += len(mine) * accelerator.num_processes
            progress.look(min(done, len(items)))
    units = unit if len(items) == 1 else f"{unit}s"
    accelerator.print(f"validated on {len(items)} {units} in {time.monotonic() - started:.1f} s")
