"""Decodes video files some ahead of their reader, each in a process that may die without harm.

A file during which its process dies is tried once more, in a fresh process and with PyAV. If that
dies too the file cannot be used, with the reason: a bad video costs one video.
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
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.errors import InputError
from video_vq.media.child import cause_of_death, child_environment, cpu_seconds_of
from video_vq.media.decode import Decoder
from video_vq.media.prepared import FrameRecipe
from video_vq.media.probe import UnreadableVideoError

COMMAND = (sys.executable, "-c", "from video_vq.media.isolated_worker import main; main()")
CHECK_SECONDS = 2.0
STALL_SECONDS = 300.0  # without using the processor at all
PIPE_BYTES = 1 << 16


class FileToDecode(NamedTuple):
    """A video file: its path, and its size when it was listed."""

    path: str
    num_bytes: int


class DecodedFile(NamedTuple):
    """A decoded file.

    Attributes:
        frames: mapped from a file without a name; its place on the disk is free again when the
            array is.
        fps: frames per second of these frames, None when unknown.
        oddities: what was odd with the file.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float | None
    oddities: tuple[str, ...]


@dataclass
class _Death:
    """How a child ended: why, at which stage, and whether the system killed it."""

    cause: str
    stage: str | None
    stalled: bool
    killed: bool
    last_words: str


