"""Construction of quantizers from settings."""

from dataclasses import fields

from video_vq.quantizers.binary import BinaryQuantizer
from video_vq.quantizers.finite import FiniteScalarQuantizer
from video_vq.quantizers.quantizer_config import (
    BinaryConfig,
    FiniteConfig,
    QuantizerConfig,
    ResidualConfig,
    SimVQConfig,
)
from video_vq.quantizers.residual import ResidualQuantizer
from video_vq.quantizers.vector import SimVQ, VectorQuantizer

AnyQuantizer = VectorQuantizer | SimVQ | FiniteScalarQuantizer | BinaryQuantizer | ResidualQuantizer
BUILT_BY: dict[type, type[AnyQuantizer]] = {
    QuantizerConfig: VectorQuantizer,
    SimVQConfig: SimVQ,
    FiniteConfig: FiniteScalarQuantizer,
    BinaryConfig: BinaryQuantizer,
    ResidualConfig: ResidualQuantizer,
}


def build_quantizer(
    dim: int, config: QuantizerConfig | SimVQConfig | FiniteConfig | BinaryConfig | ResidualConfig
) -> AnyQuantizer:
    """Return the quantizer that the settings describe, for features of `dim` channels.

    The settings are passed to the constructor as arguments. All quantizers implement the interface
    `Quantizer` (quantizers/interface.py).
    """
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    del settings["kind"]
    return BUILT_BY[type(config)](dim, **settings)
