"""Reuse of the precision and number of threads with which an output was started.

This module does not import torch, because torch and Accelerate read environment variables when they
are loaded.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from video_vq.errors import InputError
from video_vq.machine import PRECISION, THREADS, is_main_rank, num_cores
from video_vq.stores.files import read_json
from video_vq.stores.shards import plan_of

PRECISIONS = ("no", "fp16", "bf16", "fp8")
MAX_THREADS = 4096


def go_on_as_recorded(out: Path) -> None:
    """Set the environment variables for precision and threads to the values recorded in a folder.

    Variables that are already set are kept; `accelerate launch` always sets them, by default to
    precision "no" and one thread. The number of threads is also kept if torch is already loaded.

    Args:
        out: run folder, store or folder of scores, finished or not; the folder may be missing.
    """
    recorded = _recorded(out)
    precision, threads = recorded.get("precision"), recorded.get("threads")
    if PRECISION not in os.environ and precision in PRECISIONS:
        os.environ[PRECISION] = str(precision)
        if precision != "no":
            _say(f"precision {precision}, as recorded in {out}; set {PRECISION} for another")
    is_number = type(threads) is int and 1 <= threads <= MAX_THREADS
    is_asked = THREADS in os.environ or "MKL_NUM_THREADS" in os.environ
    # Once torch is loaded, setting the variable has no effect.
    if not is_asked and sys.modules.get("torch") is None and is_number:
        os.environ[THREADS] = str(threads)
        if threads != num_cores():
            _say(f"threads {threads}, as recorded in {out}; set {THREADS} for another number")


def _recorded(out: Path) -> dict[str, Any]:
    """Return the settings recorded in a folder, or no settings if the folder cannot be read.

    The subcommand itself reports an unreadable folder later.
    """
    with suppress(InputError, OSError):
        for name in ("run.json", "scores.json"):
            if (out / name).exists():
                return _fields(read_json(out / name, "what was computed").get("identity"))
        plan = _fields(plan_of(out))
        return _fields(plan.get("made_by", plan))  # token stores keep the settings in `made_by`
    return {}


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _say(text: str) -> None:
    if is_main_rank():
        print(text, file=sys.stderr)
