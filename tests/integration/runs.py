"""A small clip store, and helpers that run commands as users do."""

import io
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import preloaded

from video_vq.cli import main
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.training.stop_request import StopRequest

# The tokenizer is trained by Muon and the prior by AdamW, so that each campaign sees both.
SMALL_TOKENIZER = """
data: {num_frames: 4}
model:
  backbone: {channels: 8, num_blocks: 1, patch_thw: [1, 2, 2], multipliers: [1, 2],
             strides_thw: [[2, 2, 2]]}
  quantizer: {codebook_size: 32, codebook_dim: 8}
optim: {kind: muon, steps: 6, batch_size: 4, lr: 1e-3, warmup_steps: 2}
run: {log_every: 2, validate_every: 4, checkpoint_every: 2, validation_clips: 3, num_workers: 0}
"""

SMALL_PRIOR = """
model: {width: 32, depth: 2, heads: 2}
optim: {steps: 6, batch_size: 4, lr: 1e-3, warmup_steps: 2}
run: {log_every: 2, validate_every: 4, checkpoint_every: 2, validation_clips: 3, num_workers: 0}
"""


def make_clip_store(
    path: Path,
    num_videos: int = 18,
    num_frames: int = 9,
    rates: Sequence[float] = (10.0,),
    size: int = 16,
) -> ClipStore:
    """Write a clip store of moving squares in two classes, split equally into train, val and test.

    The videos of each split cycle through the given frame rates.
    """
    writer = ClipStoreWriter(path, (size, size), {"kind": "blobs"})

    def videos():
        for index in range(num_videos):
            random = np.random.default_rng(index)
            colour = random.integers(60, 200, 3)
            frames = np.full((num_frames, size, size, 3), colour, dtype=np.uint8)
            row, column = random.integers(0, 12, 2)
            for t in range(num_frames):
                shift = (column + t) % 12 if index % 2 else (column - t) % 12
                frames[t, row : row + 4, shift : shift + 4] = random.integers(0, 255, 3)
            yield PreparedVideo(
                Video(
                    f"video-{index:02d}",
                    ("left", "right")[index % 2],
                    ("train", "val", "test")[index % 3],
                    f"group-{index:02d}",
                    fps=rates[index // 3 % len(rates)],
                    origin={"made": "by a test"},
                ),
                [frames],
                {},
            )

    writer.write_shard(0, videos())
    return writer.finish(1, ["left", "right"])


def environment(**changes: str) -> dict[str, str]:
    """Return the environment with one thread and changes, but without a launcher's variables."""
    drop = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {key: value for key, value in os.environ.items() if key not in drop}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def video_vq(*arguments: str | Path, expect: int = 0, **changes: str):
    """Run `video-vq` and check its exit status; changed variables require a new process."""
    if changes:
        return run([sys.executable, "-m", "video_vq", *arguments], expect, **changes)
    words = [str(argument) for argument in arguments]
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            status = main(words)
        except SystemExit as error:  # argparse
            status = int(error.code or 0)
    answer = subprocess.CompletedProcess(words, status, stdout.getvalue(), stderr.getvalue())
    return checked(answer, expect)


class Preloaded:
    """The server of preloaded.py; use as a context manager.

    Attributes:
        folder: folder for PATH, whose `video-vq` is a client of the server.
    """

    def __init__(self):
        self._made = TemporaryDirectory()  # in /tmp: the names of sockets must be short
        self.folder = Path(self._made.name)
        command = [sys.executable, preloaded.__file__, "serve", self.folder / "socket"]
        self._server = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._client = [sys.executable, "-SE", preloaded.__file__, "run", self.folder / "socket"]
        words = " ".join(str(word) for word in self._client)
        (self.folder / "video-vq").write_text(f'#!/bin/sh\nexec {words} "$0" "$@"\n')
        (self.folder / "video-vq").chmod(0o700)

    def __enter__(self) -> "Preloaded":
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.communicate()  # which closes its input
        self._made.cleanup()

    def ranks(self, processes: int, *command: str | Path, **changes: str):
        """Run `video-vq` or a Python file on CPU ranks, which must succeed; return their outputs.

        The ranks have a launcher's variables, but are forks of the server.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}

        def one(rank: int):
            numbers = {**shared, "RANK": rank, "LOCAL_RANK": rank}
            of_launcher = {name: str(number) for name, number in numbers.items()}
            here = {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}
            return run([*self._client, *command], 0, **of_launcher, **here, **changes)

        with ThreadPoolExecutor(processes) as pool:
            return list(pool.map(one, range(processes)))


def launcher(processes: int) -> list[str]:
    """Return the part of a command that starts the launcher."""
    multi = ["--multi_gpu"] if processes > 1 else []
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", *multi),
        *("--num_processes", str(processes), "--num_machines", "1"),
        *("--dynamo_backend", "no", "--mixed_precision", "no", "--main_process_port", "0"),
    ]


def run(command: list, expect: int = 0, **changes: str):
    """Run a command in a new process and check its exit status."""
    answer = subprocess.run(
        [str(part) for part in command],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return checked(answer, expect)


def checked(answer: subprocess.CompletedProcess[str], expect: int):
    """Return the result of a finished command after checking its exit status."""
    assert answer.returncode == expect, f"{answer.returncode}\n{answer.stdout}\n{answer.stderr}"
    return answer


class AfterStep(StopRequest):
    """A StopRequest that a run receives at its check after a given number of steps."""

    def __init__(self, step: int):
        self.looks_left = step
        super().__init__()

    @property
    def reason(self) -> str:
        self.looks_left -= 1
        return "" if self.looks_left >= 0 else "a test"

    @reason.setter
    def reason(self, value: str) -> None:
        pass
