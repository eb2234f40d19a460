"""A pool of processes that decode; one that dies, hangs or runs too long costs one video at most.

A video during which a worker dies is tried once more, alone in a fresh process and with PyAV. If
that dies too the video is left out, with the reason; else the shard is done again.
"""

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.shard import Recipe, Verdict
from data_prep.sources import Item
from video_vq.errors import InputError
from video_vq.media.child import cause_of_death, child_environment, cpu_seconds_of, state_of

COMMAND = (sys.executable, "-c", "from data_prep.worker import main; main()")
CHECK_SECONDS = 2.0
STALL_SECONDS = 300.0  # without using the processor at all
BLAMELESS_STATES = "DTt"  # of a process that waits for storage, or was stopped from outside
MAX_DEATHS_OUTSIDE_VIDEOS = 3


@dataclass(frozen=True)
class ShardTask:
    """One shard to prepare: the fields of a worker's job that differ between shards."""

    shard: int
    items: tuple[Item, ...]
    skipped: tuple[dict[str, Any], ...] = ()


@dataclass
class _Worker:
    """The parent's side of one process."""

    process: subprocess.Popen[bytes]
    errors: Any  # the file that takes its stderr
    listener: threading.Thread | None = None
    task: ShardTask | None = None
    trial: Item | None = None
    video: str | None = None
    stage: str = "done"
    cpu_limit: float = 0.0
    stalled: bool = False
    blameless: bool = False
    cpu_seconds: float = 0.0
    last_progress: float = field(default_factory=time.monotonic)

    @property
    def idle(self) -> bool:
        return self.task is None and self.trial is None


