"""Progress with rate and time left for everything that takes more than a few seconds."""

import sys

from tqdm import tqdm


def progress(description: str, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """Return a progress bar on stderr: a moving line on a terminal, a line every 10 s in a log.

    Args:
        description: what is being done, in a few words.
        total: number of units in total; None when unknown; nothing is shown for 0.
        unit: what is counted, in the singular ("clip").
        initial: number of units that an earlier, interrupted start did; not counted in the rate.
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
