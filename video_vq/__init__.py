"""Video tokenizers with vector quantization, priors over the tokens, and FVD for both.

Every name in `__all__` is imported on first access: `import video_vq` itself loads neither torch
nor av. docs/python.md has an example for each name.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_vq.data.datasets import ClipDataset as ClipDataset
    from video_vq.data.datasets import TokenDataset as TokenDataset
    from video_vq.errors import InputError as InputError
    from video_vq.metrics.code_usage import CodeUsage as CodeUsage
    from video_vq.metrics.fvd_metric import FrechetVideoDistance as FrechetVideoDistance
    from video_vq.models.masked_prior import MaskedPrior as MaskedPrior
    from video_vq.models.prior import Prior as Prior
    from video_vq.models.tokenizer import VideoTokenizer as VideoTokenizer
    from video_vq.models.tokenizer import to_pixels as to_pixels
    from video_vq.models.tokenizer import to_uint8 as to_uint8
    from video_vq.quantizers.binary import BinaryQuantizer as BinaryQuantizer
    from video_vq.quantizers.finite import FiniteScalarQuantizer as FiniteScalarQuantizer
    from video_vq.quantizers.residual import ResidualQuantizer as ResidualQuantizer
    from video_vq.quantizers.vector import SimVQ as SimVQ
    from video_vq.quantizers.vector import VectorQuantizer as VectorQuantizer
    from video_vq.stores.clips import ClipStore as ClipStore
    from video_vq.stores.tokens import TokenStore as TokenStore

__version__ = "0.1.0"
# The module that defines each name.
_SOURCES = {
    "BinaryQuantizer": "quantizers.binary",
    "ClipDataset": "data.datasets",
    "ClipStore": "stores.clips",
    "CodeUsage": "metrics.code_usage",
    "FiniteScalarQuantizer": "quantizers.finite",
    "FrechetVideoDistance": "metrics.fvd_metric",
    "InputError": "errors",
    "MaskedPrior": "models.masked_prior",
    "Prior": "models.prior",
    "ResidualQuantizer": "quantizers.residual",
    "SimVQ": "quantizers.vector",
    "TokenDataset": "data.datasets",
    "TokenStore": "stores.tokens",
    "VectorQuantizer": "quantizers.vector",
    "VideoTokenizer": "models.tokenizer",
    "to_pixels": "models.tokenizer",
    "to_uint8": "models.tokenizer",
}
__all__ = [*_SOURCES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Return a name in `__all__`, which is imported on first access (PEP 562)."""
    if name not in _SOURCES:
        message = f"module 'video_vq' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=importlib.import_module(__name__))
    value = getattr(importlib.import_module(f"video_vq.{_SOURCES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names that can be imported, including those not imported yet."""
    return sorted({*globals(), *__all__})
