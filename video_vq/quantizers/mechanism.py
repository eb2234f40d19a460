"""What the gradient estimator does to a batch: numbers for the log, cheap enough to leave on."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from video_vq.quantizers.gradient import norm_ratio, rotate_back
from video_vq.quantizers.rows import QuantizedRows

MAX_ROWS = 16384  # figures are of at most so many rows, evenly spaced
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


@torch.no_grad()
def mechanism(rows: QuantizedRows, gradient: Float[Tensor, "n d"]) -> dict[str, float]:
    """Return figures of one batch of one rank.

    `angle_…` between e and q in degrees; `ratio_…` quantiles of λ = |q|/|e|; `latent_norm_…` of the
    projected latents; `rotated_cosine` the mean cosine between the straight-through gradient g and
    the rotated one, Rᵀg, whichever estimator is in use.

    Args:
        rows: of a forward pass.
        gradient: g = dL/dq̃, the gradient of `rows.passed`.
    """
    step = max(1, -(-len(rows.e) // MAX_ROWS))
    latents, e, q = (value.detach()[::step].float() for value in (rows.latents, rows.e, rows.q))
    cosine = torch.cosine_similarity(e, q, dim=1, eps=1e-12).clamp(-1, 1)
    g = gradient[::step].float()
    rotated = rotate_back(e, q, g, torch.ones(1, 1, device=g.device))
    figures = {"rotated_cosine": torch.cosine_similarity(g, rotated, dim=1, eps=1e-30).mean()}
    quantities = {
        "angle": torch.rad2deg(torch.acos(cosine)),
        "ratio": norm_ratio(e, q).squeeze(1),
        "latent_norm": torch.linalg.vector_norm(latents, dim=1),
    }
    for name, values in quantities.items():
        for percent, share in QUANTILES.items():
            figures[f"{name}_{percent}"] = torch.quantile(values, share)
    return {name: float(value) for name, value in figures.items()}


@torch.no_grad()
def changed_share(before: Int[Tensor, "..."], after: Int[Tensor, "..."]) -> float:
    """Return the fraction of the same tokens that have another code now."""
    return float((before != after).double().mean())
