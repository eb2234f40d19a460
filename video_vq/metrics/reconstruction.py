"""PSNR and SSIM of reconstructed clips, one value per clip."""

import torch
from jaxtyping import Float64, Num
from torch import Tensor

from video_vq.errors import InputError
from video_vq.metrics.pairs import comparable
from video_vq.nn.inputs import Clips

DATA_RANGE = 255.0
SSIM_WINDOW = 11  # pixels, Gaussian with sigma 1.5


def psnr_per_clip(clips: Clips, reference: Clips) -> Float64[Tensor, "b"]:
    """Return each clip's PSNR, 10·log10(255² / MSE) in dB, with the MSE over the whole clip.

    The PSNR of identical clips is infinite: average the other clips and report the number of
    infinite values, or use quantiles.

    Args:
        clips: RGB in 0..255, uint8 or float (floats in [0, 1] are rejected), as tensors or arrays.
        reference: original clips, in any of the formats of `clips`.

    Raises:
        InputError: the shapes differ, or the values are not RGB in 0..255.
    """
    clips, reference = comparable(clips, reference)
    errors = [
        (clip.to(torch.float64) - truth.to(torch.float64)).square_().mean()
        for clip, truth in zip(clips, reference, strict=True)
    ]
    return 10.0 * torch.log10(DATA_RANGE**2 / torch.stack(errors))


def ssim_per_clip(clips: Clips, reference: Clips) -> Float64[Tensor, "b"]:
    """Return each clip's structural similarity (SSIM), averaged over its frames.

    The settings are those of Wang et al. 2004: a Gaussian window of 11 pixels, sigma 1.5, K1 =
    0.01, K2 = 0.03. SSIM is computed per channel in float64, over the windows that lie inside the
    frame.

    Args:
        clips: RGB in 0..255, uint8 or float (floats in [0, 1] are rejected), as tensors or arrays.
        reference: original clips, in any of the formats of `clips`.

    Raises:
        InputError: the shapes differ, the values are not RGB in 0..255, or the frames are smaller
            than the window.
    """
    clips, reference = comparable(clips, reference)
    if min(clips.shape[2:4]) < SSIM_WINDOW:
        raise InputError(
            f"SSIM needs frames of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, found "
            f"{clips.shape[2]} x {clips.shape[3]}"
        )
    return torch.stack(
        [_similarity(clip, truth) for clip, truth in zip(clips, reference, strict=True)]
    )


def _similarity(
    clip: Num[Tensor, "t h w c"], reference: Num[Tensor, "t h w c"]
) -> Float64[Tensor, ""]:
    # torchmetrics takes as long to import as torch.
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, similarity = structural_similarity_index_measure(
        _frames(clip), _frames(reference), data_range=DATA_RANGE, return_full_image=True
    )
    # The mean that torchmetrics returns includes windows that extend into mirrored pixels.
    border = SSIM_WINDOW // 2
    return similarity[..., border:-border, border:-border].mean()


def _frames(clip: Num[Tensor, "t h w c"]) -> Float64[Tensor, "t c h w"]:
    return clip.movedim(-1, 1).to(torch.float64)
