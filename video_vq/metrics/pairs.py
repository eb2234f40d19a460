"""Checks the requirements of every score of copies and their originals."""

from jaxtyping import Num
from torch import Tensor

from video_vq.errors import InputError
from video_vq.nn.inputs import Clips, as_tensor, check_levels

Pair = tuple[Num[Tensor, "b t h w c"], Num[Tensor, "b t h w c"]]


def comparable(copies: Clips, originals: Clips) -> Pair:
    """Return copies and originals as tensors.

    Raises:
        InputError: the arguments are not clips b t h w c of the same shape, one is empty, or its
            values are not RGB in 0…255.
    """
    clips, reference = as_tensor(copies, "clips"), as_tensor(originals, "reference")
    if clips.shape != reference.shape or clips.ndim != 5 or 0 in clips.shape:
        raise InputError(
            f"clips of {tuple(clips.shape)} cannot be compared with {tuple(reference.shape)}; "
            "expected equal shapes b t h w c"
        )
    check_levels(clips, "the clips are")
    check_levels(reference, "the reference clips are")
    return clips, reference
