"""Fallback from a fast, compiled function to an equivalent plain function."""

import warnings
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class WithFallback(Generic[Arguments, Result]):
    """A function that switches from a fast to a plain implementation at the first failure.

    The switch gives a single warning. A missing, broken or incompatible compiler thus costs only
    speed and never stops a run. Out-of-memory errors are raised instead.

    Args:
        what: name of the fast function in the warning.
        fast: the function that may fail.
        plain: the function that takes the same arguments and returns the same result.
    """

    def __init__(
        self, what: str, fast: Callable[Arguments, Result], plain: Callable[Arguments, Result]
    ):
        self.what, self.plain = what, plain
        self._fast: Callable[Arguments, Result] | None = fast

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Return the result of the fast function, or of the plain function after a failure."""
        if self._fast is not None:
            try:
                return self._fast(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._fast = None
                warn_of_fallback(self.what, error)
        return self.plain(*args, **kwargs)


def warn_of_fallback(what: str, error: BaseException) -> None:
    """Warn in one line that a function failed, and that a plain function replaces it."""
    said = " ".join(str(error).split()) or "no message"
    warnings.warn(
        f"{what} failed ({type(error).__name__}: {said[:200]}); the same is computed without it, "
        "more slowly",
        RuntimeWarning,
        stacklevel=3,
    )
