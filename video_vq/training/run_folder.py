"""The run folder: run.json, metrics.jsonl, checkpoints, and whether a start is a resume."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_vq.environment import environment
from video_vq.errors import InputError
from video_vq.stores.files import difference, read_json, write_json
from video_vq.training.checkpoint import CheckpointFolder
from video_vq.training.trackers import TrackerName, Trackers


class RunFolder:
    """One training run on the disk; every rank opens it, only rank 0 writes.

    Args:
        path: the folder; made when missing.
        kind: "tokenizer" or "prior".
        config: the resolved configuration as JSON.
        facts: what else decides the run: hash of the data, precision, world size, threads.
        is_main: whether this is rank 0.

    Raises:
        InputError: the folder holds another kind of run, or one with another configuration.
    """

    def __init__(
        self, path: Path, kind: str, config: dict[str, Any], facts: dict[str, Any], is_main: bool
    ):
        self.path = path
        self.is_main = is_main
        self.trackers: Trackers | None = None
        self._config = config
        self.checkpoints = CheckpointFolder(path / "state")
        identity = {"kind": kind, "config": config, **facts}
        run_file = path / "run.json"
        if run_file.exists():
            old = read_json(run_file, "a run's description").get("identity", {})
            lines = difference(old, identity)
            if lines:
                shown = "\n  ".join(lines)
                raise InputError(
                    f"{path}: this run folder was started with other settings (was -> now):\n"
                    f"  {shown}\n"
                    "Repeat the old settings to resume it (OMP_NUM_THREADS sets threads, the "
                    "launcher precision and world_size), or name another --out for a new run."
                )
        elif path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; name a folder for the run")
        elif path.exists() and any(path.iterdir()):
            raise InputError(f"{path}: holds other files and no run.json; name another folder")
        elif is_main:
            path.mkdir(parents=True, exist_ok=True)
            write_json(run_file, {"identity": identity, "environment": environment()})
        self._metrics = path / "metrics.jsonl"

    def track(self, names: Sequence[TrackerName], first_step: int) -> None:
        """Show the run in trackers, too, from a step on; see `Trackers`."""
        if self.is_main and names:
            self.trackers = Trackers(names, self.path, self._config, first_step)

    def close(self) -> None:
        """End the trackers; the run itself needs no end."""
        if self.trackers is not None:
            self.trackers.finish()

    def log_position(self) -> int:
        """Return how many bytes of metrics.jsonl there are."""
        return self._metrics.stat().st_size if self._metrics.exists() else 0

    def rewind_log(self, position: int) -> None:
        """Cut metrics.jsonl back to where a checkpoint left it."""
        if self.is_main and self._metrics.exists():
            os.truncate(self._metrics, min(position, self.log_position()))

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Append one line of numbers to metrics.jsonl and show it on stderr."""
        if not self.is_main:
            return
        line = {"step": step, "clock": round(time.time(), 3), **values}
        with open(self._metrics, "a") as file:
            file.write(json.dumps(line) + "\n")
        if self.trackers is not None:
            self.trackers.log(step, values)
        shown = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        print(f"step {step}  {shown}", file=sys.stderr, flush=True)


def _short(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def diverged(run: RunFolder, step: int, bad_in_a_row: int) -> InputError:
    """Return the error that ends a run whose numbers have gone wrong."""
    found = run.checkpoints.newest()
    healthy = "there is none yet" if found is None else str(run.checkpoints.folder(found[0]))
    return InputError(
        f"the loss or its gradient was not finite {bad_in_a_row} steps in a row, up to step "
        f"{step}; the last healthy checkpoint: {healthy}. Lower optim.lr or optim.clip_norm, or "
        "train with --mixed_precision no, in a new run folder"
    )
