"""Runs to be killed or stopped, with their processes, output and results."""

import json
import multiprocessing
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
    """Wait until a condition holds; fail if it takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {seconds} s"
        time.sleep(0.002)


class Run:
    """A command and all processes that it starts; use as a context manager.

    The launcher starts each rank in a new session, so a run's processes are identified by an
    environment variable, which child processes inherit.

    Args:
        folder: folder for the files `stdout` and `stderr`.
        command: the program and its arguments.
        held: environment variables for held_rank.py.
        outputs: file descriptors to use as stdout and stderr; None to use the files.
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
        """Return the contents of the file `stdout` or `stderr`."""
        return (self.folder / name).read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the run except zombies, whose environment cannot be read."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_until_gone(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until all processes of the run have ended."""
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
    """Return the id and command of each process, or only the id if it has just ended."""
    found = []
    for process in processes:
        command: list[str] = []
        with suppress(psutil.Error):
            command = process.cmdline()[:5]
        found.append(" ".join([str(process.pid), *command]))
    return found


def last_step(run: Path, since: float) -> int:
    """Return the last logged step, or 0 if nothing was logged since a given time."""
    try:
        complete = (run / "metrics.jsonl").read_bytes().rpartition(b"\n")[0]
        last = json.loads(complete.splitlines()[-1])
    except (FileNotFoundError, IndexError):
        return 0
    return last["step"] if last["clock"] >= since else 0


def kill_after(step: int, run: Path, training: Callable[[], object]) -> int:
    """Train in a fork of this process, kill it after a step, and return its last logged step."""
    process = multiprocessing.get_context("fork").Process(target=training)
    started = time.time()
    process.start()
    wait_for(lambda: last_step(run, started) >= step or not process.is_alive(), f"step {step}")
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return last_step(run, started)


def of_ranks(folder: Path, what: str) -> dict[int, int]:
    """Return the number that each rank has written, by rank.

    Args:
        folder: value of HELD_FOLDER, see held_rank.py.
        what: "pid" or "held" for the process id, "status" for the exit status.
    """
    files = folder.glob(f"{what}-[0-9]")
    return {int(file.name.rpartition("-")[2]): int(file.read_text()) for file in files}


def log_without_times(run: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "clock" and name[:5] != "time/"}
        for line in lines
    ]


def final_state(run: Path, step: int) -> dict[str, object]:
    """Return the tensor files' bytes and the state of a step, without the position in the log."""
    folder = run / "state" / f"step_{step:07d}"
    state = json.loads((folder / "state.json").read_text())
    del state["log_position"]  # times have more or fewer digits
    tensors = {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}
    return {"state": state, **tensors}
