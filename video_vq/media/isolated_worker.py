"""A process that decodes video files to raw frames on the disk, and may die without harm.

One JSON object a line. A job names the file, the recipe and where the frames go; the reports are
{"report": "stage"} as it goes on and {"report": "decoded" | "unreadable" | "failed"} at its end.
"""

import json
import sys
import traceback
from typing import Any

from video_vq.media.child import Report, become_child, limit_processor_time
from video_vq.media.prepared import FrameRecipe, cpu_limit, open_file
from video_vq.media.probe import UnreadableVideoError


def main() -> None:
    """Work until stdin ends."""
    report = become_child()
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = decode(job, report)
        except UnreadableVideoError as error:
            answer = {"report": "unreadable", "reason": error.reason}
        except OSError as error:
            what = f"{job['frames']}: cannot be written ({error.strerror or error})"
            answer = {"report": "failed", "kind": "input", "message": what}
        except Exception:
            answer = {"report": "failed", "kind": "bug", "message": traceback.format_exc()}
        limit_processor_time(0.0)
        report(answer)


def decode(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the frames of one file, uint8 t h w c, and return the report of it.

    Raises:
        UnreadableVideoError: the file cannot be used.
        OSError: the frames cannot be written.
    """
    recipe = FrameRecipe.from_json(job["recipe"])

    def watch(stage: str, cpu_seconds: float) -> None:
        limit_processor_time(cpu_seconds)
        report({"report": "stage", "stage": stage, "cpu_seconds": cpu_seconds})

    num_frames = 0
    with open(job["frames"], "wb") as file:  # before the first report: the parent unlinks it then
        watch("read", cpu_limit(recipe.cpu_seconds, job["num_bytes"]))
        opened = open_file(job["path"], job["num_bytes"], recipe, job["decoder"], watch)
        for frame in opened.frames:
            file.write(frame.data)
            num_frames += 1
    oddities = opened.oddities()
    if repeated := opened.num_repeated():
        share = f"{repeated:,} of {num_frames:,} frames ({repeated / num_frames:.1%})"
        oddities.append(f"{share} repeat the one before, to reach {recipe.fps:g} frames per second")
    if not num_frames:
        raise UnreadableVideoError(job["path"], "holds no frame")
    return {
        "report": "decoded",
        "num_frames": num_frames,
        "fps": opened.fps,
        "oddities": oddities,
    }
