"""What this machine offers, and what its environment asks of a computation."""

import os
from typing import Any

PRECISION = "ACCELERATE_MIXED_PRECISION"
THREADS = "OMP_NUM_THREADS"


def num_cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def asked_precision() -> str:
    """Return the precision that Accelerate will take: of the launcher or the environment."""
    return os.environ.get(PRECISION, "no")


def is_recorded_number_of_threads(recorded: Any) -> bool:
    """Whether torch would compute with as many threads as recorded, as far as is known without it.

    Args:
        recorded: a number of threads, or None where a GPU computed.
    """
    return recorded is None or str(recorded) == os.environ.get(THREADS)
