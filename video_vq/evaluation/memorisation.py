"""Measures whether samples copy training clips, and how much samples differ from each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from video_vq.data.clip_config import ClipConfig
from video_vq.data.loader import read_windows
from video_vq.data.windows import EpochClips, Window
from video_vq.stores.clips import ClipStore

THUMB = 16  # side of a thumbnail in pixels
CHUNK = 512
MAX_TRAIN_CLIPS = 50_000
SHARE = 0.01


class Neighbours(NamedTuple):
    """The nearest reference of each clip.

    Attributes:
        distance: RMS difference from the nearest reference, in gray levels.
        place: index of the nearest reference.
    """

    distance: Float[np.ndarray, "n"]
    place: np.ndarray


def thumbnails(clips: UInt8[torch.Tensor, "n t h w 3"]) -> Float[torch.Tensor, "n d"]:
    """Average each frame down to at most 16 x 16 pixels, and flatten each clip to a vector."""
    frames = rearrange(clips, "n t h w c -> (n t) c h w").float()
    small = F.adaptive_avg_pool2d(frames, min(THUMB, *frames.shape[-2:]))
    return rearrange(small, "(n t) c h w -> n (t h w c)", n=len(clips))


def nearest(
    queries: Float[torch.Tensor, "n d"], references: Float[torch.Tensor, "m d"]
) -> Neighbours:
    """Return the distance and the index of the nearest reference for each query."""
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    place = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(references), CHUNK):
        part = torch.cdist(queries.double(), references[start : start + CHUNK].double())
        distance, found = part.min(1)
        closer = distance < best
        best[closer] = distance[closer]
        place[closer] = found[closer] + start
    return Neighbours((best / queries.shape[1] ** 0.5).numpy(), place.numpy())


def memorisation(
    store: ClipStore,
    samples: Sequence[UInt8[np.ndarray, "t h w 3"]],
    held_out: Sequence[Window],
    num_frames: int,
    stride: int,
) -> tuple[dict[str, Any], Neighbours, list[Window]]:
    """Compare each sample with the training clips, using held-out clips as the baseline.

    If a model copies training clips, its samples are nearer to these clips than unseen real clips
    are. At most `MAX_TRAIN_CLIPS` training clips are used.

    Args:
        samples: sampled clips with `num_frames` frames each.
        held_out: windows of real clips that were not used for training.

    Returns:
        The scores as JSON, the neighbor of each sample among the training clips that were used,
        and the windows of these training clips, to which the neighbors' indices refer.
    """
    # Windows start half a clip apart, so that every frame is near the start of a window.
    hop = max(1, num_frames * stride // 2)
    rule = held_out[0].short_videos
    every = ClipConfig(num_frames, stride, windows="all", hop=hop, short_videos=rule)
    train = EpochClips(store, "train", every, seed=0).all()
    if len(train) > MAX_TRAIN_CLIPS:
        chosen = np.random.default_rng([0, 0x3E3]).choice(
            len(train), MAX_TRAIN_CLIPS, replace=False
        )
        train = [train[index] for index in np.sort(chosen)]
    references = _of_windows(store, train)
    of_samples = nearest(thumbnails(torch.from_numpy(np.stack(samples))), references)
    of_held_out = nearest(_of_windows(store, held_out), references)
    threshold = float(np.quantile(of_held_out.distance, SHARE))
    scores = {
        "num_train_clips": len(train),
        "samples_median": float(np.median(of_samples.distance)),
        "held_out_median": float(np.median(of_held_out.distance)),
        "held_out_nearest_1_percent": threshold,
        "share_nearer_than_that": float((of_samples.distance < threshold).mean()),
    }
    return scores, of_samples, train


def _of_windows(store: ClipStore, windows: Sequence[Window]) -> Float[torch.Tensor, "n d"]:
    parts = [
        thumbnails(read_windows(store, list(windows[start : start + 64])))
        for start in range(0, len(windows), 64)
    ]
    return torch.cat(parts)


def diversity(real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"]) -> dict[str, float]:
    """Return the mean squared feature distance among real clips and among samples, and the ratio.

    The features come from the FVD network. If the ratio of samples to real clips is below 1, the
    samples are more alike than real clips, so modes are missing. The mean over all pairs of clips
    is computed as twice the trace of the covariance.
    """
    spread = [2 * float(rows.astype(np.float64).var(0, ddof=1).sum()) for rows in (real, fake)]
    return {"real": spread[0], "samples": spread[1], "ratio": spread[1] / spread[0]}
