"""Progress of a long task on stderr, at least every 30 seconds."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from video_vq.progress import is_quiet

SILENCE_SECONDS = 30.0


class ProgressLine:
    """Progress of a training run or validation pass, printed after 30 seconds without other output.

    Args:
        name: start of the line, such as "step" or "validating: clip".
        total: total number of steps (or clips).
        done: number of steps (or clips) done at the start.
        rate: plural noun for the items that the rate counts, such as "clips".
        per_part: number of these items per step (or clip).
        is_shown: whether to print anything; false on all ranks except rank 0.
        clock: function that returns monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        total: int,
        done: int = 0,
        *,
        rate: str,
        per_part: int = 1,
        is_shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name, self.total, self.rate, self.per_part = name, total, rate, per_part
        self._is_shown, self._clock = is_shown, clock
        self.restart(done)

    def restart(self, done: int) -> None:
        """Restart the clock after something else has been printed."""
        self._done, self._said_at = done, self._clock()
        self._rate_from = self._looked_at = self._said_at

    def leave_out(self) -> None:
        """Exclude the time since the last `look` from the rate, but count it as silence."""
        now = self._clock()
        self._rate_from += now - self._looked_at
        self._looked_at = now

    def look(self, done: int, at_once: bool = False) -> None:
        """Print the progress if the silence would probably exceed 30 seconds by the next call.

        Args:
            at_once: whether to print the progress unconditionally.
        """
        now = self._clock()
        last_part, self._looked_at = now - self._looked_at, now
        silence = now - self._said_at
        if not at_once and silence + last_part <= SILENCE_SECONDS:
            return
        if self._is_shown and not is_quiet():
            seconds = max(now - self._rate_from, 1e-9) / max(1, done - self._done)  # for one part
            left = tqdm.format_interval(seconds * (self.total - done))
            rate = f"{self.per_part / seconds:,.2f} {self.rate} per second"
            text = f"{self.name} {done} of {self.total}  {rate}  {left} left"
            print(text, file=sys.stderr, flush=True)
        self.restart(done)
