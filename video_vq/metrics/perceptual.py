"""ST-LPIPS, a perceptual distance between images, which is not comparable with LPIPS.

ST-LPIPS (Ghildyal & Liu, "Shift-tolerant Perceptual Similarity Metric", ECCV 2022) is LPIPS (Zhang
et al. 2018) on trunks that blur wherever they subsample, with weights trained for these trunks.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import safetensors.torch
import torch
from einops import rearrange
from jaxtyping import Float, Float64, Num
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.metrics.pairs import comparable
from video_vq.metrics.weights import ST_LPIPS_WEIGHTS
from video_vq.nn.inputs import Clips, check_unit_range
from video_vq.nn.precision import exact_float32

Trunk = Literal["alex", "vgg"]

# ImageNet's mean and standard deviation for images in [-1, 1], rounded as in LPIPS.
IMAGENET_SHIFT = (-0.030, -0.088, -0.188)
IMAGENET_SCALE = (0.458, 0.448, 0.450)
NORM_EPS = 1e-10
PIXELS_AT_ONCE = 2**18  # 64 frames of 64 px, 4 frames of 256 px


class TrunkFacts(NamedTuple):
    """Smallest frame size that a trunk supports, and the widths of the five compared layers."""

    min_size: int  # pixels; the blurs cannot pad smaller images by reflection
    widths: tuple[int, int, int, int, int]


TRUNKS: dict[Trunk, TrunkFacts] = {
    "alex": TrunkFacts(21, (64, 192, 384, 256, 256)),
    "vgg": TrunkFacts(18, (64, 128, 256, 512, 512)),
}


class StLpips(nn.Module):
    """ST-LPIPS between pairs of images; create instances with `load_st_lpips`.

    The network is frozen but differentiable with respect to both images, so it can serve as a loss.
    There is no dropout, so train() has no effect. The forward pass is plain float32, regardless of
    autocast and TF32 settings; the backward pass follows the settings that apply at the time of
    that pass.

    Args:
        trunk: "alex", the usual trunk for scores, or "vgg", the usual trunk for losses.
    """

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.trunk: Trunk = trunk
        self.stages = _alex_stages() if trunk == "alex" else _vgg_stages()
        self.heads = nn.ParameterList(torch.zeros(width) for width in TRUNKS[trunk].widths)
        self.shift = nn.Buffer(torch.tensor(IMAGENET_SHIFT).view(3, 1, 1), persistent=False)
        self.scale = nn.Buffer(torch.tensor(IMAGENET_SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(
        self, frames: Float[Tensor, "n 3 h w"], reference: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, "n"]:
        """Return the distance of each RGB image from its reference.

        The references must lie in [-1, 1]; the images, such as network outputs, may exceed this
        range.

        Raises:
            InputError: the images are not RGB, differ from the references in size, are too small
                for the trunk or are not float32, or a reference lies outside [-1, 1] (only checked
                if `frames` requires no gradient).
        """
        self._check(frames, reference)
        with exact_float32(frames.device):
            x = (frames - self.shift) / self.scale
            y = (reference - self.shift) / self.scale
            distance = torch.zeros(len(frames), device=frames.device)
            for stage, head in zip(self.stages, self.heads, strict=True):
                x, y = stage(x), stage(y)
                # Zhang et al. 2018, equation 1.
                squared = (_unit_length(x) - _unit_length(y)).square()
                distance = distance + torch.einsum("nchw,c->nhw", squared, head).mean(dim=(1, 2))
            return distance

    def _check(self, frames: Tensor, reference: Tensor) -> None:
        if frames.shape != reference.shape or frames.ndim != 4 or frames.shape[1] != 3:
            raise InputError(
                "ST-LPIPS compares RGB pictures n 3 h w of equal sizes, found "
                f"{tuple(frames.shape)} and {tuple(reference.shape)}"
            )
        min_size = TRUNKS[self.trunk].min_size
        if min(frames.shape[2:]) < min_size:
            raise InputError(
                f"ST-LPIPS on {self.trunk} takes pictures of at least {min_size} x {min_size} "
                f"pixels, found {frames.shape[2]} x {frames.shape[3]}; score larger clips, or "
                "leave ST-LPIPS out"
            )
        if not frames.is_floating_point() and not reference.is_floating_point():
            raise InputError(
                f"ST-LPIPS takes pictures in [-1, 1] in float32, found {frames.dtype}; use "
                "st_lpips_per_clip on clips b t h w c in 0..255, or pass x / 127.5 - 1"
            )
        dtypes = {frames.dtype, reference.dtype, self.heads[0].dtype}
        if dtypes != {torch.float32}:
            raise InputError(
                f"ST-LPIPS works in float32, found pictures of {frames.dtype} and "
                f"{reference.dtype} and weights of {self.heads[0].dtype}; do not convert the "
                "metric or its input"
            )
        if not frames.requires_grad:  # in a loss, a GPU must not wait for the check in every step
            check_unit_range(reference, unsure=False)


class Blur(nn.Module):
    """Subsampling by two with the binomial blur 1 2 1 (Zhang 2019).

    The reflected border is one pixel wider than the filter requires, so that no border is lost.
    """

    def __init__(self):
        super().__init__()
        binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.kernel = nn.Buffer(torch.outer(binomial, binomial)[None, None], persistent=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Return the blurred features, of size ceil(h / 2) + 1 by ceil(w / 2) + 1."""
        num_channels = x.shape[1]
        kernel = self.kernel.expand(num_channels, -1, -1, -1)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), kernel, stride=2, groups=num_channels)


