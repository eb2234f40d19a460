"""Helpers of both pushing worlds: output folders, processes, and files in BAIR's layout."""

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
from video_vq.stores.lock import LOCK

PER_FILE = 256  # records per file


def claim_folder(out: Path, marker: str, plan: dict[str, Any], what: str) -> bool:
    """Claim a folder for a plan; return whether it is already complete.

    Args:
        out: the folder, created if missing.
        marker: name of the file in it that holds the plan.
        plan: settings that determine every byte.
        what: description of the folder's contents, for messages.

    Raises:
        InputError: the path is a file, holds something else, or was made by another plan.
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


def out_of_range(ranges: Mapping[str, tuple[int, int, int]]) -> list[str]:
    """Return the problem with settings, given as name -> (value, smallest, largest allowed)."""
    return [
        f"{name} must lie in {lowest}..{highest}, found {value}"
        for name, (value, lowest, highest) in ranges.items()
        if not lowest <= value <= highest
    ]


@contextmanager
def processes(workers: int, prepare: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Yield an ordered `map` over new processes.

    Args:
        workers: number of processes.
        prepare: function that each process calls first, with these arguments; it makes the process
            end with this one, because none may outlive a killed run.

    Raises:
        InputError: a process died.
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
    """Yield each file of a side of BAIR's layout, and the numbers of its episodes."""
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
    """Encode an episode like BAIR's records.

    Args:
        frames: frames of each camera.
        actions: rows of numbers, from each frame to the next.
        positions: position of the gripper at each frame.
        label: name of the simulator, a feature that records of a real robot do not have.
    """
    features: dict[str, Feature] = {} if label is None else {SIMULATED: [label.encode()]}
    for frame in range(len(actions)):
        for camera, pictures in frames.items():
            features[f"{frame}/image_{camera}/encoded"] = [pictures[frame].tobytes()]
        features[f"{frame}/action"] = actions[frame]
        features[f"{frame}/endeffector_pos"] = positions[frame]
    return encode_example(features)
