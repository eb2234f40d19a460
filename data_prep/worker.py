"""A process that decodes: it reads jobs from stdin, reports on stdout, and may die without harm.

One JSON object a line. Jobs: {"job": "shard", ...} prepares a shard, {"job": "try", ...} decodes
one video and throws it away. Reports: {"report": "video" | "shard" | "tried" | "failed"}.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from data_prep.shard import Recipe, Verdict, open_video, prepare_shard
from data_prep.sources import Item
from video_vq.errors import InputError
from video_vq.stores.clips import ClipStoreWriter, Skipped, UnusableVideoError

PR_SET_PDEATHSIG = 1
# Address space: a video that asks for more is left out, before the machine ends what it likes.
# decord takes 2.5 GB for 8192x4320, PyAV 0.9 GB.
MAX_MEMORY_BYTES = 6 << 30
Report = Callable[[dict[str, Any]], None]


def main() -> None:
    """Work until stdin ends."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory()
    # Libraries may print: stdout is ours, they get stderr.
    reports = os.fdopen(os.dup(1), "w", buffering=1, encoding="ascii")
    os.dup2(2, 1)

    def report(message: dict[str, Any]) -> None:
        reports.write(json.dumps(message) + "\n")

    for line in sys.stdin:
        job = json.loads(line)
        try:
            run_job(job, report)
        except InputError as error:
            report({"report": "failed", "kind": "input", "message": str(error)})
        except OSError as error:
            message = f"{job['store']}: cannot be written ({error.strerror or error})"
            report({"report": "failed", "kind": "input", "message": message})
        except Exception:
            report({"report": "failed", "kind": "bug", "message": traceback.format_exc()})


def run_job(job: dict[str, Any], report: Report) -> None:
    """Do one job and report its end.

    Raises:
        InputError: the store belongs to another plan.
        OSError: the store cannot be written.
    """
    recipe = Recipe.from_json(job["recipe"])

    def watch(video: str, stage: str, cpu_seconds: float) -> None:
        # The kernel ends a process that outlives this timer, even one that hangs in a decoder
        # and never comes back to Python. It counts processor time: a busy machine costs no video.
        signal.setitimer(signal.ITIMER_PROF, 0.0 if stage == "done" else cpu_seconds)
        report({"report": "video", "id": video, "stage": stage, "cpu_seconds": cpu_seconds})

    if job["job"] == "try":
        item = Item(**job["item"])
        try:
            prepared = open_video(item, recipe, "pyav", watch, [])
            for _ in prepared.frames:
                pass
        except UnusableVideoError:
            pass  # the shard will find the same reason
        watch(item.id, "done", 0.0)
        report({"report": "tried", "id": item.id})
        return
    height, width = recipe.size_hw
    writer = ClipStoreWriter(
        job["store"],
        (height, width),
        job["plan"],
        {name: tuple(shape) for name, shape in job["arrays"].items()},
        owner=False,
    )
    prepare_shard(
        writer,
        recipe,
        job["shard"],
        [Item(**item) for item in job["items"]],
        [Skipped(**entry) for entry in job["skipped"]],
        {name: Verdict(**verdict) for name, verdict in job["verdicts"].items()},
        watch,
    )
    report({"report": "shard", "shard": job["shard"]})


def _limit_memory() -> None:
    """Lower the limit of address space, never above one that is set already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [MAX_MEMORY_BYTES, *(limit for limit in (soft, hard) if limit >= 0)]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent dies (Linux; elsewhere stdin's end does)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
