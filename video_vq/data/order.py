"""Computes the order of the training data as a pure function of (seed, position)."""

import functools
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """The epoch and the item at a global position."""

    epoch: int
    item: int


class EpochOrder:
    """An endless sequence of shuffled epochs over `num_items` items, accessed by position.

    Every item occurs once per epoch. Epochs follow one another without a gap, so a batch may
    contain the end of one epoch and the beginning of the next.
    """

    def __init__(self, num_items: int, seed: int):
        if num_items < 1:
            raise ValueError("no items to put in order")
        self.num_items = num_items
        self.seed = seed
        # Cache two epochs, so that a batch across an epoch boundary shuffles neither twice.
        self._shuffled = functools.lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, 0xDA7A]).permutation(self.num_items)

    def __call__(self, position: int) -> Place:
        """Return the epoch and the item at a position, counted from the start of training."""
        epoch, inside = divmod(position, self.num_items)
        return Place(epoch, int(self._shuffled(epoch)[inside]))

    def ends_between(self, first: int, last: int) -> bool:
        """Return whether an epoch ends among the positions first … last − 1."""
        return last // self.num_items > first // self.num_items

    def __getstate__(self) -> dict[str, int]:
        return {"num_items": self.num_items, "seed": self.seed}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)


def rank_positions(
    step: int, micro_batch: int, rank: int, *, batch_size: int, accumulation: int, world_size: int
) -> range:
    """Return the global positions of a rank's part of a micro-batch in an optimizer step.

    The global batch of step s, of size B, consists of positions s·B … (s+1)·B − 1. The batch is
    divided into micro-batches, and each micro-batch among the ranks, so that a step uses the same
    clips at every world size.

    Raises:
        ValueError: the global batch cannot be divided evenly among micro-batches and ranks.
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
