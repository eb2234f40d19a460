"""Sums and minima over all ranks of a run; a single process counts as one rank."""

import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place.

    All ranks must call this function.
    """
    if rank_and_world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def min_over_ranks(tensor: Tensor) -> Tensor:
    """Take the elementwise minimum over all ranks, in place.

    All ranks must call this function.
    """
    if rank_and_world()[1] > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
    return tensor
