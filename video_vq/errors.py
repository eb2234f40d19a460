"""Errors that the user can correct; only their messages are shown, without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for a wrong file, setting or argument; the message says what to do about it."""


class ConfigError(InputError):
    """Raised for a wrong configuration; the exit status is then 2, as for a wrong flag."""


def system_refusal(error: OSError) -> str:
    """Return one line with the file's name and the system's error."""
    return f"{error.filename}: {error.strerror or type(error).__name__}"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to an unknown one; None if none is close.

    Args:
        cutoff: smallest similarity that counts as close, from 0 to 1 for equal names.
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), None)


def printable(text: str) -> str:
    """Escape the characters of a file name that could control a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in text
    )
