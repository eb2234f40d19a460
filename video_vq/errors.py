"""Errors that the user can correct; the commands show the message without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Error for a wrong file, setting or argument; the message says how to correct the problem."""


class ConfigError(InputError):
    """Error for a wrong configuration; the command exits with status 2, as for a wrong flag."""


def system_refusal(error: OSError) -> str:
    """Return a line with the file name and the operating system's message."""
    return f"{error.filename}: {error.strerror or type(error).__name__}"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to an unknown name, or None if no known name is close.

    Args:
        name: the unknown name.
        known: the known names.
        cutoff: smallest similarity that counts as close, from 0 to 1 (equal names).
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), None)


def printable(text: str) -> str:
    """Return a text with all unprintable characters escaped, except line breaks."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in text
    )
