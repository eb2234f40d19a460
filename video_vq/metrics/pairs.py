"""Input checks shared by all metrics that compare copies with originals."""

from jaxtyping import Num
from torch import Tensor

from video_vq.errors import InputError
from video_vq.nn.inputs import Clips, as_tensor, check_levels

Pair = tuple[Num[Tensor, "b t h w c"], Num[Tensor, "b t h w c"]]


def comparable(copies: Clips, originals: Clips) -> Pair:
    """Check copies and originals, and return both as tensors.

    Raises:
        InputError: the arguments are not clips b t h w c of the same shape, are empty, or have
            values that are not RGB in 0…255.
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
