"""Compares the motion of a copied clip with its original: motion-energy ratio and flicker.

Δ is the difference between a frame and the one before it, at each pixel and colour, in grey levels.
"""

import math

import torch
from jaxtyping import Float64, Num
from torch import Tensor

from video_vq.errors import InputError
from video_vq.metrics.pairs import Pair, comparable
from video_vq.nn.inputs import Clips


def motion_energy_ratio_per_clip(clips: Clips, reference: Clips) -> Float64[Tensor, "b"]:
    """Return the mean of (Δ copy)² over the mean of (Δ original)².

    1 is right, 0 is a frozen copy; below 1 motion is lost or blurred, above 1 it is exaggerated or
    the copy flickers, and the two can cancel: read it beside `flicker_per_clip`. For an original
    that stands still it is undefined, NaN: average the rest and count these.

    Args:
        clips: uint8, or float in 0..255 (in [0, 1] is an error); tensors or NumPy arrays.
        reference: the clips that `clips` should equal, in either form.

    Raises:
        InputError: the shapes differ, the values are not RGB in 0..255, or there is only one frame.
    """
    clips, reference = _moving(clips, reference)
    ratios = []
    for clip, truth in zip(clips, reference, strict=True):
        energy, true_energy = (_steps(frames).square().mean() for frames in (clip, truth))
        ratios.append(torch.where(true_energy > 0, energy / true_energy, math.nan))
    return torch.stack(ratios)


def flicker_per_clip(clips: Clips, reference: Clips) -> Float64[Tensor, "b"]:
    """Return the change that a copy adds: the mean of max(0, |Δ copy| − |Δ original|), grey levels.

    0 for a perfect copy, and for one that is wrong in the same way in all frames, frozen or
    blurred in time: change that is missing is not flicker, and never makes up for change that was
    added elsewhere. Where the original stands still it is the mean |Δ copy|, which is 2σ/√π
    under noise of standard deviation σ that is independent in each frame.

    Args:
        clips: uint8, or float in 0..255 (in [0, 1] is an error); tensors or NumPy arrays.
        reference: the clips that `clips` should equal, in either form.

    Raises:
        InputError: the shapes differ, the values are not RGB in 0..255, or there is only one frame.
    """
    clips, reference = _moving(clips, reference)
    added = [
        (_steps(clip).abs_() - _steps(truth).abs_()).clamp_(min=0).mean()
        for clip, truth in zip(clips, reference, strict=True)
    ]
    return torch.stack(added)


def _steps(clip: Num[Tensor, "t h w c"]) -> Float64[Tensor, "t-1 h w c"]:
    return clip.to(torch.float64).diff(dim=0)


def _moving(clips: Clips, reference: Clips) -> Pair:
    clips, reference = comparable(clips, reference)
    if clips.shape[1] < 2:
        raise InputError(
            f"motion needs at least 2 frames in each clip, found clips of {tuple(clips.shape)}"
        )
    return clips, reference
