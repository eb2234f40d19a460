"""Keeps a run alive when its terminal is closed; metrics.jsonl has the numbers."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Screen(io.FileIO):
    """Drops output that cannot be written: a terminal was closed, `| tee` ended, a disk is full."""

    def write(self, data, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


@contextmanager
def lasting_screen() -> Iterator[None]:
    """Suppress errors from printing to stdout and stderr within this context.

    The Ctrl-C or the closed terminal that stops a run may also end the reader of its output; the
    messages that follow must not prevent the checkpoint.
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
