"""Progress bars with rate and remaining time, for everything that takes more than a few seconds."""

import importlib.util
import sys

from tqdm import tqdm

LINE_SECONDS = 10.0  # between two lines of a log
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Hide progress from now on, or show it again."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Return whether progress is hidden."""
    return _quiet


def progress(description: str, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """Return a progress bar on stderr.

    On a terminal, the bar moves; in a notebook, it is a widget if ipywidgets is installed; in a log
    or a pipe, it is a line every 10 s and one at the end.

    Args:
        description: short description of the work.
        total: number of units in total; None if unknown. Nothing is shown for 0.
        unit: name of the unit, in the singular ("clip").
        initial: number of units done by an earlier, interrupted run; they do not count towards the
            rate.
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
        """Write a line, but ignore tqdm's empty lines, because there is nothing to clear."""
        if msg != "":
            print(self if msg is None else msg, file=self.fp, flush=True)
        return False

    def close(self) -> None:
        """Write the final state, unless the last line already shows it."""
        if not self.disable and self.n != self.last_print_n:
            self.display()
        super().close()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
