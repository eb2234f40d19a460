"""The child's side of decoding processes, which end with the parent or at a CPU time limit."""

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from video_vq.errors import InputError

PR_SET_PDEATHSIG = 1
# Address space: a video that needs more is skipped, before the system kills any process.
# decord takes 2.5 GB for 8192x4320, PyAV 0.9 GB.
MAX_MEMORY_BYTES = 6 << 30
WatchVideo = Callable[[str, str, float], None]
"""Called with a video's id, a stage (read, decode or done) and its limit on CPU time in seconds."""


def serve(do: Callable[[dict[str, Any], WatchVideo], dict[str, Any]]) -> None:
    """Run the jobs that a supervisor sends, until stdin is closed.

    Jobs are read from stdin, and reports are written to the original stdout, as one JSON object per
    line: {"report": "video"} at each stage of a video, then the job's answer, or {"report":
    "refused" | "bug"}.

    Args:
        do: function that runs a job and returns the answer, and that raises InputError for problems
            that are not caused by a video.
    """
    become_child()
    # Libraries may print to stdout: send their output to stderr, and keep stdout for reports.
    reports = os.fdopen(os.dup(1), "w", buffering=1, encoding="ascii")
    os.dup2(2, 1)

    def report(message: dict[str, Any]) -> None:
        reports.write(json.dumps(message) + "\n")

    def watch(video: str, stage: str, cpu_seconds: float) -> None:
        limit_processor_time(0.0 if stage == "done" else cpu_seconds)
        report({"report": "video", "id": video, "stage": stage, "cpu_seconds": cpu_seconds})

    for line in sys.stdin:
        try:
            answer = do(json.loads(line), watch)
        except InputError as error:
            answer = {"report": "refused", "message": str(error)}
        except Exception:
            answer = {"report": "bug", "message": traceback.format_exc()}
        limit_processor_time(0.0)
        report(answer)


def become_child() -> None:
    """Turn this process into a child process for decoding, with limited memory.

    The process ends with the thread that started it (on Linux; elsewhere when stdin is closed),
    leaves Ctrl-C to the parent and does not dump core.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Never exceed an address space limit that is already set.
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [MAX_MEMORY_BYTES, *(limit for limit in (soft, hard) if limit >= 0)]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))


def limit_processor_time(seconds: float) -> None:
    """Have the kernel end this process after `seconds` of CPU time; 0 removes the limit.

    The limit also ends a process that hangs in a decoder and never returns to Python. CPU time is
    used instead of wall time, so that no video is lost on a busy machine.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies; does nothing except on Linux."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
