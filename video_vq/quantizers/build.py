"""Builds a quantizer from its settings."""

from video_vq.quantizers.binary import BinaryCodebook
from video_vq.quantizers.finite import FiniteCodebook
from video_vq.quantizers.fixed import FixedQuantizer
from video_vq.quantizers.quantizer_config import (
    BinaryConfig,
    FiniteConfig,
    QuantizerConfig,
    ResidualConfig,
    SimVQConfig,
)
from video_vq.quantizers.residual import ResidualQuantizer
from video_vq.quantizers.vector import VectorQuantizer


def build_quantizer(
    dim: int, config: QuantizerConfig | SimVQConfig | FiniteConfig | BinaryConfig | ResidualConfig
) -> VectorQuantizer | FixedQuantizer | ResidualQuantizer:
    """Return the quantizer that the settings describe, for features of `dim` channels.

    All implement the interface `Quantizer` (quantizers/interface.py).
    """
    if isinstance(config, FiniteConfig):
        return FixedQuantizer(dim, FiniteCodebook(config))
    if isinstance(config, BinaryConfig):
        return FixedQuantizer(dim, BinaryCodebook(config))
    if isinstance(config, ResidualConfig):
        return ResidualQuantizer(dim, config)
    return VectorQuantizer(dim, config)
