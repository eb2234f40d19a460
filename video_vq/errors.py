"""The errors that a user can put right: their messages are shown alone, without a traceback."""


class InputError(ValueError):
    """A file, setting or argument is wrong; the message says what was found and what to do next."""


class ConfigError(InputError):
    """A configuration is wrong; the command ends with exit status 2, as for a wrong flag."""
