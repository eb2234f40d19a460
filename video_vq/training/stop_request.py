"""Stop requests from signals and from the end of the launcher.

A run listens from the very beginning, so that a signal during start-up is handled like any other.
This module does not import torch.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from video_vq.machine import is_launched

# SIGHUP: a closed terminal must not cost the steps since the last checkpoint.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Ctrl-C reaches the launcher and the ranks, and the launcher forwards it: one request, 2 signals.
ECHO_SECONDS = 5.0
WATCH_SECONDS = 0.5
# Time that a rank has to save once the launcher has ended; other ranks may have ended as well.
GRACE_SECONDS = 120.0
FIRST_PROCESS = Path("/proc/1/cmdline")


class StopRequest:
    """Context that listens for stop requests; `reason` is empty until the first request.

    Signals that were already ignored when the process started, such as SIGHUP under nohup, stay
    ignored. Another signal, more than 5 seconds after the first, ends the process immediately.
    Under a launcher (accelerate, torchrun), the end of the launcher is also a stop request; if
    saving then takes more than two minutes, because other ranks have ended, the process ends
    itself, so that no process is left behind.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._first = 0.0
        self._over = threading.Event()

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()  # only the main thread can
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._catch) for number in heard if main}
        if is_launched(os.environ):
            watch = threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True)
            watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ignore_echo(self) -> None:
        """Ignore further signals after a stop request; call this when the process is about to end.

        Otherwise, Python would remove the handlers shortly before the process exits, and a late
        signal would kill the process.
        """
        if self.reason:
            for number in self._before:
                signal.signal(number, signal.SIG_IGN)
            self._before = {}

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.reason and time.monotonic() - self._first > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self.reason:
            self._ask(signal.Signals(number).name)

    def _ask(self, reason: str) -> None:
        self._first, self.reason = time.monotonic(), reason
        _say(
            f"{reason}: finishing this step, then saving; another signal, {ECHO_SECONDS:g} s or "
            "more from now, ends it at once"
        )

    def _watch(self, launcher: int) -> None:
        while not self._over.wait(WATCH_SECONDS):
            if os.getppid() == launcher and not _is_stand_in(launcher):
                continue
            if not self.reason:
                self._ask("the launcher is gone")
            if not self._over.wait(GRACE_SECONDS):
                _say("the launcher is gone and the other ranks do not answer: ending")
                os._exit(1)


def _is_stand_in(parent: int) -> bool:
    """Return whether the parent is process 1 because the launcher died before it was watched.

    In a container, the launcher itself may be process 1.
    """
    if parent != 1:
        return False
    try:
        command = FIRST_PROCESS.read_bytes()
    except OSError:
        return False
    return not any(name in command for name in (b"accelerate", b"torchrun", b"torch.distributed"))


def _say(text: str) -> None:
    """Write to stderr if it is open, without print, because signal handlers may interrupt print."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())
