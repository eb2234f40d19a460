"""A rank of the survival tests, which runs the command and pauses once until the test releases it.

The rank writes a number to each of these files in HELD_FOLDER: `pid-RANK` at the start,
`held-RANK` during the pause, and `status-RANK` at the end. The pause ends when HELD_FOLDER contains
a file `go`. HELD_AT names the moment of the pause:

* `start-up`: when the run starts to handle signals, before torch is loaded,
* `training`: inside step 5,
* `validation`: before the first validation clips are read,
* `saving`: before a call of a function in `stores.files`, for example the fourth fsync if HELD_CALL
  is `fsync:3`, in a save at or after HELD_STEP; only the writing thread pauses.
"""

import atexit
import os
import sys
import time
from pathlib import Path
from unittest.mock import patch

from video_vq import cli
from video_vq.cli import training_verbs
from video_vq.stores import files
from video_vq.training.stop_request import StopRequest

RANK = os.environ.get("RANK", "0")
FOLDER = Path(os.environ["HELD_FOLDER"])
PATIENCE_SECONDS = 300
TRAINING_STEP = 5


def tell(what: str, number: int) -> None:
    """Write a number atomically to this rank's file in HELD_FOLDER."""
    file = FOLDER / f"{what}-{RANK}"
    file.with_suffix(".new").write_text(str(number))
    file.with_suffix(".new").rename(file)


def hold() -> None:
    """Report the pause and wait for the release; later calls do nothing."""
    if (FOLDER / f"held-{RANK}").exists():
        return
    tell("held", os.getpid())
    patience = time.monotonic() + PATIENCE_SECONDS
    while not (FOLDER / "go").exists():
        assert time.monotonic() < patience
        time.sleep(0.01)


def hold_in_training() -> None:
    from video_vq.training.state import TrainingState

    end_step = TrainingState.end_step

    def held(state, *arguments) -> None:
        end_step(state, *arguments)
        if state.step == TRAINING_STEP:
            hold()

    patch.object(TrainingState, "end_step", held).start()


def hold_in_validation() -> None:
    from video_vq.training import tokenizer

    read_windows = tokenizer.read_windows

    def held(*arguments):
        hold()
        return read_windows(*arguments)

    patch.object(tokenizer, "read_windows", held).start()


def hold_in_saving(first_step: int, name: str, count: int) -> None:
    from video_vq.training.checkpoint import CheckpointFolder

    save, function = CheckpointFolder.save, getattr(files, name)
    calls = iter(range(count + 1))

    def held(*arguments) -> None:
        if next(calls, None) == count:
            hold()
        function(*arguments)

    def held_save(folder, step, *arguments) -> None:
        setattr(files, name, held if step >= first_step else function)
        save(folder, step, *arguments)

    patch.object(CheckpointFolder, "save", held_save).start()


class HeldAtStart(StopRequest):
    """A StopRequest that pauses the process once signals are handled."""

    def __enter__(self):
        super().__enter__()
        hold()
        return self


def main() -> int:
    """Run the command; write its exit status as late as possible while Python shuts down."""
    moment = os.environ["HELD_AT"]
    if moment == "start-up":
        patch.object(training_verbs, "StopRequest", HeldAtStart).start()
    elif moment == "training":
        hold_in_training()
    elif moment == "validation":
        hold_in_validation()
    else:
        name, _, count = os.environ.get("HELD_CALL", "fsync:0").partition(":")
        hold_in_saving(int(os.environ.get("HELD_STEP", 0)), name, int(count))
    status = [70]  # an exception
    tell("pid", os.getpid())
    atexit.register(lambda: tell("status", status[0]))
    status[0] = cli.main(sys.argv[1:])
    return status[0]


if __name__ == "__main__":
    sys.exit(main())
