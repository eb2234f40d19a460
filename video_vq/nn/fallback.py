"""A fast way that has to be compiled, and the plain way that computes the same."""

import warnings
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class WithFallback(Generic[Arguments, Result]):
    """Calls the fast way until it fails once, then the plain way for good, with one warning.

    A compiler that is missing, broken or at odds with the driver costs speed, never a run. Too
    little memory is no such failure.

    Args:
        what: names the fast way in the warning.
        fast: what may fail.
        plain: takes the same arguments and returns the same.
    """

    def __init__(
        self, what: str, fast: Callable[Arguments, Result], plain: Callable[Arguments, Result]
    ):
        self.what, self.plain = what, plain
        self._fast: Callable[Arguments, Result] | None = fast

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Return what the fast way gives, or the plain one."""
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
    """Warn, in one line, that the plain way is taken in place of one that failed."""
    said = " ".join(str(error).split()) or "no message"
    warnings.warn(
        f"{what} failed ({type(error).__name__}: {said[:200]}); the same is computed without it, "
        "slower",
        RuntimeWarning,
        stacklevel=3,
    )
