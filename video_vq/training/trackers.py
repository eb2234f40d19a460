"""Logging to TensorBoard, Weights & Biases or Trackio through Accelerate, besides metrics.jsonl."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker
from jaxtyping import UInt8

from video_vq.errors import InputError
from video_vq.media.encode import write_animation, write_video

TrackerName = Literal["tensorboard", "wandb", "trackio"]
Tracker = TensorBoardTracker | WandBTracker | TrackioTracker
PROJECT = "video-vq"
FPS = 8.0
SIMPLE = (bool, int, float, str, type(None))


def chosen_trackers(asked: Sequence[str] | None) -> tuple[TrackerName, ...]:
    """Return the trackers that the command line selects.

    Args:
        asked: names of trackers; "none" for no tracker; None for TensorBoard if it is installed.

    Raises:
        InputError: a tracker is not installed.
    """
    if asked is None:
        return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    names: tuple[TrackerName, ...] = tuple(n for n in get_args(TrackerName) if n in asked)
    for name in names:
        _require_installed(name)
    return names


def _require_installed(name: TrackerName) -> None:
    if importlib.util.find_spec(name) is None:
        raise InputError(
            f"--tracker {name}: not installed; `pip install {name}`, or leave --tracker out "
            "(metrics.jsonl is always written)"
        )


class Trackers:
    """The experiment trackers of one run, which get metrics and clips; created only on rank 0.

    Trackers do not affect a run, so a resumed run may use other trackers.

    Args:
        path: path of the run folder; TensorBoard writes into this folder, and the other trackers
            name the run after it.
        first_step: number of steps done; TensorBoard drops what was logged for later steps.

    Raises:
        InputError: a tracker is not installed, or does not start.
    """

    def __init__(
        self, names: Sequence[TrackerName], path: Path, config: dict[str, Any], first_step: int
    ):
        self.path = path
        self._has_failed = False
        self._trackers = [self._start(name, config, first_step) for name in names]

    def _start(self, name: TrackerName, config: dict[str, Any], first_step: int) -> Tracker:
        _require_installed(name)
        try:
            tracker = self._make(name, first_step)
            tracker.start()
            if name != "tensorboard":  # TensorBoard would write a separate folder at each start
                tracker.store_init_configuration(flat(config))
        except Exception as error:
            raise InputError(f"--tracker {name}: does not start: {error}") from error
        return tracker

    def _make(self, name: TrackerName, first_step: int) -> Tracker:
        # The folder's path identifies the run, so that a resumed run continues in the trackers.
        identity = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:16]
        run_name = self.path.resolve().name
        if name == "tensorboard":
            return TensorBoardTracker("tensorboard", self.path, purge_step=first_step + 1)
        if name == "wandb":
            return WandBTracker(
                PROJECT, name=run_name, id=identity, resume="allow", dir=str(self.path)
            )
        return TrackioTracker(PROJECT, name=f"{run_name}-{identity}", resume="allow")

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Send metrics to all trackers."""
        with self._going_on():
            for tracker in self._trackers:
                tracker.log(values, step=step)

    def log_clip(self, step: int, name: str, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Send an animated clip to all trackers; keep the MP4 files in `clips/`."""
        stem = f"{name.replace('/', '-')}-{step:08d}"
        with self._going_on():
            folder = self.path / "clips"
            folder.mkdir(exist_ok=True)
            for tracker in self._trackers:
                if isinstance(tracker, TensorBoardTracker):
                    self._add_animation(tracker, step, name, frames, folder / f"{stem}.gif")
                else:
                    file = folder / f"{stem}.mp4"
                    write_video(file, frames, FPS)
                    video = importlib.import_module(str(tracker.name)).Video(str(file))
                    tracker.log({name: video}, step=step)

    def _add_animation(
        self, tracker: TensorBoardTracker, step: int, name: str, frames: np.ndarray, file: Path
    ) -> None:
        # SummaryWriter.add_video asks for moviepy; TensorBoard itself plays a GIF as an image.
        summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        write_animation(file, frames, FPS)
        height, width = frames.shape[1:3]
        image = summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes()
        )
        file.unlink()
        value = summary.Value(tag=name, image=image)
        writer = tracker.writer.file_writer
        assert writer is not None  # it is open until `finish`
        writer.add_summary(summary(value=[value]), step)

    def finish(self) -> None:
        """Close all trackers."""
        with self._going_on():
            for tracker in self._trackers:
                tracker.finish()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Suppress write errors, so that a full disk does not end the run; report the first."""
        try:
            yield
        except OSError as error:
            if not self._has_failed:
                text = f"could not write for the trackers: {error}; training continues"
                print(text, file=sys.stderr, flush=True)
            self._has_failed = True


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as a flat mapping of `section.key` to value, with lists as text."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, SIMPLE) else str(value)
    return found
