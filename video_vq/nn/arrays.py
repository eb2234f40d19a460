"""Conversion of arguments to NumPy arrays, without importing torch."""

import os
from typing import Any

import numpy as np
from jaxtyping import Shaped

from video_vq.errors import InputError


def as_array(value: Any, what: str) -> Shaped[np.ndarray, "..."]:
    """Return a NumPy array unchanged, or convert a tensor to a NumPy array.

    Args:
        value: value to convert.
        what: argument name for the error message, such as "features".

    Raises:
        InputError: the value is neither a tensor nor a numeric array; the message suggests a
            conversion.
    """
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return value
    raise InputError(f"{what}: expected a tensor or a NumPy array, found {_described(value)}")


def _described(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return (
            f"the path {str(value)!r}; read what it holds first, or use the `video-vq` command "
            "for it, which takes files and folders"
        )
    if isinstance(value, list | tuple):
        kind = type(value[0]).__name__ if value else "nothing"
        joined = "np.stack([np.asarray(one) for one in them])"
        if value and hasattr(value[0], "detach"):
            joined = "torch.stack(them)"
        return f"a {type(value).__name__} of {kind}; join them first: {joined}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}; give numbers"
    hint = "; np.asarray(it) makes it one" if hasattr(value, "__array_interface__") else ""
    return f"{type(value).__name__}{hint}"
