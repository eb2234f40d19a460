"""Processes that decode for another: they die with it, keep to their time, say why they ended."""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
# Address space: a video that asks for more is left out, before the machine ends what it likes.
# decord takes 2.5 GB for 8192x4320, PyAV 0.9 GB.
MAX_MEMORY_BYTES = 6 << 30
Report = Callable[[dict[str, Any]], None]


def become_child() -> Report:
    """Make this process a child that decodes, and return what reports to the parent.

    It dies with the thread that started it (Linux; elsewhere stdin's end does it), leaves Ctrl-C
    to the parent and writes no core. Reports are JSON, one object a line, on what was stdout.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory()
    # Libraries may print: stdout is ours, they get stderr.
    reports = os.fdopen(os.dup(1), "w", buffering=1, encoding="ascii")
    os.dup2(2, 1)

    def report(message: dict[str, Any]) -> None:
        reports.write(json.dumps(message) + "\n")

    return report


def _limit_memory() -> None:
    """Lower the limit of address space, never above one that is set already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [MAX_MEMORY_BYTES, *(limit for limit in (soft, hard) if limit >= 0)]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))


def limit_processor_time(seconds: float) -> None:
    """Have the kernel end this process after so much processor time; 0 lifts the limit.

    It ends even one that hangs in a decoder and never comes back to Python. Processor time and not
    a clock: a busy machine costs no video.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)


def child_environment() -> dict[str, str]:
    """Return the environment in which a child imports what its parent does."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return {**os.environ, "PYTHONPATH": paths}


def cause_of_death(code: int, cpu_limit: float, stalled: bool) -> str:
    """Say in a few words why a child ended.

    Args:
        code: its exit code, as subprocess gives it.
        cpu_limit: processor seconds that it had.
        stalled: whether the parent ended it because it did nothing.
    """
    if stalled:
        return "hangs the decoder"
    if code == -signal.SIGPROF:
        return f"takes more than {cpu_limit:,.0f} s of processor time"
    if code < 0:
        return f"ends the decoder with {signal.Signals(-code).name}"
    return f"ends the decoder with exit code {code}"


def cpu_seconds_of(pid: int) -> float | None:
    """Return the processor time of a process, None where the system does not tell."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else None


def state_of(pid: int) -> str:
    """Return the letter of a process's state (proc(5)), "?" where the system does not tell."""
    fields = _stat(pid)
    return fields[0] if fields else "?"


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies (Linux; elsewhere stdin's end does)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
