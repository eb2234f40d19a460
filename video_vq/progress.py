"""Progress with rate and time left for everything that takes more than a few seconds."""

import sys

from tqdm import tqdm


def progress(description: str, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """Return a progress bar on stderr: a moving line on a terminal, a line each 10 s in a log.

    Args:
        description: what is being done, in a few words.
        total: how many units there are in all, None when unknown; nothing is shown for 0.
        unit: what is counted, in the singular ("clip").
        initial: how many were done by an earlier, interrupted start; not counted in the rate.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=f" {unit}",
        initial=initial,
        mininterval=0.2 if terminal else 10.0,
        dynamic_ncols=terminal,
        file=sys.stderr,
        disable=total == 0,
    )
