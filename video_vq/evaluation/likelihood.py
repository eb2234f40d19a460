"""The rate of a prior on held-out tokens, compared with predictors that need no network.

A masked prior has no rate and is scored by the cross entropy of hidden tokens.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from einops import rearrange

from video_vq.data.loader import read_grids
from video_vq.metrics.predictors import score_predictors, token_entropy
from video_vq.models.masked_prior import MaskedPrior
from video_vq.models.prior import Prior, clip_nats, token_nats
from video_vq.models.priors import AnyPrior, hidden_in_scoring, prior_inputs, rate_name
from video_vq.progress import progress
from video_vq.stores.tokens import TokenStore, codes_of_levels

LN2 = math.log(2)
BATCH = 16
PREDICTOR_GRIDS = 16384  # maximum number of grids for fitting the predictors
PREDICTORS = {
    "token_frequencies": "unigram",
    "frequencies_per_position": "per_position",
    "copy_previous_frame": "copy_previous",
}


class _Rate(NamedTuple):
    """The index of a clip among the rows, the group of its source video, and the bits per token.

    `bits` has one value per latent frame or, for a masked prior, a single value for all hidden
    tokens.
    """

    place: int
    group: str
    bits: list[float]


def draw_rows(tokens: TokenStore, split: str, count: int) -> np.ndarray:
    """Return the indices of at most `count` random rows of a split, in ascending order."""
    rows = tokens.rows(split)
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng([0, 0x9D]).choice(rows, count, replace=False))


def score_prior(
    accelerator: Accelerator, prior: AnyPrior, tokens: TokenStore, split: str
) -> dict[str, Any]:
    """Score a prior's predictions of the tokens in one split; all ranks must call this function.

    A masked prior is scored by the cross entropy of hidden tokens; the row of a clip determines
    which tokens are hidden. This cross entropy is not a rate, because tokens that are sampled in
    the same step are not conditioned on each other.
    """
    if isinstance(prior, MaskedPrior):
        return _score_masked(accelerator, prior, tokens, split)
    return _score_rate(accelerator, prior, tokens, split)


def _score_masked(
    accelerator: Accelerator, prior: MaskedPrior, tokens: TokenStore, split: str
) -> dict[str, Any]:
    rates, name = _rates(accelerator, prior, tokens, tokens.rows(split)), rate_name(prior)
    return {
        "split": split,
        "num_grids": len(rates),
        name: float(np.mean([rate.bits for rate in rates])),
        "clips": [{"group": rate.group, name: float(np.mean(rate.bits))} for rate in rates],
    }


def _score_rate(
    accelerator: Accelerator, prior: Prior, tokens: TokenStore, split: str
) -> dict[str, Any]:
    """Return the bits per token on one split, overall and per latent frame.

    All ranks must call this function. The rate applies to these tokens and is not comparable with
    pixel likelihoods. The predictors (metrics/predictors.py) are fitted on the train split; `gain`
    is the number of bits per token that the prior saves over each predictor. All codes at a
    position form one token; the predictors treat each level separately, and the bits of all levels
    are summed.
    """
    rows = tokens.rows(split)
    rates = _rates(accelerator, prior, tokens, rows)
    by_frame = np.array([rate.bits for rate in rates])
    bits = float(by_frame.mean())
    train = draw_rows(tokens, "train", PREDICTOR_GRIDS)
    held_out = tokens.read_rows(rows)
    videos = np.array([tokens.window_of(int(row))[0] for row in train])
    train_grids = tokens.read_rows(train)
    levels = [
        (score_predictors(fitted, scored, size, videos), token_entropy(scored, size))
        for fitted, scored, size in zip(
            *(
                codes_of_levels(train_grids, tokens.header),
                codes_of_levels(held_out, tokens.header),
            ),
            tokens.header.vocabulary,
            strict=True,
        )
    ]
    predictors = {
        name: (
            sum(getattr(scores, key) for scores, _ in levels),
            np.sum([getattr(scores, f"{key}_curve") for scores, _ in levels], axis=0),
        )
        for name, key in PREDICTORS.items()
    }
    return {
        "split": split,
        "num_grids": len(rows),
        "bits_per_token": bits,
        "bits_per_token_by_latent_frame": by_frame.mean(0).tolist(),
        "clips": [
            {"group": rate.group, "bits_per_token": float(np.mean(rate.bits))} for rate in rates
        ],
        "bits_per_clip": bits * math.prod(tokens.header.grid_thw),
        "token_entropy": sum(entropy for _, entropy in levels),
        "predictors": {name: rate for name, (rate, _) in predictors.items()},
        "predictors_by_latent_frame": {
            name: curve.tolist() for name, (_, curve) in predictors.items()
        },
        "gain": {name: rate - bits for name, (rate, _) in predictors.items()},
        "copy_error_rate": sum(scores.copy_error_rate for scores, _ in levels) / len(levels),
        "num_grids_of_predictors": len(train),
    }


@torch.no_grad()
def _rates(
    accelerator: Accelerator, prior: AnyPrior, tokens: TokenStore, rows: np.ndarray
) -> list[_Rate]:
    """Return the rates of all clips on every rank, independent of the number of ranks."""
    starts = range(0, len(rows), BATCH)
    mine = starts[accelerator.process_index :: accelerator.num_processes]
    found: list[_Rate] = []
    with progress("rate", len(mine) * BATCH, "clip") as bar:
        for start in mine:
            chosen = rows[start : start + BATCH].tolist()
            batch = read_grids(tokens, chosen).flat(accelerator.device)
            with accelerator.autocast():
                hidden = hidden_in_scoring(prior, chosen)
                logits = prior(*prior_inputs(batch, hidden))
            nats = token_nats(logits, batch.tokens, prior.sub_codes).double()
            if hidden is None:
                parts = rearrange(nats, "b (t n) -> b t n", t=tokens.header.grid_thw[0]).mean(2)
            else:
                parts = clip_nats(nats, hidden)[:, None]
            bits = (parts / LN2).tolist()
            found += [
                _Rate(start + place, tokens.video_of(row).group, bits[place])
                for place, row in enumerate(chosen)
            ]
            bar.update(len(chosen))
    return sorted(gather_object(found))
