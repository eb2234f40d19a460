"""Facts about this machine, and the settings that its environment requests."""

import os
import sys
from collections.abc import Mapping
from typing import Any

PRECISION = "ACCELERATE_MIXED_PRECISION"
THREADS = "OMP_NUM_THREADS"
# What launchers set for their processes; precision is not a sign, as people set it by hand.
LAUNCHER_SIGNS = ("ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID")


def is_launched(environment: Mapping[str, str]) -> bool:
    """Return whether accelerate or torchrun started this process."""
    return any(sign in environment for sign in LAUNCHER_SIGNS)


def is_main_rank() -> bool:
    """Return whether this process prints for all ranks: it is rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def num_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def asked_precision() -> str:
    """Return the precision that Accelerate will use, from the launcher or the environment."""
    return os.environ.get(PRECISION, "no")


def is_recorded_number_of_threads(recorded: Any) -> bool:
    """Whether torch uses, or would use once it is loaded, the recorded number of threads.

    Args:
        recorded: number of threads; None, recorded for a GPU, fits any machine, because the number
            then has no effect. Whether this machine has a GPU is not checked.
    """
    torch = sys.modules.get("torch")
    now = os.environ.get(THREADS) if torch is None else str(torch.get_num_threads())
    return recorded is None or str(recorded) == now
