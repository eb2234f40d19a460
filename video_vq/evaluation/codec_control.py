"""Scores of video codecs on the evaluated clips, at the bit budgets of tokenizer and prior."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from video_vq.evaluation.evaluation_setup import EvaluationSetup
from video_vq.evaluation.reconstruction_scores import Copies, clip_metrics, quantiles, score_copies
from video_vq.media.codec import CODECS, CodecName, available_codecs, code_clip
from video_vq.metrics.perceptual import StLpips

COMPARED = ("psnr", "ssim", "st_lpips")


def codec_scores(
    setup: EvaluationSetup, st_lpips: StLpips | None, rates: Mapping[str, int | float]
) -> list[dict[str, Any]]:
    """Return the scores of every available codec at every bit budget, as JSON.

    All ranks must call this function.

    Args:
        st_lpips: ST-LPIPS network; None to skip this score.
        rates: number of bits per clip, by the name of the bit budget.
    """
    return [
        score_codec(setup, st_lpips, codec, rate, bits)
        for codec in available_codecs()
        for rate, bits in rates.items()
    ]


def score_codec(
    setup: EvaluationSetup, st_lpips: StLpips | None, codec: CodecName, rate: str, bits: int | float
) -> dict[str, Any]:
    """Return the scores of one codec at a given bit budget per clip, as JSON.

    All ranks must call this function. In the result, `payload_bits` is the mean number of bits that
    the codec used; this number can exceed `bits` if the codec cannot compress some clips enough.
    """

    def copy(clips: torch.Tensor) -> Copies:
        coded = [code_clip(clip.numpy(), codec, bits) for clip in clips]
        height = clips.shape[2]
        values = {
            "payload_bits": [one.payload_bits for one in coded],
            "file_bits": [one.file_bits for one in coded],
            "too_many": [one.payload_bits > bits for one in coded],
            "scaled": [one.form.size_hw[0] < height for one in coded],
        }
        return Copies(torch.from_numpy(np.stack([one.clip for one in coded])), values)

    title = CODECS[codec].title
    values, features = score_copies(
        setup, clip_metrics(st_lpips, setup.num_frames), copy, f"{title} copies"
    )
    return {
        "codec": codec,
        "title": title,
        "rate": rate,
        "bits_per_clip": bits,
        "payload_bits": float(values["payload_bits"].mean()),
        "file_bits": float(values["file_bits"].mean()),
        "share_above": float(values["too_many"].mean()),
        "share_scaled": float(values["scaled"].mean()),
        **{name: quantiles(values[name]) for name in COMPARED if name in values},
        "rfvd": setup.fvd(features),
    }


def psnr_controls(scores: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the PSNR of each codec at the tokens' bit budget, by name.

    The suffix "_above" marks codecs that exceeded the budget for at least one clip.
    """
    return {
        f"psnr_{one['codec']}" + ("_above" if one["share_above"] > 0 else ""): one["psnr"]["mean"]
        for one in scores
        if one["rate"] == "tokens"
    }
