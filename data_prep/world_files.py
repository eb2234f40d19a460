"""Helpers for both synthetic worlds: output folders, processes, and files in BAIR's layout."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.sources.bair import SIMULATED
from data_prep.tfrecord import Feature, encode_example
from video_vq.errors import InputError
from video_vq.stores.files import difference, read_json, write_json
from video_vq.stores.lock import LOCK, held

PER_FILE = 256  # number of records per file


def claim_folder(out: Path, marker: str, plan: dict[str, Any], what: str) -> bool:
    """Claim an output folder for a plan, and return whether the output is already complete.

    Args:
        out: output folder, created if missing.
        marker: name of the file in the folder that records the plan.
        plan: settings that determine every byte of the output.
        what: description of the output, for messages.

    Raises:
        InputError: the path is a file, or the folder contains other files or was claimed for a
            different plan.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder for the {what}")
    path = out / marker
    if path.exists():
        found = read_json(path, f"the record of {what}")
        lines = difference(found.get("plan"), plan)
        if lines:
            shown = "\n  ".join(lines)
            raise InputError(
                f"{out}: was made with other settings (was -> now):\n  {shown}\n"
                "Name another folder, repeat the old settings, or delete this one."
            )
        return found.get("complete") is True
    if out.exists() and any(entry.name != LOCK for entry in out.iterdir()):
        raise InputError(f"{out}: holds other files and no {marker}; name an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {"plan": plan, "complete": False})
    return False


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Lock an output folder while it is written, and turn an OSError into an InputError.

    Raises:
        InputError: the folder cannot be written, or is being written by another process.
    """
    try:
        with held(out):
            yield
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); nothing is lost: run the "
            "command again; it resumes where it stopped"
        ) from None


def out_of_range(ranges: Mapping[str, tuple[int, int, int]]) -> list[str]:
    """Return a message for each setting that is out of range.

    Args:
        ranges: mapping from each name to the value and the smallest and largest allowed values.
    """
    return [
        f"{name} must lie in {lowest}..{highest}, found {value}"
        for name, (value, lowest, highest) in ranges.items()
        if not lowest <= value <= highest
    ]


@contextmanager
def processes(workers: int, prepare: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Yield a function like `map` that runs calls in new processes and yields results in order.

    Args:
        workers: number of processes.
        prepare: function that each process calls first; it must make the process end together with
            its parent, so that no process outlives a killed run.
        arguments: arguments of `prepare`.

    Raises:
        InputError: a process ended unexpectedly.
    """
    context = multiprocessing.get_context("spawn")  # forking a process with threads may deadlock
    pool = ProcessPoolExecutor(workers, context, prepare, arguments)
    try:
        yield partial(pool.map, chunksize=2)
    except BrokenProcessPool:
        raise InputError(
            "a rendering process ended unexpectedly, perhaps for lack of memory; run the command "
            "again; it resumes where it stopped"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def record_files(out: Path, side: str, count: int) -> Iterator[tuple[Path, range]]:
    """Create the folder for a split in BAIR's layout, and yield each file's path and episode range.

    Args:
        out: output folder.
        side: train or test.
        count: total number of episodes in the split.
    """
    folder = out / "softmotion30_44k" / side
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, PER_FILE):
        numbers = range(first, min(first + PER_FILE, count))
        yield folder / f"traj_{first}_to_{numbers[-1]}.tfrecords", numbers


def encode_record(
    frames: Mapping[str, UInt8[np.ndarray, "t h w 3"]],
    actions: Float32[np.ndarray, "t 4"],
    positions: Float32[np.ndarray, "t 3"],
    label: str | None = None,
) -> bytes:
    """Return an episode as a serialized record in BAIR's schema.

    Args:
        frames: frames of each camera.
        actions: action from each frame to the next.
        positions: position of the gripper in each frame.
        label: simulator label; None to write a record without a label.
    """
    features: dict[str, Feature] = {} if label is None else {SIMULATED: [label.encode()]}
    for frame in range(len(actions)):
        for camera, pictures in frames.items():
            features[f"{frame}/image_{camera}/encoded"] = [pictures[frame].tobytes()]
        features[f"{frame}/action"] = actions[frame]
        features[f"{frame}/endeffector_pos"] = positions[frame]
    return encode_example(features)
