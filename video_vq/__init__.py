"""Videos to discrete tokens and back, a prior over the tokens, and FVD for both.

`video_vq.VideoTokenizer` and `video_vq.Prior` are imported when they are first named: importing the
package loads neither torch nor av.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_vq.models.prior import Prior
    from video_vq.models.tokenizer import VideoTokenizer

__all__ = ["Prior", "VideoTokenizer", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a model class when it is first asked for (PEP 562)."""
    if name == "VideoTokenizer":
        from video_vq.models.tokenizer import VideoTokenizer

        return VideoTokenizer
    if name == "Prior":
        from video_vq.models.prior import Prior

        return Prior
    raise AttributeError(f"module 'video_vq' has no attribute {name!r}")
