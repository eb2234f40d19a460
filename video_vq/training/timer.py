"""Timer for the phases of a training step."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimer:
    """Timer that adds up the seconds of named phases since the last call of `numbers`."""

    def __init__(self) -> None:
        self._phases: dict[str, float] = defaultdict(float)
        self._started = time.perf_counter()
        self._steps = 0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the duration of the `with` block to a phase.

        Args:
            phase: name of the phase, such as "forward", which is logged as `time/forward`.
        """
        started = time.perf_counter()
        try:
            yield
        finally:
            self._phases[phase] += time.perf_counter() - started

    def end_step(self) -> None:
        """Count one step."""
        self._steps += 1

    def restart(self) -> None:
        """Restart the clock after work that is not part of a step."""
        self._phases.clear()
        self._started = time.perf_counter()
        self._steps = 0

    def numbers(self, batch_size: int, steps_left: int) -> dict[str, float]:
        """Return the metrics `time/…` since the last call, and restart the timer.

        The metrics are each phase's share of the wall time, the number of clips per second, and the
        number of minutes left.

        Args:
            batch_size: number of clips (or grids) per step, over all ranks.
            steps_left: number of steps until the end of the run.
        """
        total = time.perf_counter() - self._started
        per_step = total / max(1, self._steps)
        numbers = {f"time/{name}": seconds / total for name, seconds in self._phases.items()}
        numbers["time/clips_per_second"] = batch_size / per_step
        numbers["time/left_minutes"] = per_step * steps_left / 60
        self.restart()
        return numbers
