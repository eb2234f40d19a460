"""Runs that are killed and stopped, with all their processes, output and results."""

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from runs import environment

# Of a loaded machine; nothing here waits longer than it must.
PATIENCE_SECONDS = 180
MARK = "VIDEO_VQ_TEST_RUN"


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {seconds} s"
        time.sleep(0.002)


class Run:
    """A command and all processes that it starts; use as a context manager.

    The launcher gives ranks their own session, so a run's processes are identified by a mark in
    their environment, which their children inherit.

    Args:
        folder: folder for the files `stdout` and `stderr`.
        held: environment variables for held_rank.py.
        outputs: descriptors of stdout and stderr, instead of the files.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[object],
        held: Mapping[str, str],
        outputs: tuple[int, int] | None = None,
    ):
        self.folder = folder
        self._mark = uuid.uuid4().hex
        with open(folder / "stdout", "ab") as stdout, open(folder / "stderr", "ab") as stderr:
            self.leader = subprocess.Popen(
                [str(part) for part in command],
                env=environment(**{MARK: self._mark}, **held),
                stdin=subprocess.DEVNULL,
                stdout=outputs[0] if outputs else stdout,
                stderr=outputs[1] if outputs else stderr,
                start_new_session=True,
            )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def text(self, name: str) -> str:
        """Return the output on "stdout" or "stderr"."""
        return (self.folder / name).read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Return all living processes of the run; a zombie has no environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_until_gone(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until no process of the run is left."""
        end = time.monotonic() + seconds
        while left := self.processes():
            self.leader.poll()
            assert time.monotonic() < end, f"left: {told(left)}\n{self.text('stderr')}"
            time.sleep(0.05)
        self.leader.wait()

    def kill(self) -> None:
        """Send SIGKILL to all processes, the leader first, as if the machine were switched off."""
        if self.leader.poll() is None:
            self.leader.send_signal(signal.SIGKILL)
        while left := self.processes():
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
        self.leader.wait()


def told(processes: list[psutil.Process]) -> list[str]:
    """Return number and command of processes, or only the number of one that has just ended."""
    found = []
    for process in processes:
        command: list[str] = []
        with suppress(psutil.Error):
            command = process.cmdline()[:5]
        found.append(" ".join([str(process.pid), *command]))
    return found


def last_step(run: Path, since: float) -> int:
    """Return the last step logged since a given time; 0 before the first."""
    try:
        complete = (run / "metrics.jsonl").read_bytes().rpartition(b"\n")[0]
        last = json.loads(complete.splitlines()[-1])
    except (FileNotFoundError, IndexError):
        return 0
    return last["step"] if last["clock"] >= since else 0


def of_ranks(folder: Path, what: str) -> dict[int, int]:
    """Return the numbers that ranks have written: their "pid" at the start and when "held", their
    exit "status" at the end.
    """
    files = folder.glob(f"{what}-[0-9]")
    return {int(file.name.rpartition("-")[2]): int(file.read_text()) for file in files}


def log_without_times(run: Path) -> list[dict]:
    """Return metrics.jsonl without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "clock" and name[:5] != "time/"}
        for line in lines
    ]


def final_state(run: Path, step: int) -> dict[str, object]:
    """Return the bytes of a step's tensors, and its state without the size of the log."""
    folder = run / "state" / f"step_{step:07d}"
    state = json.loads((folder / "state.json").read_text())
    del state["log_position"]  # times have more or fewer digits
    tensors = {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}
    return {"state": state, **tensors}
