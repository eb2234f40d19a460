"""Conversion of arguments to tensors, and pixel range checks."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Num, Shaped
from torch import Tensor

from video_vq.errors import InputError
from video_vq.nn.arrays import as_array

Clips = Num[Tensor, "b t h w c"] | Num[np.ndarray, "b t h w c"]

RANGE_SLACK = 1e-3  # tolerance for rounding errors of values in [-1, 1]
SPREAD = 0.5  # non-negative values with a larger range are taken for pixels in [0, 1]


def as_tensor(value: object, what: str) -> Shaped[Tensor, "..."]:
    """Return a tensor unchanged, or convert a NumPy array, sharing memory if possible.

    Raises:
        InputError: the value is neither a tensor nor a numeric array; see `as_array`.
    """
    if isinstance(value, Tensor):
        return value
    found = as_array(value, what)
    native = found.astype(found.dtype.newbyteorder("="), copy=False)
    in_order = np.ascontiguousarray(native).reshape(found.shape)
    return torch.from_numpy(in_order if in_order.flags.writeable else in_order.copy())


def as_integers(value: object, what: str) -> Shaped[Tensor, "..."]:
    """Return integers as a tensor, from a tensor, an array or a plain list.

    Raises:
        InputError: the values are not integers, or do not fit into 64 bits.
    """
    listed = plain_integers(value, what)
    if listed is not None:
        try:
            value = np.array(listed, dtype=np.int64)
        except OverflowError:
            largest = max(listed, key=abs)
            raise InputError(f"{what}: expected integers of 64 bits, found {largest}") from None
    found = as_tensor(value, what)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"{what}: expected integers, found {found.dtype}")
    return found


def plain_integers(value: object, what: str) -> list[int] | None:
    """Convert a sequence of integers of any size to a list; return None for any other value.

    Raises:
        InputError: the sequence contains booleans, which Python treats as integers.
    """
    kinds = int | bool | np.integer | np.bool_
    if not isinstance(value, Sequence) or not all(isinstance(item, kinds) for item in value):
        return None
    if any(isinstance(item, bool | np.bool_) for item in value):
        raise InputError(f"{what}: expected integers, found a {type(value).__name__} with booleans")
    return [int(item) for item in value]


class UnitRange:
    """The pixel range of a float video, checked chunk by chunk."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        self._is_of_levels = True

    def look(self, piece: Shaped[Tensor, "..."]) -> None:
        """Check that all values of a chunk are finite and in [-1, 1], and record their range.

        Raises:
            InputError: pixels are out of range, NaN or infinite.
        """
        low, high = (float(edge) for edge in piece.detach().aminmax())
        if not np.isfinite(low + high):
            raise InputError("the video holds NaN or infinite values")
        if low < -1 - RANGE_SLACK or high > 1 + RANGE_SLACK:
            raise InputError(
                f"a float video lies in [-1, 1], found {low:.3g}..{high:.3g}; "
                "pass uint8 b t h w c, or x / 127.5 - 1"
            )
        self._low, self._high = min(low, self._low), max(high, self._high)
        if self._low >= 0 and self._is_of_levels:
            self._is_of_levels = _is_of_levels(piece)

    def settle(self) -> None:
        """Check, after the last chunk, that the pixels do not appear to lie in [0, 1].

        Values that are never negative and have a range of more than 0.5 are taken for pixels in
        [0, 1]; in [-1, 1], such a video would have no pixel darker than middle gray. If each value
        is `x / 127.5 - 1` for an integer x, however, the range is certainly [-1, 1].

        Raises:
            InputError: pixels appear to lie in [0, 1]; the message gives their range and advice.
        """
        if self._low >= 0 and self._high - self._low > SPREAD and not self._is_of_levels:
            raise InputError(
                f"a float video lies in [-1, 1], found {self._low:.3g}..{self._high:.3g}, as "
                "pixels in [0, 1] do; pass 2 * x - 1 (a clip that is as bright as that in "
                "[-1, 1]: pass it as uint8)"
            )


def check_unit_range(video: Shaped[Tensor, "..."], unsure: bool = True) -> None:
    """Check that pixels lie in [-1, 1] and do not appear to lie in [0, 1]; see `UnitRange`.

    Args:
        video: pixels as floats.
        unsure: whether to also reject pixels that appear to lie in [0, 1].

    Raises:
        InputError: pixels are out of range, NaN or infinite; or, if `unsure` is set, they appear to
            lie in [0, 1].
    """
    seen = UnitRange()
    seen.look(video)
    if unsure:
        seen.settle()


def _is_of_levels(pixels: Shaped[Tensor, "..."]) -> bool:
    """Return whether all pixels are x / 127.5 - 1 for integers x.

    Such pixels are odd multiples of 1/255, whereas pixels x / 255 also include even multiples.
    """
    nearest_odd = (pixels.detach().float() * 255 - 1).div(2)
    return bool(((nearest_odd - nearest_odd.round()).abs() < 0.1).all())


def check_levels(clips: Num[Tensor, "..."], what: str = "float clips are") -> None:
    """Check that pixels lie in 0…255 and do not appear to lie in [0, 1] or [-1, 1].

    uint8 clips always pass. Floats that are all 0 pass, too, since they are black in either range.

    Args:
        clips: RGB clips.
        what: subject and verb of the error message.

    Raises:
        InputError: pixels are out of range, NaN, or appear to lie in another range, or the dtype is
            boolean or complex; the message gives the range or dtype found.
    """
    if clips.dtype == torch.uint8:
        return
    if clips.dtype == torch.bool or clips.is_complex():
        raise InputError(f"{what} RGB in 0..255, uint8 or float, found {clips.dtype}")
    low, high = (float(edge) for edge in clips.detach().aminmax())
    found = f"{what} RGB in 0..255, found values from {low:g} to {high:g}"
    if -1 - RANGE_SLACK <= low < 0 and high <= 1 + RANGE_SLACK:
        raise InputError(f"{found}; if they lie in [-1, 1], pass (x + 1) * 127.5")
    if not (low >= 0 and high <= 255):  # NaN fails both
        raise InputError(f"{found}; clamp them, or round them to uint8")
    if clips.is_floating_point() and 0 < high <= 1:
        raise InputError(
            f"{found}, as pixels in [0, 1] do; multiply them by 255 (clips that are as dark as "
            "that: round them to uint8)"
        )
