"""The parent's side of decoding processes: watches them, and replaces them if they die.

If processes die, hang or exceed the CPU time limit twice on the same video, the video is unusable.
Jobs and reports are JSON, one object per line; see `serve` in `media/child.py`.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from video_vq.errors import InputError

CHECK_SECONDS = 2.0
STALL_SECONDS = 300.0  # without using any CPU time
BLAMELESS_STATES = "DTt"  # states of a process that waits for storage or was stopped externally
MAX_DEATHS_OUTSIDE_VIDEOS = 3
PIPE_BYTES = 1 << 16
Result = TypeVar("Result")


@dataclass(frozen=True)
class Death:
    """The death of a process before it answered a job.

    Attributes:
        cause: short description of the cause.
        video: id of the video that the process was working on; None if there was no such video.
        stage: stage of the work on the video: "read" or "decode"; None without a video.
        is_stalled: whether the process was killed for making no progress.
        is_blameless: whether the process made no progress for an external reason.
        is_killed: whether the system killed the process.
        last_words: end of the process's output on stderr.
    """

    cause: str
    video: str | None
    stage: str | None
    is_stalled: bool
    is_blameless: bool
    is_killed: bool
    last_words: str


class Deaths:
    """Counts the deaths of processes that worked on the same job."""

    def __init__(self, stall_seconds: float = STALL_SECONDS):
        self._stall_seconds = stall_seconds
        self._outside = 0
        self._of_video: Counter[str] = Counter()

    def add(self, death: Death, path: str) -> str | None:
        """Add a death; return the reason why the video is unusable, or None to retry the job.

        Args:
            death: the latest death.
            path: path of the video, for messages.

        Raises:
            InputError: the video is not the cause of the death, or not the only cause.
        """
        if death.is_stalled and (death.is_blameless or death.stage == "read"):
            raise InputError(
                f"{path}: reading it made no progress for {self._stall_seconds:.0f} s; check the "
                "storage and the machine, then run the command again; it resumes where it stopped"
            )
        if death.video is None:
            self._outside += 1
            if self._outside == MAX_DEATHS_OUTSIDE_VIDEOS:
                raise InputError(
                    f"a worker died {MAX_DEATHS_OUTSIDE_VIDEOS} times outside any video "
                    f"({death.cause}); its last output:\n{death.last_words or '(none)'}"
                )
            return None
        self._of_video[death.video] += 1
        if self._of_video[death.video] == 1:
            return None
        if death.is_killed:
            raise InputError(
                f"{path}: the system killed the worker that decoded it, twice, probably for lack "
                "of memory; run the command again with fewer workers, or remove this video"
            )
        return f"{death.cause}, twice"


class Supervisor:
    """A pool of threads, each of which controls one process; use as a context manager.

    Args:
        command: command that starts a process.
        num_workers: number of threads.
        stall_seconds: seconds that a process may go without using CPU time.
        keep_open: file descriptors that the processes inherit, such as that of a lock file; the
            lock is then released only when all of these processes have ended.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        num_workers: int,
        stall_seconds: float = STALL_SECONDS,
        keep_open: tuple[int, ...] = (),
    ):
        self._command, self._keep_open = command, keep_open
        self._stall_seconds = stall_seconds
        self._threads = ThreadPoolExecutor(num_workers, "supervisor")
        # A process dies with the thread that started it, so each thread has a separate process.
        self._of_thread = threading.local()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._is_closed = False
        self._refusal: InputError | None = None

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; their current work is abandoned."""
        with self._lock:
            self._is_closed = True
            for child in self._children:
                child.kill()
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()

    def submit(self, do: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Call a function in one of the threads; the function may call `ask`."""
        return self._threads.submit(do, *arguments)

    def ask(
        self, job: dict[str, Any], on_video: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any] | Death:
        """Give this thread's process a job; return the process's answer or death.

        Args:
            job: the job, as JSON that the process understands.
            on_video: function that is called with the report of each stage of a video.

        Raises:
            InputError: this or an earlier process failed for a reason unrelated to a video; no more
                jobs are started.
            RuntimeError: the process raised an unexpected error.
            CancelledError: the supervisor has been closed.
        """
        if self._refusal is not None:
            raise self._refusal
        child = self._child()
        answer = child.ask(job, on_video)
        if isinstance(answer, Death):
            with self._lock:
                self._children.discard(child)
            self._of_thread.child = None
            child.close()
        elif answer["report"] == "bug":
            raise RuntimeError(f"a worker failed:\n{answer['message']}")
        elif answer["report"] == "refused":
            self._refusal = InputError(
                f"{answer['message']}\nNothing is lost: run the command again; it resumes where "
                "it stopped."
            )
            raise self._refusal
        return answer

    def _child(self) -> "_Child":
        child: _Child | None = getattr(self._of_thread, "child", None)
        if child is None:
            with self._lock:
                if self._is_closed:
                    raise CancelledError
                child = _Child(self._command, self._stall_seconds, self._keep_open)
                self._children.add(child)
            self._of_thread.child = child
        return child


class _Child:
    """The parent's side of one process."""

    def __init__(self, command: tuple[str, ...], stall_seconds: float, keep_open: tuple[int, ...]):
        self._errors: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._stall_seconds = stall_seconds
        self._buffer = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(),
            pass_fds=keep_open,
        )

    def ask(
        self, job: dict[str, Any], on_video: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any] | Death:
        """Give the process a job; return the last report or the process's death."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has died, so the reports end
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        at: dict[str, Any] = {"stage": "done"}
        while True:
            report = self._next_report()
            if report is None or isinstance(report, str):
                return self._death(at, stalled_in=report)
            if report["report"] != "video":
                return report
            at = report
            on_video(report)

    def _next_report(self) -> Any:
        """Return the next report, None after the last report, or the state of a stalled process.

        A stalled process is killed.
        """
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        used, since = 0.0, time.monotonic()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([output], [], [], CHECK_SECONDS)
            if ready:
                data = os.read(output, PIPE_BYTES)
                if not data:
                    return None
                self._buffer += data
                continue
            now, (state, found) = time.monotonic(), _state_and_seconds(self._process.pid)
            if found is None or found > used + 0.02:
                used, since = found or 0.0, now
            elif now - since > self._stall_seconds:
                self.kill()
                return state
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _death(self, at: dict[str, Any], stalled_in: str | None) -> Death:
        code = self._process.wait()
        self._errors.seek(0)
        if stalled_in is not None:
            cause = "hangs the decoder"
        elif code == -signal.SIGPROF:
            cause = f"takes more than {at.get('cpu_seconds', 0.0):,.0f} s of CPU time"
        elif code < 0:
            cause = f"ends the decoder with {signal.Signals(-code).name}"
        else:
            cause = f"ends the decoder with exit code {code}"
        is_outside = at["stage"] == "done"
        return Death(
            cause=cause,
            video=None if is_outside else at["id"],
            stage=None if is_outside else at["stage"],
            is_stalled=stalled_in is not None,
            is_blameless=stalled_in is not None and stalled_in in BLAMELESS_STATES,
            is_killed=code == -signal.SIGKILL and stalled_in is None,
            last_words=self._errors.read()[-2000:].decode(errors="replace").strip(),
        )

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._errors.close()


def child_environment() -> dict[str, str]:
    """Return an environment in which a child process imports the same modules as its parent."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return {**os.environ, "PYTHONPATH": paths}


def _state_and_seconds(pid: int) -> tuple[str, float | None]:
    """Return a process's state, as a letter (see proc(5)), and CPU time in seconds.

    The state is "?" and the CPU time None if the system provides neither.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?", None
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
