"""Scores of each reconstruction and its motion, computed in parallel by all ranks."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float64, UInt8
from torch import Tensor

from video_vq.data.loader import read_windows
from video_vq.data.windows import Window
from video_vq.evaluation.evaluation_setup import EvaluationSetup
from video_vq.evaluation.feature_cache import clip_key
from video_vq.evaluation.features import BATCH, FeatureSet
from video_vq.evaluation.gallery import Pair, places_to_show
from video_vq.evaluation.scored_clip import read_clip
from video_vq.metrics.code_usage import CodeUsage
from video_vq.metrics.motion import (
    boundary_flicker_per_clip,
    flicker_per_clip,
    latent_starts,
    motion_energy_ratio_per_clip,
)
from video_vq.metrics.perceptual import StLpips, st_lpips_per_clip
from video_vq.metrics.reconstruction import psnr_per_clip, ssim_per_clip
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import sha256_json

ClipMetric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ReconstructionScores(NamedTuple):
    """The scores of the reconstructions, with their features and some pairs of clips to show.

    Attributes:
        scores: scores as JSON.
        features: features of the reconstructions, in the order of the real clips.
        pairs: real clips to show with their reconstructions, by role; empty except on rank 0.
    """

    scores: dict[str, Any]
    features: FeatureSet
    pairs: dict[str, list[Pair]]


def reconstruct(
    accelerator: Accelerator, tokenizer: VideoTokenizer, clips: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes and the uint8 reconstructions of uint8 clips, both on the CPU.

    A tokenizer that does not quantize decodes its continuous latents instead of the codes.
    """
    clips = clips.to(accelerator.device)
    with accelerator.autocast():
        codes = tokenizer.encode(clips)
        video = tokenizer.decode(codes) if tokenizer.quantizes else tokenizer.reconstruct(clips)
    return codes.cpu(), to_uint8(video).cpu()


class Copies(NamedTuple):
    """Copies of a batch of clips, with additional values for each clip.

    Attributes:
        clips: copies, in the order and with the shape of the original clips.
        values: one value per clip, by name.
    """

    clips: UInt8[Tensor, "b t h w 3"]
    values: dict[str, Sequence[float]]


class ScoredCopies(NamedTuple):
    """The scores by name, and the features, for copies of all clips in an evaluation."""

    values: dict[str, Float64[np.ndarray, " n"]]
    features: FeatureSet


class _Scored(NamedTuple):
    place: int
    values: dict[str, float]
    rows: dict[str, np.ndarray]
    key: str


def clip_metrics(st_lpips: StLpips | None, num_frames: int) -> dict[str, ClipMetric]:
    """Return the metrics for clips with a given number of frames, by name.

    Motion is not scored for clips of a single frame.

    Args:
        st_lpips: ST-LPIPS network; None to skip this score.
    """
    metrics: dict[str, ClipMetric] = {"psnr": psnr_per_clip, "ssim": ssim_per_clip}
    if num_frames > 1:
        metrics["motion_energy_ratio"] = motion_energy_ratio_per_clip
        metrics["flicker"] = flicker_per_clip
    if st_lpips is not None:
        metrics["st_lpips"] = lambda copy, real: st_lpips_per_clip(copy, real, st_lpips)
    return metrics


def score_reconstructions(setup: EvaluationSetup, st_lpips: StLpips | None) -> ReconstructionScores:
    """Score the reconstructions: PSNR, SSIM, motion, flicker, ST-LPIPS, code usage and rFVD.

    All ranks must call this function; every rank gets all scores.

    Args:
        st_lpips: ST-LPIPS network; None to skip this score.
    """
    accelerator, tokenizer, store = setup.accelerator, setup.tokenizer, setup.store
    backbone = tokenizer.config.backbone
    metrics = clip_metrics(st_lpips, setup.num_frames)
    starts = latent_starts(setup.num_frames, backbone.total_stride_thw[0], backbone.causal)
    if 0 < len(starts) < setup.num_frames - 1:  # there are boundaries, and other frames
        metrics["boundary_flicker"] = partial(boundary_flicker_per_clip, starts=starts)
    vocabulary = tokenizer.config.quantizer.vocabulary
    usage = CodeUsage(vocabulary, accelerator.device)

    def copy(clips: UInt8[Tensor, "b t h w 3"]) -> Copies:
        codes, copies = reconstruct(accelerator, tokenizer, clips)
        usage.update(codes.to(accelerator.device))
        return Copies(copies, {})

    values, features = score_copies(setup, metrics, copy, "reconstructed")
    total = usage.over_ranks()
    grid_thw = backbone.grid_thw((setup.num_frames, *store.frame_size_hw))
    bits = math.prod(grid_thw) * math.log2(tokenizer.config.quantizer.codebook_size)
    use = total.of_this_rank()
    scores = {
        **{name: quantiles(each) for name, each in values.items()},
        "rfvd": setup.fvd(features),
        "codebook": {**use._asdict(), "levels": [level._asdict() for level in use.levels]},
        "vocabulary": list(vocabulary),
        "code_counts": [  # one list per level, with the most used codes first
            level.sort(descending=True).values.tolist()
            for level in total.counts.split(list(vocabulary))
        ],
        "clips": per_clip(store, setup.windows, values),
        "bits_per_clip": bits,
        "bits_per_second": _per_second(setup, bits),
    }
    pairs = _pairs(setup, values["psnr"]) if accelerator.is_main_process else {}
    return ReconstructionScores(scores, features, pairs)


