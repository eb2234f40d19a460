"""What can be set about a vector quantizer; imports no torch."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT

Estimator = Literal[
    "straight_through",
    "rotation",
    "rotation_unit",
    "rotation_clipped",
    "scaled",
    "rotation_dynamic",
    "reflection",
]


@dataclass(frozen=True, config=STRICT)
class QuantizerConfig:
    """A codebook and how it learns.

    Attributes:
        codebook_size: number of codes, K.
        codebook_dim: dimension of a code, D; the encoder's output is projected to it.
        estimator: the gradient that passes the quantizer (quantizers/gradient.py).
        normalize: quantize on the unit sphere: latents and codes l2-normalised.
        learning: "ema" averages of the latents assigned to a code, or "gradient" of a codebook
            loss.
        decay: of the averages per optimizer step.
        init: "data" draws the first codes from the first batch; "uniform" is U(-1/K, 1/K).
        restart_threshold: a code whose averaged count falls below this fraction of the mean count
            N/K is placed on a latent of the batch; 0 never restarts.
    """

    codebook_size: Annotated[int, Field(ge=2, le=1 << 20)] = 1024
    codebook_dim: Annotated[int, Field(ge=1, le=4096)] = 64
    estimator: Estimator = "rotation"
    normalize: bool = False
    learning: Literal["ema", "gradient"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    init: Literal["data", "uniform"] = "data"
    restart_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1
