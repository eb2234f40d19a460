"""Ray tasks, one for each output shard, on a cluster or on this machine.

Only Ray Core tasks are used, no actors and no Ray Data. A task is a function that takes JSON-like
arguments and commits its own shard, so a lost task can simply be run again.
"""

import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from video_vq.errors import InputError

MAX_RETRIES = 3  # retries of a shard whose worker or machine died
OBJECT_STORE_BYTES = 128 << 20  # results are on disk; Ray's default is a third of the memory
KNOCK_SECONDS = 10.0
AHEAD = 4  # submitted tasks per core; limits the driver's memory for a million shards


def require_ray() -> None:
    """Raise an error unless Ray is installed.

    Raises:
        InputError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "--engine ray: Ray is not installed; install it with `pip install 'video-vq[ray]'`, "
            "or leave --engine out to use the cores of this machine"
        )


def not_shared(path: Path) -> str:
    """Return the error message for a folder that is not visible on this cluster machine."""
    return (
        f"{path}: is not visible from {os.uname().nodename}; with --engine ray the output, the "
        "data and the models must lie on a file system that all machines of the cluster share"
    )


def run_on_ray(
    task: Callable[..., None],
    shards: Mapping[int, tuple[Any, ...]],
    on_done: Callable[[int], object],
    num_cpus: int = 1,
    needs_gpu: bool = False,
) -> None:
    """Run a task for each shard in a Ray worker process.

    If Ray is already initialized in this process, the existing connection is used. Otherwise, the
    process connects to the cluster at RAY_ADDRESS; without RAY_ADDRESS, Ray is started on this
    machine and stopped at the end. A task whose process or machine dies is run again at most
    MAX_RETRIES times.

    Args:
        task: module-level function, which another process can import.
        shards: mapping from the index of each shard to the arguments of its task.
        on_done: function that is called with the index of each finished shard, in any order; an
            exception ends the run.
        num_cpus: number of CPU cores that one task uses.
        needs_gpu: whether a task needs a GPU.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached or has too few cores or
            GPUs, a task raised an InputError or OSError, or a task's process died too often.
    """
    require_ray()
    if not shards:
        return
    # Ray reads these variables when it is imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(MAX_RETRIES))
    import ray

    ours = not ray.is_initialized()
    if ours:
        _connect()
    try:
        _require_room(num_cpus, needs_gpu)
        run = ray.remote(
            num_cpus=num_cpus, num_gpus=int(needs_gpu), max_retries=MAX_RETRIES, max_calls=0
        )(_outcome_of)
        most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // num_cpus)
        rest = iter(shards.items())
        running: dict[Any, int] = {}
        while True:
            for shard, arguments in islice(rest, most - len(running)):
                running[run.remote(task, arguments)] = shard
            if not running:
                return
            for done in ray.wait(list(running), num_returns=1)[0]:
                shard = running.pop(done)
                _take(done, shard)
                on_done(shard)
    finally:
        if ours:
            ray.shutdown()


def _connect() -> None:
    import ray

    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"RAY_ADDRESS={address}" if address else "this machine"
        raise InputError(
            f"--engine ray: Ray cannot be reached at {where} ({_first_line(error)}); start a "
            "cluster with `ray start --head`, or unset RAY_ADDRESS to use only this machine"
        ) from None


def _knock(address: str) -> None:
    """Raise an OSError if no server answers at host:port; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _require_room(num_cpus: int, needs_gpu: bool) -> None:
    import ray

    found = ray.cluster_resources()
    if found.get("CPU", 0) < num_cpus or found.get("GPU", 0) < int(needs_gpu):
        raise InputError(
            f"--engine ray: a task needs {num_cpus} cores and {int(needs_gpu)} GPU, the cluster "
            f"has {found.get('CPU', 0):g} and {found.get('GPU', 0):g}; lower --workers or add "
            "machines"
        )


def _outcome_of(task: Callable[..., None], arguments: tuple[Any, ...]) -> str | None:
    """Run a task; return the message of an error that the user can correct, or None on success."""
    try:
        task(*arguments)
    except InputError as error:
        return str(error)
    except OSError as error:
        return (
            f"{error.filename or 'the disk'}: cannot be read or written "
            f"({error.strerror or error}) on {os.uname().nodename}. Nothing is lost: correct it, "
            "then run the same command again to resume"
        )
    return None


def _take(done: Any, shard: int) -> None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        problem = ray.get(done)
    except RayTaskError:
        raise  # a bug, which is shown with its traceback
    except RayError as error:
        raise InputError(
            f"shard {shard}: its process died {MAX_RETRIES + 1} times, Ray says: "
            f"{_first_line(error)}. Nothing is lost: run the same command again to resume; if "
            "memory was short, give Ray fewer cores"
        ) from None
    if problem is not None:
        raise InputError(problem)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
