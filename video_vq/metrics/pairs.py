"""What every score of copies beside their originals asks of the two."""

from torch import Tensor

from video_vq.errors import InputError


def require_equal_shapes(clips: Tensor, reference: Tensor) -> None:
    """Raise an InputError unless both are clips b t h w c of the same shape, and none is empty."""
    if clips.shape != reference.shape or clips.ndim != 5 or 0 in clips.shape:
        raise InputError(
            f"clips of {tuple(clips.shape)} cannot be compared with {tuple(reference.shape)}; "
            "expected equal shapes b t h w c"
        )