def score_copies(
    setup: EvaluationSetup,
    metrics: dict[str, ClipMetric],
    copy: Callable[[UInt8[Tensor, "b t h w 3"]], Copies],
    name: str,
) -> ScoredCopies:
    """Copy and score every clip.

    All ranks must call this function; every rank gets all scores. Each batch is processed by one
    rank, so the composition of the batches does not depend on the number of ranks.

    Args:
        metrics: functions from copies and real clips to one value per clip, by name.
        copy: function that makes copies of a batch of clips.
        name: name of the copies.
    """
    accelerator, windows = setup.accelerator, setup.windows
    starts = range(0, len(windows), BATCH)[accelerator.process_index :: accelerator.num_processes]
    batches = [range(start, min(start + BATCH, len(windows))) for start in starts]
    found: list[_Scored] = []
    with progress(name, sum(map(len, batches)), "clip") as bar:
        for places in batches:
            clips = read_windows(setup.store, [windows[place] for place in places])
            copies, others = copy(clips)
            scored = copies[:, : setup.scored_frames]
            keys = [clip_key(clip.numpy()) for clip in scored]
            rows = setup.extractor(keys, [read_clip(clip) for clip in scored])
            values = {**others, **{key: metric(copies, clips) for key, metric in metrics.items()}}
            found += [
                _Scored(
                    place,
                    {key: float(each[row]) for key, each in values.items()},
                    {key: each[row] for key, each in rows.items()},
                    keys[row].hex(),
                )
                for row, place in enumerate(places)
            ]
            bar.update(len(places))
    found = sorted(gather_object(found), key=lambda one: one.place)
    features = FeatureSet(
        name,
        {key: np.stack([one.rows[key] for one in found]) for key in found[0].rows},
        tuple(setup.store.videos[window.video].group for window in windows),
        (),
        sha256_json([one.key for one in found]),
        None,
        {},
    )
    scores = {key: np.array([one.values[key] for one in found]) for key in found[0].values}
    return ScoredCopies(scores, features)


def _per_second(setup: EvaluationSetup, bits_per_clip: float) -> float | None:
    fps = {setup.store.videos[window.video].fps for window in setup.windows}
    (rate,) = fps if len(fps) == 1 else (None,)
    return None if rate is None else bits_per_clip * rate / (setup.num_frames * setup.stride)


def _pairs(setup: EvaluationSetup, psnr: np.ndarray) -> dict[str, list[Pair]]:
    pairs: dict[str, list[Pair]] = {}
    ids = [setup.store.videos[window.video].id for window in setup.windows]
    for role, places in places_to_show(psnr, ids).items():
        windows = [setup.windows[place] for place in places]
        clips = read_windows(setup.store, windows)
        _, copies = reconstruct(setup.accelerator, setup.tokenizer, clips)
        videos = [setup.store.videos[window.video] for window in windows]
        pairs[role] = [
            Pair(
                clips[row].numpy(),
                copies[row].numpy(),
                (videos[row].id, windows[row].start),
                videos[row].label,
                float(psnr[place]),
            )
            for row, place in enumerate(places)
        ]
    return pairs


def quantiles(values: np.ndarray) -> dict[str, float | int | None]:
    """Return the mean and quantiles of the finite values, and the number of other values.

    The PSNR of an exact copy is infinite, and the motion-energy ratio of a still original is NaN.
    """
    finite = values[np.isfinite(values)]
    left_out = {
        "num_exact": int(np.isposinf(values).sum()),
        "num_undefined": int(np.isnan(values).sum()),
    }
    if not len(finite):
        return {"mean": None, **left_out}
    low, median, high = (float(point) for point in np.quantile(finite, [0.05, 0.5, 0.95]))
    return {"mean": float(finite.mean()), "q05": low, "median": median, "q95": high, **left_out}


def per_clip(
    store: ClipStore, windows: Sequence[Window], values: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return one JSON entry per clip, with None for values that are not finite."""
    return [
        {
            "video": store.videos[window.video].id,
            "group": store.videos[window.video].group,
            "start": window.start,
            **{
                name: float(each[place]) if math.isfinite(each[place]) else None
                for name, each in values.items()
            },
        }
        for place, window in enumerate(windows)
    ]
