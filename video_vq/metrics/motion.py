"""Motion of a copied clip relative to its original, and the change at latent frame boundaries.

Δ is the difference between a frame and the previous frame, at each pixel and color, in gray
levels.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64, Num
from torch import Tensor

from video_vq.errors import InputError
from video_vq.metrics.pairs import Pair, comparable
from video_vq.nn.inputs import Clips


def motion_energy_ratio_per_clip(clips: Clips, reference: Clips) -> Float64[Tensor, "b"]:
    """Return each clip's motion energy ratio, mean (Δ copy)² / mean (Δ original)².

    The ideal ratio is 1; a frozen copy has a ratio of 0. Below 1, motion is lost or blurred; above
    1, motion is exaggerated or the copy flickers. These effects can cancel, so read the ratio
    together with `flicker_per_clip`. The ratio is undefined (NaN) if the original does not move:
    average the other clips and report the number of NaNs.

    Args:
        clips: RGB in 0..255, uint8 or float (floats in [0, 1] are rejected), as tensors or arrays.
        reference: original clips, in any of the formats of `clips`.

    Raises:
        InputError: the shapes differ, the values are not RGB in 0..255, or the clips have a single
            frame.
    """
    clips, reference = _moving(clips, reference)
    ratios = []
    for clip, truth in zip(clips, reference, strict=True):
        energy, true_energy = (_steps(frames).square().mean() for frames in (clip, truth))
        ratios.append(torch.where(true_energy > 0, energy / true_energy, math.nan))
    return torch.stack(ratios)


def flicker_per_clip(clips: Clips, reference: Clips) -> Float64[Tensor, "b"]:
    """Return the flicker of each clip: the mean of max(0, |Δ copy| − |Δ original|), in gray levels.

    Flicker is 0 for a perfect copy, and for a copy that is frozen, blurred in time, or wrong in the
    same way in all frames: missing change is not flicker, and never compensates for change added
    elsewhere. If the original is static, flicker is the mean |Δ copy|, which is 2σ/√π for noise of
    standard deviation σ that is independent in each frame.

    Args:
        clips: RGB in 0..255, uint8 or float (floats in [0, 1] are rejected), as tensors or arrays.
        reference: original clips, in any of the formats of `clips`.

    Raises:
        InputError: the shapes differ, the values are not RGB in 0..255, or the clips have a single
            frame.
    """
    clips, reference = _moving(clips, reference)
    added = [
        (_steps(clip).abs_() - _steps(truth).abs_()).clamp_(min=0).mean()
        for clip, truth in zip(clips, reference, strict=True)
    ]
    return torch.stack(added)


def latent_starts(num_frames: int, stride_t: int, is_causal: bool) -> range:
    """Return the indices of the frames at which a latent frame begins, except for frame 0.

    Args:
        num_frames: number of frames in the clip.
        stride_t: number of frames per latent frame.
        is_causal: whether the clip's first frame has its own latent frame.
    """
    return range(1 if is_causal else stride_t, num_frames, stride_t)


def boundary_change_per_clip(
    clips: Clips, starts: Sequence[int], others: Sequence[int] | None = None
) -> Float64[Tensor, "b"]:
    """Return each clip's mean |Δ| at boundaries, divided by the mean |Δ| at other frames.

    Δ is the difference between a frame and the previous frame. The ratio is 1 if motion is
    independent of the boundaries, and 2 if a clip changes twice as much at the boundaries as
    elsewhere. The ratio is undefined (NaN) if a clip is static elsewhere.

    Args:
        clips: RGB in 0..255, uint8 or float (floats in [0, 1] are rejected), as tensors or arrays.
        starts: index of the first frame after each boundary, such as those from `latent_starts`.
        others: indices of the frames to compare with; None for all other frames except frame 0.

    Raises:
        InputError: the values are not RGB in 0..255, the clips have a single frame, an index is not
            in 1 … t - 1, or there are no boundaries or no frames to compare with.
    """
    clips, _ = _moving(clips, clips)
    last = clips.shape[1] - 1
    if others is None:
        others = sorted(set(range(1, last + 1)) - set(starts))
    if not starts or not others:
        raise InputError(
            f"clips of {last + 1} frames with boundaries before {len(starts)} and none before "
            f"{len(others)} of them leave nothing to compare; there must be changes at boundaries "
            "and elsewhere"
        )
    if not all(1 <= frame <= last for frame in (*starts, *others)):
        raise InputError(
            f"boundaries lie before the frames 1 to {last} of these clips, found "
            f"{min(*starts, *others)} to {max(*starts, *others)}"
        )
    ratios = []
    for clip in clips:
        change = _steps(clip).abs_().flatten(1).mean(1)
        there, elsewhere = (
            change[[frame - 1 for frame in frames]].mean() for frames in (starts, others)
        )
        ratios.append(torch.where(elsewhere > 0, there / elsewhere, math.nan))
    return torch.stack(ratios)


def boundary_flicker_per_clip(
    clips: Clips, reference: Clips, starts: Sequence[int]
) -> Float64[Tensor, "b"]:
    """Return the `boundary_change_per_clip` of each copy, divided by the value for the original.

    The ideal ratio is 1; above 1, the copy jumps from one latent frame to the next more than its
    original does. Dividing by the original's value cancels motion that happens to fall on a
    boundary. The ratio is 0 if the copy is static only at the boundaries. The ratio is undefined
    (NaN) if the copy is static elsewhere, or the original is static at the boundaries or elsewhere.

    Args:
        clips: RGB in 0..255, uint8 or float (floats in [0, 1] are rejected), as tensors or arrays.
        reference: original clips, in any of the formats of `clips`.
        starts: see `boundary_change_per_clip`.

    Raises:
        InputError: the shapes differ, or as for `boundary_change_per_clip`.
    """
    clips, reference = _moving(clips, reference)
    copied, true = (boundary_change_per_clip(each, starts) for each in (clips, reference))
    return torch.where(true > 0, copied / true, math.nan)


def _steps(clip: Num[Tensor, "t h w c"]) -> Float64[Tensor, "t-1 h w c"]:
    return clip.to(torch.float64).diff(dim=0)


def _moving(clips: Clips, reference: Clips) -> Pair:
    clips, reference = comparable(clips, reference)
    if clips.shape[1] < 2:
        raise InputError(
            f"motion needs at least 2 frames in each clip, found clips of {tuple(clips.shape)}"
        )
    return clips, reference