def _alex_stages() -> nn.ModuleList:
    """Return the stages of AlexNet, subsampled by blurs instead of strided layers."""
    return nn.ModuleList(
        [
            nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), Blur(), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(3, 1), Blur(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(3, 1), Blur(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        ]
    )


def _vgg_stages() -> nn.ModuleList:
    """Return the stages of VGG16, with pools of stride 1 instead of 2, each followed by a blur."""
    stages: list[nn.Sequential] = []
    in_channels = 3
    for width, num_convolutions in zip(TRUNKS["vgg"].widths, (2, 2, 3, 3, 3), strict=True):
        layers: list[nn.Module] = [nn.MaxPool2d(2, 1), Blur()] if stages else []
        for _ in range(num_convolutions):
            layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
            in_channels = width
        stages.append(nn.Sequential(*layers))
    return nn.ModuleList(stages)


def _unit_length(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    # vector_norm, because its gradient is 0 where all channels are; that of a square root is NaN.
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + NORM_EPS)


def st_lpips_per_clip(clips: Clips, reference: Clips, network: StLpips) -> Float64[Tensor, "b"]:
    """Return each clip's ST-LPIPS, averaged over its frames in float64; 0 for identical clips.

    A clip's score does not depend on the other clips in the batch. The network and the clips may be
    on different devices.

    Args:
        clips: RGB in 0..255, uint8 or float (floats in [0, 1] are rejected), as tensors or arrays.
        reference: original clips, in any of the formats of `clips`.
        network: network returned by `load_st_lpips`; scores from different trunks are not
            comparable.

    Raises:
        InputError: the shapes differ, the values are not RGB in 0..255, or the frames are too small
            for the trunk.
    """
    clips, reference = comparable(clips, reference)
    distances = []
    with torch.inference_mode():
        for clip, truth in zip(clips, reference, strict=True):
            parts = zip(
                _network_inputs(clip, network), _network_inputs(truth, network), strict=True
            )
            per_frame = torch.cat([network(frames, originals) for frames, originals in parts])
            distances.append(per_frame.to(torch.float64).mean())
    return torch.stack(distances).to(clips.device)


def _network_inputs(
    clip: Num[Tensor, "t h w c"], network: StLpips
) -> Iterator[Float[Tensor, "n c h w"]]:
    """Yield the frames as network input, in batches that fit into memory."""
    for frames in clip.split(max(1, PIXELS_AT_ONCE // (clip.shape[1] * clip.shape[2]))):
        on_device = frames.to(network.shift.device)
        yield rearrange(on_device, "t h w c -> t c h w").to(torch.float32) / 127.5 - 1.0


def load_st_lpips(trunk: Trunk, fetch: bool = False) -> StLpips:
    """Return a frozen ST-LPIPS network with the pinned weights.

    Args:
        trunk: "alex" or "vgg".
        fetch: whether missing weights may be downloaded (see `PublishedWeights.path`).

    Raises:
        InputError: the trunk is unknown, or the weights are missing, cannot be downloaded or differ
            from the pinned weights.
    """
    if trunk not in TRUNKS:
        raise InputError(f"ST-LPIPS has no trunk {trunk!r}; expected one of: {', '.join(TRUNKS)}")
    tensors = safetensors.torch.load(ST_LPIPS_WEIGHTS.read(fetch))
    prefix = f"{trunk}."
    own = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    network = StLpips(trunk)
    network.load_state_dict(own, strict=True)
    return network.eval()
