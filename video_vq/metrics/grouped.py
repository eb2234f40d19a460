"""Clip features with the source video of each clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from video_vq.errors import InputError
from video_vq.nn.arrays import as_array


@dataclass(frozen=True)
class GroupedFeatures:
    """Feature vectors, one per clip, and the source video (group) of each clip.

    Clips of the same video are not independent, so resampling draws whole videos. Sets that contain
    the same video names (such as reconstructions of the same clips) are resampled jointly.
    """

    features: Float[np.ndarray, "n d"]
    groups: Sequence[str]

    def __post_init__(self) -> None:
        features = as_array(self.features, "features")
        if features.ndim != 2:
            raise InputError(f"features: expected n d, found the shape {features.shape}")
        object.__setattr__(self, "features", features)
