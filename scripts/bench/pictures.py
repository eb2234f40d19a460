"""Feature networks that see pictures but no motion.

  PYTHONPATH=scripts/bench video-vq fvd --sanity clips --network pictures:mean_of_frames

`mean_of_frames` averages the features of ST-LPIPS's last layer over space and time, so that the
order of the frames cannot matter; compare its sanity table with that of I3D. `colours` takes almost
no time, and replaces I3D in runs that do not need FVD.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from video_vq.metrics.perceptual import StLpips, load_st_lpips


class MeanOfFrames(nn.Module):
    """The mean of AlexNet's last features over a clip's pixels and frames."""

    def __init__(self, network: StLpips):
        super().__init__()
        self.network = network

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 256"]:
        """Return the features of clips in [-1, 1]."""
        frames = rearrange(video, "b c t h w -> (b t) c h w")
        x = (frames - self.network.shift) / self.network.scale
        for stage in self.network.stages:
            x = stage(x)
        return reduce(x, "(b t) c h w -> b c", "mean", b=len(video))


class Colours(nn.Module):
    """The mean and standard deviation of each color over a clip's pixels and frames."""

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 6"]:
        """Return the features of clips."""
        return torch.cat([video.mean((2, 3, 4)), video.std((2, 3, 4))], dim=1)


def colours() -> nn.Module:
    """Return the `Colours` network, which has no weights."""
    return Colours()


def mean_of_frames() -> nn.Module:
    """Return a `MeanOfFrames` network with the pinned weights of ST-LPIPS."""
    return MeanOfFrames(load_st_lpips("alex"))
