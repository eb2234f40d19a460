"""Output streams that let a run continue when its terminal is closed."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Screen(io.FileIO):
    """A stream that drops output if writing fails, as with a closed terminal or a full disk."""

    def write(self, data, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


@contextmanager
def lasting_screen() -> Iterator[None]:
    """Suppress errors when printing to stdout and stderr within this context.

    The Ctrl-C or the closed terminal that stops a run may also end the program that reads the run's
    output; a failure to print must not keep the checkpoint from being saved.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_lasting, before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: Any) -> Any:
    try:
        file = _Screen(stream.fileno(), "w", closefd=False)
    except (io.UnsupportedOperation, AttributeError):  # not a file, as in a notebook, or missing
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(file), stream.encoding, stream.errors, line_buffering=True
    )
