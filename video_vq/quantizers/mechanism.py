"""Metrics for the gradient estimator's effect on a batch, cheap enough to log regularly."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from video_vq.quantizers.gradient import norm_ratio, rotate_back
from video_vq.quantizers.rows import QuantizedRows

MAX_ROWS = 16384  # the metrics use at most this many rows, evenly spaced
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


@torch.no_grad()
def mechanism(rows: QuantizedRows, gradient: Float[Tensor, "n d"]) -> dict[str, float]:
    """Return metrics for the estimator's effect on one rank's batch.

    `angle_…` are quantiles of the angle between e and q in degrees, `obtuse_share` is the fraction
    of angles beyond 90°, `ratio_…` are quantiles of λ = |q|/|e|, and `latent_norm_…` quantiles of
    the norms of the projected latents. `distortion` is the fraction of the compared latents'
    variance that the codes do not explain; `rotated_cosine` is the mean cosine between the
    straight-through gradient g and the rotated gradient Rᵀg, whichever estimator is in use.

    Args:
        rows: rows of a forward pass.
        gradient: g = dL/dq̃, the gradient of `rows.passed`.
    """
    step = row_step(rows)
    latents, e, q = (value.detach()[::step].float() for value in (rows.latents, rows.e, rows.q))
    angle = angles(e, q)
    g = gradient[::step].float()
    rotated = rotate_back(e, q, g, torch.ones(1, 1, device=g.device))
    compared, code = (x.detach()[::step].float() for x in (rows.compared, rows.code))
    spread = (compared - compared.mean(0)).square().sum()
    figures = {
        "rotated_cosine": torch.cosine_similarity(g, rotated, dim=1, eps=1e-30).mean(),
        "obtuse_share": (angle > 90).float().mean(),
        "distortion": (compared - code).square().sum() / spread.clamp(min=1e-30),
    }
    quantities = {
        "angle": angle,
        "ratio": norm_ratio(e, q).squeeze(1),
        "latent_norm": torch.linalg.vector_norm(latents, dim=1),
    }
    for name, values in quantities.items():
        for percent, share in QUANTILES.items():
            figures[f"{name}_{percent}"] = torch.quantile(values, share)
    return {name: float(value) for name, value in figures.items()}


def row_step(rows: QuantizedRows) -> int:
    """Return the step n such that the metrics use every n-th row."""
    return max(1, -(-len(rows.e) // MAX_ROWS))


def angles(e: Float[Tensor, "n d"], q: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Return the angle in degrees between corresponding rows of e and q."""
    cosine = torch.cosine_similarity(e, q, dim=1, eps=1e-12).clamp(-1, 1)
    return torch.rad2deg(torch.acos(cosine))


@torch.no_grad()
def changed_share(before: Int[Tensor, "..."], after: Int[Tensor, "..."]) -> float:
    """Return the fraction of tokens whose code has changed."""
    return float((before != after).double().mean())
