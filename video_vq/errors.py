"""The one error that a user can put right: its message is shown alone, without a traceback."""


class InputError(ValueError):
    """A file, setting or argument is wrong; the message says what was found and what to do next."""
