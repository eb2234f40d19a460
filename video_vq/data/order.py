"""The order of the data as a pure function of (seed, epoch, position)."""

import functools
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """A global position as an epoch and an item."""

    epoch: int
    item: int


class EpochOrder:
    """An endless sequence of shuffled epochs over `num_items`; position -> (epoch, item) in O(1).

    Every item occurs once per epoch; epochs follow one another without a gap, so a batch may hold
    the end of one and the beginning of the next.
    """

    def __init__(self, num_items: int, seed: int):
        if num_items < 1:
            raise ValueError("no items to put in order")
        self.num_items = num_items
        self.seed = seed
        # Two epochs at a time: a batch across the boundary shuffles nothing twice.
        self._shuffled = functools.lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, 0xDA7A]).permutation(self.num_items)

    def __call__(self, position: int) -> Place:
        """Return the epoch and the item of a position, counted from the start of training."""
        epoch, inside = divmod(position, self.num_items)
        return Place(epoch, int(self._shuffled(epoch)[inside]))

    def ends_between(self, first: int, last: int) -> bool:
        """Whether an epoch ends among the positions first … last − 1."""
        return last // self.num_items > first // self.num_items

    def __getstate__(self) -> dict[str, int]:
        return {"num_items": self.num_items, "seed": self.seed}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)


def rank_positions(
    step: int, micro_batch: int, rank: int, *, batch_size: int, accumulation: int, world_size: int
) -> range:
    """Return the global positions of one rank's micro-batch of one optimizer step.

    The global batch of step s holds positions s·B … (s+1)·B − 1. It is divided into micro-batches,
    and each of these among the ranks, so that every world size sees the same clips.

    Raises:
        ValueError: the global batch cannot be divided evenly.
    """
    parts = accumulation * world_size
    if batch_size % parts:
        raise ValueError(
            f"the global batch of {batch_size} is not divisible by {accumulation} micro-batches "
            f"x {world_size} processes"
        )
    size = batch_size // parts
    start = step * batch_size + (micro_batch * world_size + rank) * size
    return range(start, start + size)
