"""Measures the motion of a copied clip relative to its original, and changes at boundaries.

Δ is the difference between a frame and the one before it, at each pixel and colour, in grey levels.
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
    """Return the mean of (Δ copy)² over the mean of (Δ original)².

    The ideal value is 1, and that of a frozen copy is 0. Below 1, motion is lost or blurred; above
    1, it is exaggerated or the copy flickers. As the two can cancel, read it together with
    `flicker_per_clip`. For an original without motion it is undefined (NaN): average the other
    clips and report the number of NaNs.

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
    """Return the change that a copy adds, the mean of max(0, |Δ copy| − |Δ original|), in levels.

    It is 0 for a perfect copy, and for one that is frozen, blurred in time, or wrong in the same
    way in all frames: missing change is not flicker, and never compensates for change added
    elsewhere. Where the original is static, it is the mean |Δ copy|, which is 2σ/√π for noise of
    standard deviation σ that is independent in each frame.

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


def latent_starts(num_frames: int, stride_t: int, is_causal: bool) -> range:
    """Return the frames at which a latent frame begins, except for the clip's first frame.

    Args:
        num_frames: number of frames in the clip.
        stride_t: number of frames that a latent frame covers.
        is_causal: whether the clip's first frame has its own latent frame.
    """
    return range(1 if is_causal else stride_t, num_frames, stride_t)


def boundary_change_per_clip(
    clips: Clips, starts: Sequence[int], others: Sequence[int] | None = None
) -> Float64[Tensor, "b"]:
    """Return the mean |Δ| before certain frames over the mean |Δ| before others.

    It is 1 if motion is independent of the boundaries, and 2 if a clip changes twice as much there
    as elsewhere. It is undefined (NaN) for a clip that is static elsewhere.

    Args:
        clips: uint8, or float in 0..255 (in [0, 1] is an error); tensors or NumPy arrays.
        starts: the frames at which a new unit begins, as returned by `latent_starts`.
        others: frames to compare with; None for all other frames except the first.

    Raises:
        InputError: the values are not RGB in 0..255, a frame is not in 1 … t - 1, or there is
            nothing to compare.
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
    """Return `boundary_change_per_clip` of a copy over that of its original.

    1 is ideal; above 1, the copy shimmers, that is, it jumps from one latent frame to the next more
    than its original does. Dividing by the value of the original cancels motion that happens to
    fall on a boundary. It is undefined (NaN) if either is static on one side of the comparison, and
    0 for a copy that is static only at the boundaries.

    Args:
        clips: uint8, or float in 0..255 (in [0, 1] is an error); tensors or NumPy arrays.
        reference: the clips that `clips` should equal, in either form.
        starts: see `boundary_change_per_clip`.

    Raises:
        InputError: the shapes differ; or as for `boundary_change_per_clip`.
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
