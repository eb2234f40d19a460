"""Progress bars with rate and remaining time, for work that takes more than a few seconds."""

import importlib.util
import sys

from tqdm import tqdm

LINE_SECONDS = 10.0  # time between two lines in a log
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Hide or show all progress bars created from now on."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Return whether progress bars are hidden."""
    return _quiet


def progress(description: str, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """Return a progress bar on stderr.

    On a terminal, the bar is redrawn in place. In a notebook with ipywidgets, the bar is a widget.
    In a log or a pipe, a line is printed every 10 s and at the end.

    Args:
        description: short description of the work.
        total: total number of units; None if unknown. If 0, nothing is shown.
        unit: name of the unit, in the singular ("clip").
        initial: number of units that an earlier, interrupted run completed; these units do not
            affect the rate.
    """
    if _quiet or total == 0:
        return tqdm(total=total, disable=True)
    unit = f" {unit}"
    if _in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar(total=total, desc=description, unit=unit, initial=initial)
    if sys.stderr.isatty():
        return tqdm(
            total=total, desc=description, unit=unit, initial=initial, mininterval=0.2,
            dynamic_ncols=True, file=sys.stderr,
        )  # fmt: skip
    share = "" if total is None else "{percentage:.0f} %, "
    count = "{n_fmt}{unit}s" if total is None else "{n_fmt} of {total_fmt}{unit}s"
    left = "" if total is None else "{remaining} left, "
    return _Lines(
        total=total, desc=description, unit=unit, initial=initial, mininterval=LINE_SECONDS,
        miniters=1, delay=1e-9, leave=False, file=sys.stderr,
        bar_format=f"{{desc}}: {share}{count}, {{elapsed}} so far, {left}{{rate_noinv_fmt}}",
    )  # fmt: skip


class _Lines(tqdm):
    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Print a line; ignore the empty line with which tqdm clears the terminal."""
        if msg != "":
            print(self if msg is None else msg, file=self.fp, flush=True)
        return False

    def close(self) -> None:
        """Print the final state, unless the last printed line already shows that state."""
        if not self.disable and self.n != self.last_print_n:
            self.display()
        super().close()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
