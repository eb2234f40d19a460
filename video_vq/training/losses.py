"""Losses of the tokenizer: unweighted, float32."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Video = Float[Tensor, "b 3 t h w"]


def reconstruction_loss(
    output: Video, target: Video, kind: Literal["l1", "mse"]
) -> Float[Tensor, ""]:
    """Return the mean absolute or squared error of pixels in [-1, 1]."""
    if kind == "l1":
        return F.l1_loss(output.float(), target)
    return F.mse_loss(output.float(), target)
