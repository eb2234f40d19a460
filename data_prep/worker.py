"""A process that decodes: it reads jobs from stdin, reports on stdout, and may die without harm.

One JSON object a line. Jobs: {"job": "shard", ...} prepares a shard, {"job": "try", ...} decodes
one video and throws it away. Reports: {"report": "video" | "shard" | "tried" | "failed"}.
"""

import json
import sys
import traceback
from typing import Any

from data_prep.shard import Recipe, Verdict, open_video, prepare_shard
from data_prep.sources import Item
from video_vq.errors import InputError
from video_vq.media.child import Report, become_child, limit_processor_time
from video_vq.stores.clips import ClipStoreWriter, Skipped, UnusableVideoError


def main() -> None:
    """Work until stdin ends."""
    report = become_child()
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
        limit_processor_time(0.0 if stage == "done" else cpu_seconds)
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
