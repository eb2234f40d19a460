"""A separate process that holds the lock of a folder or file."""

import os
import subprocess
import sys
from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from video_vq.stores.lock import acquire
lock = acquire(Path(sys.argv[1]), sys.argv[2] == "file")
{more}
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


class Holder:
    """A process that holds the lock of a path until the process ends; use as a context manager.

    Args:
        path: folder or file to lock.
        single_file: whether the path is a file to write.
        more: Python code that the process runs after acquiring the lock.
    """

    def __init__(self, path: Path, single_file: bool = False, more: str = ""):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(more=more), str(path), "file" * single_file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    @property
    def holds(self) -> bool:
        """Return whether the process acquired the lock."""
        return self.said == "held\n"

    @property
    def name(self) -> str:
        """Return the text that identifies the process in error messages."""
        return f"process {self.process.pid} on {os.uname().nodename}, since 20"

    def leave(self) -> None:
        """Let the process end normally."""
        self.process.communicate()

    def kill(self) -> None:
        """Kill the process without reaping it, so that it remains as a zombie."""
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def __enter__(self) -> "Holder":
        assert self.holds, self.process.communicate()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()
