"""Scores of reconstructions, clip by clip, shared among the ranks: how close, how alive."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from video_vq.data.loader import read_windows
from video_vq.data.windows import Window
from video_vq.evaluation.feature_cache import clip_key
from video_vq.evaluation.features import BATCH, Extractor, FeatureSet
from video_vq.evaluation.scored_clip import read_clip
from video_vq.metrics.code_usage import CodeUsage
from video_vq.metrics.motion import flicker_per_clip, motion_energy_ratio_per_clip
from video_vq.metrics.perceptual import StLpips, st_lpips_per_clip
from video_vq.metrics.reconstruction import psnr_per_clip, ssim_per_clip
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import sha256_json

ClipMetric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

METRICS: dict[str, ClipMetric] = {
    "psnr": psnr_per_clip,
    "ssim": ssim_per_clip,
    "motion_energy_ratio": motion_energy_ratio_per_clip,
    "flicker": flicker_per_clip,
}


class Reconstructions(NamedTuple):
    """What came back.

    Attributes:
        values: per metric a number for each clip; infinite or NaN where it is not defined.
        features: of the reconstructions, paired with the real clips.
        usage: code usage over the whole split.
        code_counts: how often each code occurs, largest first.
    """

    values: dict[str, np.ndarray]
    features: FeatureSet
    usage: dict[str, Any]
    code_counts: list[int]


def reconstruct(
    accelerator: Accelerator, tokenizer: VideoTokenizer, clips: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of uint8 clips, and what they decode to, uint8, on the CPU.

    A tokenizer that does not quantize decodes its latents.
    """
    clips = clips.to(accelerator.device)
    with accelerator.autocast():
        codes = tokenizer.encode(clips)
        video = tokenizer.decode(codes) if tokenizer.quantizes else tokenizer.reconstruct(clips)
    return codes.cpu(), to_uint8(video).cpu()


def score_reconstructions(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    store: ClipStore,
    windows: Sequence[Window],
    extractor: Extractor,
    scored_frames: int,
    st_lpips: StLpips | None,
) -> Reconstructions:
    """Reconstruct and score every window; collective, every rank gets all.

    Args:
        scored_frames: of a clip, that FVD sees.
        st_lpips: the network, None to leave the score out.
    """
    metrics = dict(METRICS)
    if st_lpips is not None:
        metrics["st_lpips"] = lambda copy, real: st_lpips_per_clip(copy, real, st_lpips)
    usage = CodeUsage(tokenizer.config.quantizer.codebook_size).to(accelerator.device)
    # Whole batches go to the ranks in turn, so that code usage per batch does not depend on them.
    batches = [
        range(start, min(start + BATCH, len(windows))) for start in range(0, len(windows), BATCH)
    ]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    found: list[dict[str, Any]] = []
    with progress("reconstructions", sum(map(len, mine)), "clip") as bar:
        for places in mine:
            clips = read_windows(store, [windows[place] for place in places])
            codes, copies = reconstruct(accelerator, tokenizer, clips)
            usage.update(codes.to(accelerator.device))
            scored = copies[:, :scored_frames]
            keys = [clip_key(clip.numpy()) for clip in scored]
            rows = extractor(keys, [read_clip(clip) for clip in scored])
            values = {name: metric(copies, clips) for name, metric in metrics.items()}
            for row, place in enumerate(places):
                found.append(
                    {
                        "place": place,
                        "values": {name: float(each[row]) for name, each in values.items()},
                        "rows": {name: each[row] for name, each in rows.items()},
                        "key": keys[row].hex(),
                    }
                )
            bar.update(len(places))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    found.sort(key=lambda one: one["place"])
    use = usage.compute()._asdict()
    counts = accelerator.reduce(usage.counts.clone(), "sum")
    features = FeatureSet(
        "reconstructed",
        {name: np.stack([one["rows"][name] for one in found]) for name in found[0]["rows"]},
        tuple(store.videos[window.video].group for window in windows),
        (),
        sha256_json([one["key"] for one in found]),
        None,
        {},
    )
    return Reconstructions(
        {name: np.array([one["values"][name] for one in found]) for name in metrics},
        features,
        use,
        torch.as_tensor(counts).sort(descending=True).values.tolist(),
    )


def quantiles(values: np.ndarray) -> dict[str, float | int | None]:
    """Return mean and quantiles of the finite values, and how many were not.

    An exact copy has an infinite PSNR; a still original no motion-energy ratio.
    """
    finite = values[np.isfinite(values)]
    left_out = {
        "num_exact": int(np.isposinf(values).sum()),
        "num_undefined": int(np.isnan(values).sum()),
    }
    if not len(finite):
        return {"mean": None, **left_out}
    low, median, high = (float(point) for point in np.quantile(finite, [0.05, 0.5, 0.95]))
    return {
        "mean": float(finite.mean()),
        "q05": low,
        "median": median,
        "q95": high,
        **left_out,
    }


def per_clip(
    store: ClipStore, windows: Sequence[Window], values: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return a line per clip; what is not finite is null."""
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
