"""From settings to a quantizer."""

from video_vq.quantizers.finite import FiniteQuantizer
from video_vq.quantizers.quantizer_config import FiniteConfig, QuantizerConfig, SimVQConfig
from video_vq.quantizers.vector import VectorQuantizer


def build_quantizer(
    dim: int, config: QuantizerConfig | SimVQConfig | FiniteConfig
) -> VectorQuantizer | FiniteQuantizer:
    """Return the quantizer that the settings describe, for features of `dim` channels.

    All keep to the interface `Quantizer` (quantizers/interface.py).
    """
    if isinstance(config, FiniteConfig):
        return FiniteQuantizer(dim, config)
    return VectorQuantizer(dim, config)
