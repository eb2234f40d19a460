"""The run folder: run.json, metrics.jsonl, checkpoints, and the settings check when resuming."""

import contextlib
import json
import os
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from video_vq.environment import environment
from video_vq.errors import InputError
from video_vq.models.model_folder import Kind
from video_vq.progress import is_quiet
from video_vq.stores import files
from video_vq.stores.files import PARTIAL, difference, read_json, write_json
from video_vq.stores.lock import LOCK, acquire
from video_vq.training.checkpoint import CheckpointFolder
from video_vq.training.finished import finished_model, in_todays_settings
from video_vq.training.trackers import TrackerName, Trackers

# Metrics shown on the terminal; metrics.jsonl and the trackers contain all metrics.
SHOWN = (
    "loss/",
    "validation/",
    "codebook/usage",
    "codebook/perplexity",
    "optim/skipped_steps",
    "time/clips_per_second",
    "time/left_minutes",
)
# The only files of a run that was killed before run.json was written.
_NO_RUN_YET = {f"run.json{PARTIAL}", LOCK}


class RunFolder:
    """The folder of one training run; every rank opens the folder, but only rank 0 writes.

    Rank 0 locks the folder until this object is deleted or `let_go` is called.

    Args:
        path: path of the folder, created if missing.
        config: resolved configuration as JSON.
        facts: other settings that determine the run: data hash, precision, world size and number of
            threads.
        is_main: whether this is rank 0.
        allowed: dotted names of settings, or of sections of settings, that a resumed run may
            change, such as "config.optim"; see `refuse_changes`.

    Raises:
        InputError: the path is a file, or the folder contains other files but no run, a damaged
            run.json or a run with other settings, or another process is training in the folder.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind,
        config: dict[str, Any],
        facts: dict[str, Any],
        is_main: bool,
        allowed: Sequence[str] = (),
    ):
        self.path = path
        self.is_main = is_main
        self.trackers: Trackers | None = None
        self._kind: Kind = kind
        self._config = config
        self.checkpoints = CheckpointFolder(path / "state")
        self._metrics = path / "metrics.jsonl"
        self._lines_lost = 0
        lock = acquire(path) if is_main else None
        try:
            self._open({"kind": kind, "config": config, **facts}, allowed)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        # `close` does not release the lock, because a checkpoint may still be being written; the
        # writing thread keeps this object alive.
        self._let_go = None if lock is None else weakref.finalize(self, lock.release)

    def _open(self, identity: dict[str, Any], allowed: Sequence[str]) -> None:
        path, is_main = self.path, self.is_main
        run_file = path / "run.json"
        if run_file.exists():
            described = read_json(run_file, "a run's description")
            changes = difference(in_todays_settings(described.get("identity", {})), identity)
            refuse_changes(path, changes, allowed)
            if changes and is_main:
                newest = self.checkpoints.newest()
                change = {"after_step": newest[0] if newest else 0, "was -> now": changes}
                described["changes"] = [*described.get("changes", []), change]
                write_json(run_file, {**described, "identity": identity})
        elif path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; name a folder for the run")
        elif path.exists() and {entry.name for entry in path.iterdir()} - _NO_RUN_YET:
            raise InputError(f"{path}: holds other files and no run.json; name another folder")
        elif is_main:
            path.mkdir(parents=True, exist_ok=True)
            write_json(run_file, {"identity": identity, "environment": environment()})

    def let_go(self) -> None:
        """Release the folder's lock after a failed run, whose error may keep this object alive."""
        if self._let_go is not None:
            self._let_go()

    def finished_model(self, steps: int) -> Path | None:
        """Return the folder of this run's finished model, or None if the run is not finished."""
        return finished_model(self.path, self._kind, steps, self.checkpoints)

    def track(self, names: Sequence[TrackerName], first_step: int) -> None:
        """Start experiment trackers for the run.

        Args:
            first_step: number of steps done; TensorBoard drops what was logged for later steps.

        Raises:
            InputError: a tracker is not installed, or does not start.
        """
        if self.is_main and names:
            self.trackers = Trackers(names, self.path, self._config, first_step)

    def close(self) -> None:
        """Close the trackers, and report how many lines could not be written to the log."""
        if self._lines_lost:
            self._say(f"{self._metrics} lacks {self._lines_lost} line(s) that were only shown here")
        if self.trackers is not None:
            self.trackers.finish()

    def log_position(self) -> int:
        """Return the length of metrics.jsonl in bytes."""
        return self._metrics.stat().st_size if self._metrics.exists() else 0

    def rewind_log(self, position: int) -> None:
        """Truncate metrics.jsonl to the length at a checkpoint.

        Args:
            position: length of metrics.jsonl in bytes when the checkpoint was saved, from
                `log_position`.
        """
        if self.is_main and self._metrics.exists():
            os.truncate(self._metrics, min(position, self.log_position()))

    def log(self, step: int, values: dict[str, float | int], warnings: Sequence[str] = ()) -> None:
        """Log metrics to metrics.jsonl and trackers; show the main metrics and warnings on stderr.

        Args:
            values: values by metric name (`loss/…`).
            warnings: sentences that are shown only on stderr.
        """
        if not self.is_main:
            return
        self._append({"step": step, "clock": round(time.time(), 3), **values})
        if self.trackers is not None:
            self.trackers.log(step, values)
        told = {name: value for name, value in values.items() if name.startswith(SHOWN)}
        shown = "  ".join(f"{name} {_short(value)}" for name, value in told.items())
        if not is_quiet():
            self._say(f"step {step}  {shown}")
        for warning in warnings:
            self._say(f"step {step}  WARNING: {warning}")

    def _append(self, line: dict[str, float | int]) -> None:
        """Append a line to metrics.jsonl; if writing fails, report the first failure and go on."""
        end = self.log_position()
        try:
            with open(self._metrics, "ab") as file:
                files.write(file, json.dumps(line).encode() + b"\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self._metrics, end)  # an incomplete line would spoil the next line
            if not self._lines_lost:
                self._say(
                    f"could not write {self._metrics}: {error}; training continues without it"
                )
            self._lines_lost += 1

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def exporting(self, folder: Path) -> Iterator[None]:
        """Re-raise a failure to write the finished model as an error that explains how to resume.

        Raises:
            InputError: the model cannot be written, for example because the disk is full.
        """
        try:
            yield
        except OSError as error:
            self.let_go()
            raise InputError(
                f"{folder}: the finished model could not be written: {error}; free some space, "
                "then the same command resumes from the last good checkpoint"
            ) from None


def refuse_changes(path: Path, changes: list[str], allowed: Sequence[str]) -> None:
    """Raise if a resumed run has changed settings other than the allowed ones.

    The kind of run, the model and the seed must not change, even if `allowed` contains them.

    Args:
        changes: lines returned by `difference`.
        allowed: dotted names of settings, or of sections of settings, that may change.

    Raises:
        InputError: other settings changed; the message lists the changes, and any flags that would
            allow the changes.
    """
    names = [line.partition(":")[0] for line in changes]
    refused = [
        (name, line)
        for name, line in zip(names, changes, strict=True)
        if not any(name == one or name.startswith(f"{one}.") for one in allowed) or _is_fixed(name)
    ]
    if not refused:
        return
    shown = "\n  ".join(line for _, line in refused)
    flags = " ".join(f"--allow-change {name}" for name, _ in refused if not _is_fixed(name))
    advice = (
        "Repeat the old settings to resume it (OMP_NUM_THREADS sets threads, the launcher "
        "precision and world_size; without flags, `accelerate launch` asks for precision no and "
        "one thread), or name another --out for a new run."
    )
    if any(_is_fixed(name) for name, _ in refused):
        advice += " With another model or seed it would be another run."
    else:
        advice += f" To resume with the new ones from the newest checkpoint: {flags}"
    raise InputError(
        f"{path}: this run folder was started with other settings (was -> now):\n"
        f"  {shown}\n{advice}"
    )


def _is_fixed(name: str) -> bool:
    return name == "kind" or name.startswith(("config.model", "config.run.seed"))


def _short(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def diverged(run_folder: RunFolder, step: int, bad_in_a_row: int) -> InputError:
    """Return the error that ends a diverged run, and release the lock of the run folder.

    Args:
        bad_in_a_row: number of consecutive skipped steps.
    """
    found = run_folder.checkpoints.newest()
    healthy = "there is none yet" if found is None else str(run_folder.checkpoints.folder(found[0]))
    run_folder.let_go()
    return InputError(
        f"the loss or its gradient was not finite {bad_in_a_row} steps in a row, up to step "
        f"{step}; the last healthy checkpoint: {healthy}. Lower optim.lr or optim.clip_norm, or "
        "train with --mixed_precision no, in a new run folder"
    )
