"""Reader of a LeRobot v3 data set's index, which has one row per episode, in a separate process."""

import io
import json
import math
import os
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from data_prep.parquet import Kind, TableError, read_columns
from video_vq.errors import InputError
from video_vq.media.supervisor import child_environment

# Largest deviation of times, in frames: sums of rounded lengths drift, but below this bound no
# frame can belong to two episodes.
TOLERANCE = 0.25
OVERLAP_SECONDS = 1e-3
MAX_EPISODES = 1_000_000
MAX_NUMBER = 1_000_000  # largest chunk or file number, and largest number of frames per episode
MAX_TASK_LENGTH = 300
CPU_SECONDS, WALL_SECONDS = 300, 1800
MEMORY_BYTES = 8 << 30
COMMAND = "from data_prep.sources.lerobot_index import main; main()"


class IndexRow(NamedTuple):
    """An episode in the index.

    Attributes:
        episode: number of the episode.
        length: number of table rows, one per frame.
        first_row: index of the episode's first row in the whole data set.
        tasks: descriptions of the tasks.
        data_file, video_file: chunk and file number of the table and of the camera's video.
        from_seconds, to_seconds: start and end of the episode in the video, in seconds.
    """

    episode: int
    length: int
    first_row: int
    tasks: tuple[str, ...]
    data_file: tuple[int, int]
    video_file: tuple[int, int]
    from_seconds: float
    to_seconds: float


def read_index(root: Path, camera: str) -> list[IndexRow]:
    """Return all episodes, sorted by episode number.

    The tables are read in a separate process with limits on memory and time, because a malicious
    table may crash the Parquet reader, which is a large native library.

    Args:
        root: folder of the data set.
        camera: name of the video feature.

    Raises:
        InputError: a table is missing, damaged or too large, reading takes too long, or the index
            is inconsistent.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND],
            input=json.dumps({"root": str(root), "camera": camera}).encode(),
            capture_output=True,
            env=child_environment(),
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{root}: reading its index took over {WALL_SECONDS} s") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(
            f"{root}: its index in meta/episodes crashes the Parquet reader (exit code "
            f"{done.returncode}{': ' if last else ''}{last[:200]}); fetch the data set again"
        )
    lines = io.BytesIO(done.stdout)  # parse row by row, as a million parsed rows would take 2 GB
    answer = json.loads(next(lines))
    if "problem" in answer:
        raise InputError(answer["problem"])
    known: dict[str, str] = {}  # tasks, which many episodes share
    return [
        IndexRow(
            *(episode, length, first),
            tuple(known.setdefault(task, task) for task in tasks),
            *(tuple(data_file), tuple(video_file), begin, end),
        )
        for episode, length, first, tasks, data_file, video_file, begin, end in map(
            json.loads, lines
        )
    ]


def _lower(kind: int, most: int) -> None:
    """Lower a resource limit of this process, unless the current limit is already lower."""
    soft, hard = resource.getrlimit(kind)
    allowed = min([most, *(limit for limit in (soft, hard) if limit >= 0)])
    resource.setrlimit(kind, (allowed, hard))


def main() -> None:
    """Read the index that the request on stdin names, and print one JSON line per episode.

    The first line contains the number of rows, or the problem with the index.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_CPU, CPU_SECONDS)
    _lower(resource.RLIMIT_AS, MEMORY_BYTES)
    request = json.load(sys.stdin)
    try:
        rows = _read(Path(request["root"]), request["camera"])
        print(json.dumps({"rows": len(rows)}))
        for row in rows:
            print(json.dumps(row))
    except InputError as error:
        print(json.dumps({"problem": str(error)}))
    sys.stdout.flush()
    os._exit(0)  # do not wait for native threads


def _read(root: Path, camera: str) -> list[IndexRow]:
    folder = root / "meta" / "episodes"
    paths = sorted(folder.glob("*/*.parquet"))
    if not paths:
        raise InputError(f"{folder}: no chunk-*/file-*.parquet there; fetch the data set again")
    rows: list[IndexRow] = []
    for path in paths:
        if not path.resolve().is_relative_to(root.resolve()):
            raise TableError(path, "is a link that leads out of the data set; copy the files")
        rows += _read_table(path, camera)
        if len(rows) > MAX_EPISODES:
            raise TableError(path, f"more than {MAX_EPISODES:,} episodes")
    rows.sort(key=lambda row: row.episode)
    _check(folder, rows)
    return rows


def _read_table(path: Path, camera: str) -> list[IndexRow]:
    video = f"videos/{camera}"
    whole_numbers = (
        "episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index",
        f"{video}/chunk_index", f"{video}/file_index",
    )  # fmt: skip
    kinds: dict[str, tuple[Kind, int]] = {
        **dict.fromkeys(whole_numbers, ("integer", 1)),
        f"{video}/from_timestamp": ("number", 1),
        f"{video}/to_timestamp": ("number", 1),
        "tasks": ("texts", 1),
    }
    found = read_columns(path, kinds)
    columns = (found[name] for name in kinds)
    lists = (column if isinstance(column, list) else column.tolist() for column in columns)
    return [
        IndexRow(episode, length, first, tuple(tasks), (a, b), (c, d), begin, end)
        for episode, length, first, a, b, c, d, begin, end, tasks in zip(*lists, strict=True)
    ]


def _check(folder: Path, rows: list[IndexRow]) -> None:
    row_end = 0
    for before, row in zip([None, *rows], rows, strict=False):
        numbers = (*row.data_file, *row.video_file)
        problem = None
        if before is not None and before.episode == row.episode:
            problem = "is listed twice"
        elif row.episode < 0 or not 0 < row.length <= MAX_NUMBER:
            problem = f"has {row.length} frames"
        elif not all(0 <= number <= MAX_NUMBER for number in numbers):
            problem = f"lies in chunk and file {numbers}"
        elif row.first_row < row_end:
            problem = f"begins at row {row.first_row}, where another episode lies"
        elif any(len(task) > MAX_TASK_LENGTH or not task.isprintable() for task in row.tasks):
            problem = "has a task with unprintable characters, or with too many"
        if problem is not None:
            raise InputError(f"{folder}: episode {row.episode} {problem}; fetch the data set again")
        row_end = row.first_row + row.length
    # An episode whose times are not finite is skipped later, with the reason.
    timed = [row for row in rows if math.isfinite(row.from_seconds + row.to_seconds)]
    timed.sort(key=lambda row: (row.video_file, row.from_seconds))
    for before, row in pairwise(timed):
        same = before.video_file == row.video_file
        if same and row.from_seconds < before.to_seconds - OVERLAP_SECONDS:
            raise InputError(
                f"{folder}: episode {row.episode} begins at {row.from_seconds:g} s of its video, "
                f"inside episode {before.episode}; fetch the data set again"
            )
