"""A feature network that sees pictures and no motion, to hold a sanity table of FVD against.

  PYTHONPATH=scripts/bench video-vq fvd --sanity clips --network pictures:mean_of_frames

It averages ST-LPIPS's last layer over space and time, so the order of the frames cannot matter.
"""

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


def mean_of_frames() -> nn.Module:
    """Return the network, with the pinned weights of ST-LPIPS."""
    return MeanOfFrames(load_st_lpips("alex"))
