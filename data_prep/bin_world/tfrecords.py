"""Writer of simulated episodes as TFRecords in BAIR's schema and layout, labeled as simulated."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.bin_world.episode import (
    OVERSAMPLING,
    SIMULATOR_VERSION,
    SIZE,
    Renderer,
    simulate_episode,
)
from data_prep.bin_world.graphics import Graphics, find_graphics
from data_prep.sources.bair import SIMULATED
from data_prep.tfrecord import write_records
from data_prep.world_files import (
    claim_folder,
    encode_record,
    out_of_range,
    processes,
    record_files,
    writing,
)
from video_vq.errors import InputError
from video_vq.media.child import die_with_parent
from video_vq.progress import progress
from video_vq.stores.files import read_json, write_bytes, write_json
from video_vq.stores.lock import require_free

MARKER = "simulated.json"
README = "README.txt"
LABEL = f"video-vq pushing, version {SIMULATOR_VERSION}"
SIDES = ("train", "test")
TOUCHED = 0.01  # distance in meters beyond which an object counts as moved
README_TEXT = f"""SIMULATED DATA ({LABEL}).

Nothing here was recorded by a robot. The files have the schema and the layout of BAIR robot
pushing (softmotion30_44k), so that what reads those reads these. No score on this data compares
with a published one on BAIR. Every record carries the feature `{SIMULATED}`; keep it.
"""


@dataclass(frozen=True)
class BinWorldSettings:
    """Settings that determine every byte of the output for given versions of MuJoCo and OpenGL.

    Attributes:
        num_train, num_test: numbers of episodes in the train and test splits.
        seed: seed of the data set. An episode depends only on the seed, the split and its index in
            the split, so a larger data set begins with the episodes of a smaller one.
    """

    num_train: int = 900
    num_test: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Pushed:
    """Counts of pushed objects.

    Attributes:
        episodes: number of episodes.
        touched: number of episodes in which at least one object moved by more than TOUCHED meters.
        objects: number of objects in all episodes.
        moved: number of objects that moved by more than TOUCHED meters.
    """

    episodes: int
    touched: int
    objects: int
    moved: int


def write_bin_world(out: Path, settings: BinWorldSettings, workers: int = 1) -> Pushed:
    """Simulate and write all episodes that do not exist yet, and return counts for all episodes.

    Repeating the call resumes a killed run, which loses at most one file of 256 episodes. The bytes
    do not depend on the number of workers.

    Args:
        out: output folder; the records go to `softmotion30_44k/{train,test}/`.
        settings: settings of the data set.
        workers: number of simulating processes.

    Raises:
        InputError: a setting is out of range; `out` contains other files, was made with other
            settings, cannot be written or is being written by another process; MuJoCo or OpenGL is
            missing; or a simulating process ended unexpectedly.
    """
    _check(settings, workers)
    require_free(out)
    graphics = find_graphics()
    plan = {
        **asdict(settings),
        "label": LABEL,
        "mujoco": graphics.mujoco,
        "opengl": graphics.renderer,
    }
    with writing(out):
        if not claim_folder(out, MARKER, plan, "simulated episodes"):
            _write_all(out, settings, graphics, workers)
            write_json(out / MARKER, {"plan": plan, "complete": True})
    tallies = [read_json(path, "a file's tally") for path in sorted(out.glob("pushed/*.json"))]
    counts = {name: sum(int(tally[name]) for tally in tallies) for name in Pushed.__annotations__}
    return Pushed(**counts)


def _check(settings: BinWorldSettings, workers: int) -> None:
    ranges = {
        "episodes for training": (settings.num_train, 1, 10_000_000),
        "episodes for test": (settings.num_test, 0, 1_000_000),
        "seed": (settings.seed, 0, 2**63 - 1),
        "workers": (workers, 1, 1024),
    }
    problems = out_of_range(ranges)
    if problems:
        raise InputError("simulated episodes: " + "; ".join(problems))


@dataclass(frozen=True)
class _Made:
    record: bytes
    objects: int
    moved: int


def _write_all(out: Path, settings: BinWorldSettings, graphics: Graphics, workers: int) -> None:
    write_bytes(out / README, README_TEXT.encode())
    (out / "pushed").mkdir(exist_ok=True)
    counts = (settings.num_train, settings.num_test)
    with (
        processes(workers, _prepare_process, graphics.environment) as run,
        progress("simulating", sum(counts), "episode") as bar,
    ):
        for side, count in enumerate(counts):
            for path, numbers in record_files(out, SIDES[side], count):
                tally = out / "pushed" / f"{SIDES[side]}_{path.stem}.json"
                if path.exists() and tally.exists():
                    bar.update(len(numbers))
                else:
                    made = run(partial(_make, settings.seed, side), numbers)
                    _write_file(path, tally, made, bar.update)


def _write_file(
    path: Path, tally: Path, episodes: Iterator[_Made], update: Callable[[], Any]
) -> None:
    moved: list[int] = []
    objects = 0

    def records() -> Iterator[bytes]:
        nonlocal objects
        for episode in episodes:
            moved.append(episode.moved)
            objects += episode.objects
            yield episode.record
            update()

    write_records(path, records())
    pushed = Pushed(len(moved), sum(count > 0 for count in moved), objects, sum(moved))
    write_json(tally, asdict(pushed))


_renderer: Renderer | None = None


def _prepare_process(environment: dict[str, str]) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    os.environ.update(environment)  # before MuJoCo is imported


def _make(seed: int, side: int, index: int) -> _Made:
    global _renderer
    if _renderer is None:
        _renderer = Renderer(OVERSAMPLING * SIZE)
    episode = simulate_episode(_renderer, seed, side, index)
    record = encode_record(episode.frames, episode.actions, episode.positions, LABEL)
    return _Made(record, len(episode.moved), int((episode.moved > TOUCHED).sum()))