class FileDecoders:
    """Decodes files in the order given; use as a context manager.

    Memory does not depend on the files. The frames of at most `num_workers` + 1 files lie in the
    system's folder for temporary files at a time, and nothing stays there whatever is killed.

    Args:
        recipe: of the frames.
        num_workers: how many processes decode.
        command: what to start as a worker.
        stall_seconds: how long a worker may go without using the processor.
    """

    def __init__(
        self,
        recipe: FrameRecipe,
        num_workers: int,
        command: tuple[str, ...] = COMMAND,
        stall_seconds: float = STALL_SECONDS,
    ):
        self._recipe, self._num_workers = recipe, num_workers
        self._command, self._stall_seconds = command, stall_seconds
        self._threads = ThreadPoolExecutor(num_workers, "decoder")
        # A child dies with the thread that started it: each thread keeps its own child.
        self._of_thread = threading.local()
        self._children: set[_Child] = set()
        self._closed = False

    def __enter__(self) -> "FileDecoders":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; files that are being decoded are given up."""
        self._closed = True
        for child in list(self._children):
            child.kill()
        self._threads.shutdown(cancel_futures=True)
        for child in list(self._children):
            child.close()

    def decode(self, files: Iterable[FileToDecode]) -> Iterator[DecodedFile | UnreadableVideoError]:
        """Yield each file's frames, or why it cannot be used, in the order of the files.

        Raises:
            InputError: the disk is full, the storage does not answer, the system kills workers for
                their memory, or workers die for no fault of a file.
        """
        waiting: deque[Future[DecodedFile | UnreadableVideoError]] = deque()
        rest = iter(files)
        try:
            while True:
                for file in islice(rest, self._num_workers + 1 - len(waiting)):
                    waiting.append(self._threads.submit(self._decode, file))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _decode(self, file: FileToDecode) -> DecodedFile | UnreadableVideoError:
        """Decode one file; a second time if the child dies. Runs in a thread of its own."""
        outside = 0
        deaths: list[_Death] = []
        while len(deaths) < 2:
            decoder = "pyav" if deaths else self._recipe.decoder
            with tempfile.NamedTemporaryFile(
                prefix="video-vq-", suffix=".rgb", delete=False
            ) as frames:
                try:
                    child = self._child(fresh=bool(deaths))
                    answer = child.ask(self._recipe, file, Path(frames.name), decoder)
                finally:
                    Path(frames.name).unlink(missing_ok=True)
                if not isinstance(answer, _Death):
                    return self._understand(answer, file, frames)
            self._bury()
            if answer.stage is None:
                outside += 1
                if outside == 3:
                    raise InputError(
                        f"a worker died {outside} times outside any video ({answer.cause}); its "
                        f"last words:\n{answer.last_words or '(none)'}"
                    )
            elif answer.stalled and answer.stage == "read":
                raise InputError(
                    f"{file.path}: reading it made no progress for {self._stall_seconds:.0f} s; "
                    "see to the storage, then run the command again, it goes on where it stopped"
                )
            else:
                deaths.append(answer)
        if deaths[-1].killed:
            raise InputError(
                f"{file.path}: the system killed the worker that decoded it, twice, probably for "
                "its memory; run the command again with fewer workers, or take this video away"
            )
        return UnreadableVideoError(file.path, f"{deaths[-1].cause}, twice")

    def _understand(
        self, answer: dict[str, Any], file: FileToDecode, frames: Any
    ) -> DecodedFile | UnreadableVideoError:
        match answer["report"]:
            case "decoded":
                shape = (answer["num_frames"], *self._recipe.size_hw, 3)
                pixels = np.memmap(frames, np.uint8, "r", shape=shape)
                return DecodedFile(pixels, answer["fps"], tuple(answer["oddities"]))
            case "unreadable":
                return UnreadableVideoError(file.path, answer["reason"])
        if answer["kind"] == "bug":
            raise RuntimeError(f"a worker failed:\n{answer['message']}")
        raise InputError(
            f"{answer['message']}; TMPDIR names another folder for them\nNothing is lost: run the "
            "command again, it goes on where it stopped."
        )

    def _child(self, fresh: bool) -> "_Child":
        child: _Child | None = getattr(self._of_thread, "child", None)
        if child is not None and fresh:
            self._bury()
            child = None
        if child is None:
            child = self._of_thread.child = _Child(self._command, self._stall_seconds)
            self._children.add(child)
            if self._closed:
                child.kill()
        return child

    def _bury(self) -> None:
        child: _Child | None = getattr(self._of_thread, "child", None)
        if child is not None:
            self._children.discard(child)
            child.close()
        self._of_thread.child = None


class _Child:
    """The parent's side of one process."""

    def __init__(self, command: tuple[str, ...], stall_seconds: float):
        self._errors: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._stall_seconds = stall_seconds
        self._buffer = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(),
        )

    def ask(
        self, recipe: FrameRecipe, file: FileToDecode, frames: Path, decoder: Decoder
    ) -> dict[str, Any] | _Death:
        """Have one file decoded; return the last report, or how the child ended."""
        assert self._process.stdin is not None
        job = {"path": file.path, "num_bytes": file.num_bytes, "frames": str(frames)}
        line = json.dumps({**job, "recipe": recipe.to_json(), "decoder": decoder})
        with suppress(BrokenPipeError):  # it died: its reports end
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        stage, limit = None, 0.0
        while True:
            report = self._next_report()
            if report is None or report == "stalled":
                return self._death(stage, limit, stalled=report == "stalled")
            if report["report"] != "stage":
                return report
            # It has opened the file by now: from here on nothing is left behind by a kill.
            frames.unlink(missing_ok=True)
            stage, limit = report["stage"], report["cpu_seconds"]

    def _next_report(self) -> Any:
        """Return the next report; None when there are no more, "stalled" when it does nothing."""
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
            now, found = time.monotonic(), cpu_seconds_of(self._process.pid)
            if found is None or found > used + 0.02:
                used, since = found or 0.0, now
            elif now - since > self._stall_seconds:
                self.kill()
                return "stalled"
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _death(self, stage: str | None, limit: float, stalled: bool) -> _Death:
        code = self._process.wait()
        self._errors.seek(0)
        last_words = self._errors.read()[-2000:].decode(errors="replace").strip()
        killed = code == -signal.SIGKILL and not stalled
        return _Death(cause_of_death(code, limit, stalled), stage, stalled, killed, last_words)

    def kill(self) -> None:
        """End the process."""
        self._process.kill()

    def close(self) -> None:
        """End the process and let go of its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._errors.close()
