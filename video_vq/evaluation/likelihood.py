"""The rate of a prior on held-out tokens, beside predictors that need no network."""

import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from einops import rearrange

from video_vq.metrics.predictors import score_predictors
from video_vq.models.prior import Prior, token_nats
from video_vq.progress import progress
from video_vq.stores.tokens import TokenStore

LN2 = math.log(2)
BATCH = 16
PREDICTOR_GRIDS = 16384  # what the predictors are fitted on, at most


def draw_rows(tokens: TokenStore, split: str, count: int) -> np.ndarray:
    """Return at most so many rows of a split, drawn among all, in order."""
    rows = tokens.rows(split)
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng([0, 0x9D]).choice(rows, count, replace=False))


@torch.no_grad()
def score_prior(
    accelerator: Accelerator, prior: Prior, tokens: TokenStore, split: str
) -> dict[str, Any]:
    """Return bits per token of a prior on one split, in all and per latent frame.

    The predictors (metrics/predictors.py) are fitted on the train split.
    """
    rows = [int(row) for row in tokens.rows(split)]
    per_frame = np.zeros(tokens.header.grid_thw[0])
    per_clip: list[dict[str, Any]] = []
    with progress("rate", len(rows), "clip") as bar:
        for start in range(0, len(rows), BATCH):
            chosen = rows[start : start + BATCH]
            grids = np.stack([tokens.read(row) for row in chosen]).astype(np.int64)
            flat = torch.from_numpy(grids.reshape(len(grids), -1)).to(accelerator.device)
            labels = torch.tensor([tokens.class_of(row) for row in chosen])
            with accelerator.autocast():
                logits = prior(
                    flat,
                    labels.to(accelerator.device) if tokens.header.classes else None,
                )
            nats = token_nats(logits, flat).double().cpu().numpy()
            frames = rearrange(nats, "b (t n) -> b t n", t=len(per_frame))
            per_frame += frames.mean(2).sum(0)
            per_clip += [
                {"group": tokens.video_of(row).group, "bits_per_token": float(clip.mean() / LN2)}
                for row, clip in zip(chosen, frames, strict=True)
            ]
            bar.update(len(chosen))
    per_frame /= len(rows) * LN2
    train = draw_rows(tokens, "train", PREDICTOR_GRIDS)
    videos = [tokens.window_of(int(row))[0] for row in train]
    rates = score_predictors(
        tokens.read_rows(train),
        tokens.read_rows(tokens.rows(split)),
        tokens.header.codebook_size,
        np.array(videos),
    )
    return {
        "split": split,
        "num_grids": len(rows),
        "bits_per_token": float(per_frame.mean()),
        "bits_per_token_by_latent_frame": [float(value) for value in per_frame],
        "clips": per_clip,
        "bits_per_clip": float(per_frame.mean()) * math.prod(tokens.header.grid_thw),
        "predictors": {
            "token_frequencies": rates.unigram,
            "frequencies_per_position": rates.per_position,
            "copy_previous_frame": rates.copy_previous,
        },
        "copy_error_rate": rates.copy_error_rate,
        "num_grids_of_predictors": len(train),
    }
