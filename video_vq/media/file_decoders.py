"""Decodes video files ahead of time, in processes that may crash without harm to the caller.

If a process dies while decoding a file, a new process tries the file once more, with PyAV. If the
new process dies, too, the file is reported as unusable, with the reason.
"""

import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.errors import InputError
from video_vq.media.child import WatchVideo, serve
from video_vq.media.prepared import FrameRecipe, open_file
from video_vq.media.probe import UnreadableVideoError
from video_vq.media.supervisor import STALL_SECONDS, Death, Deaths, Supervisor

COMMAND = (sys.executable, "-c", "from video_vq.media.file_decoders import main; main()")


class FileToDecode(NamedTuple):
    """The path of a video file, and the file's size when the file was listed."""

    path: str
    num_bytes: int


class DecodedFile(NamedTuple):
    """The frames of a decoded file.

    Attributes:
        frames: frames, mapped from an unnamed file whose disk space is freed with the array.
        fps: frames per second of `frames`; None if unknown.
        oddities: descriptions of the file's irregularities.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float | None
    oddities: tuple[str, ...]


class FileDecoders:
    """Decodes files ahead of time in several processes; use as a context manager.

    Memory use does not depend on the files. The system's temporary folder contains the frames of at
    most `num_workers` + 1 files at a time; no frames remain there, even if processes are killed.

    Args:
        recipe: settings for converting the files to frames.
        num_workers: number of processes that decode.
        command: command that starts a worker.
        stall_seconds: seconds that a worker may go without using CPU time.
    """

    def __init__(
        self,
        recipe: FrameRecipe,
        num_workers: int,
        command: tuple[str, ...] = COMMAND,
        stall_seconds: float = STALL_SECONDS,
    ):
        self._recipe, self._num_workers = recipe, num_workers
        self._stall_seconds = stall_seconds
        self._workers = Supervisor(command, num_workers, stall_seconds)

    def __enter__(self) -> "FileDecoders":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; files that are being decoded are abandoned."""
        self._workers.close()

    def decode(self, files: Iterable[FileToDecode]) -> Iterator[DecodedFile | UnreadableVideoError]:
        """Yield, in order, each file's frames or an error that states why the file is unusable.

        Raises:
            InputError: the disk is full, the storage does not respond, the system kills workers
                that use too much memory, or workers die for reasons unrelated to a file.
        """
        waiting: deque[Future[DecodedFile | UnreadableVideoError]] = deque()
        rest = iter(files)
        try:
            while True:
                for file in islice(rest, self._num_workers + 1 - len(waiting)):
                    waiting.append(self._workers.submit(self._decode, file))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _decode(self, file: FileToDecode) -> DecodedFile | UnreadableVideoError:
        """Decode one file in a worker thread; retry if the child process dies (see `Deaths`)."""
        job = {**file._asdict(), "recipe": self._recipe.to_json()}
        deaths = Deaths(self._stall_seconds)
        while isinstance(found := self._attempt(file, job), Death):
            reason = deaths.add(found, file.path)
            if reason is not None:
                return UnreadableVideoError(file.path, reason)
            if found.video is not None:
                job["recipe"] = {**job["recipe"], "decoder": "pyav"}
        return found

    def _attempt(
        self, file: FileToDecode, job: dict[str, Any]
    ) -> DecodedFile | UnreadableVideoError | Death:
        with tempfile.NamedTemporaryFile(prefix="video-vq-", suffix=".rgb", delete=False) as frames:
            place = Path(frames.name)
            try:
                # The worker opens the file before the first report, so the file can be unlinked
                # at the first report: a killed worker then leaves nothing behind.
                answer = self._workers.ask(
                    {**job, "frames": frames.name}, lambda _: place.unlink(missing_ok=True)
                )
            finally:
                place.unlink(missing_ok=True)
            return answer if isinstance(answer, Death) else self._understood(answer, file, frames)

    def _understood(
        self, answer: dict[str, Any], file: FileToDecode, frames: Any
    ) -> DecodedFile | UnreadableVideoError:
        if answer["report"] == "unreadable":
            return UnreadableVideoError(file.path, answer["reason"])
        shape = (answer["num_frames"], *self._recipe.size_hw, 3)
        pixels = np.memmap(frames, np.uint8, "r", shape=shape)
        return DecodedFile(pixels, answer["fps"], tuple(answer["oddities"]))


def main() -> None:
    """Run a decoding process."""
    serve(decode)


def decode(job: dict[str, Any], watch: WatchVideo) -> dict[str, Any]:
    """Write the frames of one file, uint8 t h w c, and return a report on the file.

    Raises:
        InputError: the frames cannot be written.
    """
    try:
        return _decoded(job, watch)
    except UnreadableVideoError as error:
        return {"report": "unreadable", "reason": error.reason}
    except OSError as error:
        raise InputError(
            f"{job['frames']}: cannot be written ({error.strerror or error}); set TMPDIR to "
            "another folder"
        ) from None


def _decoded(job: dict[str, Any], watch: WatchVideo) -> dict[str, Any]:
    recipe = FrameRecipe.from_json(job["recipe"])
    path, num_bytes = job["path"], job["num_bytes"]
    num_frames = 0
    with open(job["frames"], "wb") as file:  # before the first report: the parent unlinks it then
        watch(path, "read", recipe.cpu_limit(num_bytes))
        opened = open_file(path, num_bytes, recipe, partial(watch, path))
        for frame in opened.frames:
            file.write(frame.data)
            num_frames += 1
    oddities = opened.oddities()
    if repeated := opened.num_repeated():
        share = f"{repeated:,} of {num_frames:,} frames ({repeated / num_frames:.1%})"
        oddities.append(f"{share} repeat the one before, to reach {recipe.fps:g} frames per second")
    if not num_frames:
        raise UnreadableVideoError(path, "holds no frame")
    return {"report": "decoded", "num_frames": num_frames, "fps": opened.fps, "oddities": oddities}
