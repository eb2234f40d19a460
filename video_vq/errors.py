"""Errors that the user can correct; only their messages are shown, without a traceback."""


class InputError(ValueError):
    """A file, setting or argument is wrong; the message says what was found and what to do next."""


class ConfigError(InputError):
    """A configuration is wrong; the command ends with exit status 2, as for a wrong flag."""


def system_refusal(error: OSError) -> str:
    """Return one line with the file's name and the system's error."""
    return f"{error.filename}: {error.strerror or type(error).__name__}"


def printable(text: str) -> str:
    """Escape the characters of a file name that could control a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in text
    )