class Pool:
    """Runs shard tasks on long-lived processes.

    Args:
        store, plan, arrays: as ClipStoreWriter takes them.
        recipe: of the videos.
        num_workers: how many processes.
        keep_open: file descriptors that the workers inherit (a lock ends with its last holder).
        command: what to start as a worker.
        stall_seconds: how long a worker may go without using the processor.
    """

    def __init__(
        self,
        store: Path,
        plan: Mapping[str, Any],
        arrays: Mapping[str, tuple[int, ...]],
        recipe: Recipe,
        num_workers: int,
        keep_open: tuple[int, ...] = (),
        command: tuple[str, ...] = COMMAND,
        stall_seconds: float = STALL_SECONDS,
    ):
        self._common = {
            "store": str(store),
            "plan": dict(plan),
            "arrays": {name: list(shape) for name, shape in arrays.items()},
            "recipe": recipe.to_json(),
        }
        self._num_workers = num_workers
        self._keep_open = keep_open
        self._command = command
        self._stall_seconds = stall_seconds
        self._workers: list[_Worker] = []
        self._reports: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._pending: deque[ShardTask] = deque()
        self._trials: deque[Item] = deque()
        self._suspects: dict[str, ShardTask] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._deaths: Counter[int] = Counter()

    def run(
        self,
        tasks: Iterable[ShardTask],
        on_video: Callable[[int, int], object],
        on_shard: Callable[[int], object],
    ) -> None:
        """Prepare all shards.

        Args:
            tasks: the shards.
            on_video: called with a shard and the change in its number of finished videos, which
                is negative when a shard has to be done again.
            on_shard: called when a shard is committed; what it raises ends the run.

        Raises:
            InputError: the store cannot be written, the storage does not answer, or workers die
                for no fault of a video.
        """
        self._pending.extend(tasks)
        unfinished = len(self._pending)
        finished: Counter[int] = Counter()
        try:
            while unfinished:
                self._hand_out()
                try:
                    worker, report = self._reports.get(timeout=CHECK_SECONDS)
                except queue.Empty:
                    self._find_stalled()
                    continue
                if report is None:
                    task = self._bury(worker)
                    if task is not None and finished[task.shard]:
                        on_video(task.shard, -finished.pop(task.shard))
                    continue
                worker.last_progress = time.monotonic()
                match report["report"]:
                    case "video":
                        worker.video, worker.stage = report["id"], report["stage"]
                        worker.cpu_limit = report["cpu_seconds"]
                        if worker.stage == "done" and worker.task is not None:
                            finished[worker.task.shard] += 1
                            on_video(worker.task.shard, 1)
                    case "tried":
                        worker.trial = None
                        self._verdicts[report["id"]] = Verdict(decoder="pyav")
                        self._pending.appendleft(self._suspects[report["id"]])
                    case "shard":
                        worker.task = None
                        unfinished -= 1
                        on_shard(report["shard"])
                    case "failed":
                        raise _failure(report)
        finally:
            self._stop()

    def _hand_out(self) -> None:
        """Give every idle worker a job, and start workers while there are more jobs."""
        while self._trials or self._pending:
            worker = next((worker for worker in self._workers if worker.idle), None)
            if worker is None:
                if len(self._workers) >= self._num_workers:
                    return
                worker = self._start()
            if self._trials:
                item = self._trials.popleft()
                worker.trial = item
                job = {"job": "try", "item": asdict(item)}
            else:
                worker.task = self._pending.popleft()
                ids = {item.id for item in worker.task.items}
                job = {
                    "job": "shard",
                    **asdict(worker.task),
                    "verdicts": {
                        name: asdict(verdict)
                        for name, verdict in self._verdicts.items()
                        if name in ids
                    },
                }
            worker.video, worker.stage, worker.last_progress = None, "done", time.monotonic()
            self._send(worker, {**self._common, **job})

    def _send(self, worker: _Worker, job: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: its reports end, and `run` buries it
            worker.process.stdin.write(json.dumps(job).encode() + b"\n")
            worker.process.stdin.flush()

    def _start(self) -> _Worker:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=child_environment(),
            pass_fds=self._keep_open,
        )
        worker = _Worker(process, errors)
        self._workers.append(worker)
        worker.listener = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        worker.listener.start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                self._reports.put((worker, json.loads(line)))
        self._reports.put((worker, None))

    def _bury(self, worker: _Worker) -> ShardTask | None:
        """Replace a dead worker; return the shard that has to be done again, if it had one."""
        code = worker.process.wait()
        worker.errors.seek(0)
        last_words = worker.errors.read()[-2000:].decode(errors="replace").strip()
        _close(worker)
        self._workers.remove(worker)
        reason = cause_of_death(code, worker.cpu_limit, worker.stalled)
        if worker.stalled and (worker.blameless or worker.stage == "read"):
            raise _no_progress(worker, self._stall_seconds)
        if worker.trial is not None:
            item = worker.trial
            if code == -signal.SIGKILL and not worker.stalled:
                raise _out_of_memory(item.name)
            self._verdicts[item.id] = Verdict(skip=f"{reason}, twice")
            self._pending.appendleft(self._suspects[item.id])
            return None
        if worker.task is None:
            return None
        task = worker.task
        item = next((item for item in task.items if item.id == worker.video), None)
        if item is None or worker.stage == "done":
            self._deaths[task.shard] += 1
            if self._deaths[task.shard] == MAX_DEATHS_OUTSIDE_VIDEOS:
                raise InputError(
                    f"a worker died {MAX_DEATHS_OUTSIDE_VIDEOS} times outside any video "
                    f"({reason}); its last words:\n{last_words or '(none)'}"
                )
            self._pending.appendleft(task)
        elif item.id in self._suspects:
            if code == -signal.SIGKILL and not worker.stalled:
                raise _out_of_memory(item.name)
            raise InputError(
                f"{item.path}: {reason} among other videos, not alone; run the command again, "
                "with fewer workers if it happens again"
            )
        else:
            self._suspects[item.id] = task
            self._trials.append(item)
        return task

    def _find_stalled(self) -> None:
        """Kill workers that are busy and have not used the processor for long."""
        now = time.monotonic()
        for worker in self._workers:
            used = cpu_seconds_of(worker.process.pid)
            if worker.idle or used is None or used > worker.cpu_seconds + 0.02:
                worker.cpu_seconds, worker.last_progress = used or 0.0, now
            elif now - worker.last_progress > self._stall_seconds:
                worker.stalled = True
                worker.blameless = state_of(worker.process.pid) in BLAMELESS_STATES
                worker.process.kill()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            _close(worker)
        self._workers.clear()


def _close(worker: _Worker) -> None:
    assert worker.process.stdin is not None
    with suppress(BrokenPipeError):
        worker.process.stdin.close()
    if worker.listener is not None:
        worker.listener.join()
    worker.errors.close()


def _failure(report: dict[str, Any]) -> Exception:
    if report["kind"] == "bug":
        return RuntimeError(f"a worker failed:\n{report['message']}")
    return InputError(
        f"{report['message']}\nNothing is lost: run the command again, it goes on where it stopped."
    )


def _no_progress(worker: _Worker, seconds: float) -> InputError:
    item = worker.trial
    if item is None and worker.task is not None:
        item = next((item for item in worker.task.items if item.id == worker.video), None)
    return InputError(
        f"{item.path if item is not None else 'a worker'}: reading it made no progress for "
        f"{seconds:.0f} s; see to the storage and the machine, then run the command again, it goes "
        "on where it stopped"
    )


def _out_of_memory(name: str) -> InputError:
    return InputError(
        f"{name}: the system killed the worker that decoded it, twice, probably for its memory; "
        "run the command again with fewer workers, or take this video away"
    )
