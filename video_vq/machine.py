"""Details of this machine, and settings requested by environment variables."""

import os
import sys
from collections.abc import Mapping
from typing import Any

PRECISION = "ACCELERATE_MIXED_PRECISION"
THREADS = "OMP_NUM_THREADS"
# Variables that launchers set. The precision is not among them, because users set it by hand.
LAUNCHER_SIGNS = ("ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID")


def is_launched(environment: Mapping[str, str]) -> bool:
    """Return whether environment variables show that accelerate or torchrun started the process."""
    return any(sign in environment for sign in LAUNCHER_SIGNS)


def is_main_rank() -> bool:
    """Return whether this process is rank 0 or the only process."""
    return os.environ.get("RANK", "0") == "0"


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def asked_precision() -> str:
    """Return the precision that Accelerate will use, as set by the launcher or the user."""
    return os.environ.get(PRECISION, "no")


def is_recorded_number_of_threads(recorded: Any) -> bool:
    """Return whether torch uses, or will use once loaded, the recorded number of threads.

    Args:
        recorded: recorded number of threads; None for a run on a GPU, where the number has no
            effect, so that any number matches. This machine is not checked for a GPU.
    """
    torch = sys.modules.get("torch")
    now = os.environ.get(THREADS) if torch is None else str(torch.get_num_threads())
    return recorded is None or str(recorded) == now
