"""Comparison of each estimator's gradient with the exact gradient on the same batch."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from video_vq.quantizers import gradient
from video_vq.quantizers.mechanism import angles, row_step
from video_vq.quantizers.rows import QuantizedRows
from video_vq.quantizers.substitutes import diveq

# `rotation_dynamic` only scales rows, so its cosines equal those of `rotation`. Noise substitution
# passes the copied gradient on average. The Gumbel-softmax gradient depends on all codes.
COMPARED = (
    "straight_through", "scaled", "rotation", "rotation_unit", "rotation_clipped",
    "rotation_blended", "reflection", "diveq",
)  # fmt: skip
BIN = 15  # degrees; the last bin holds all angles beyond 90


def exactness(
    rows: QuantizedRows,
    g: Float[Tensor, "n d"],
    exact: Float[Tensor, "n d"],
    others: Mapping[str, Float[Tensor, "n d"]],
) -> tuple[dict[str, float], Float[Tensor, "7 5"]]:
    """Compare the exact gradient, h, with the gradients that the estimators would return.

    `exact_cosine_NAME` is the mean over rows of the cosine between a row's gradient and h;
    `exact_batch_cosine_NAME` is the cosine for all rows joined into one vector, in which rows with
    large gradients weigh more.

    Args:
        rows: rows of a forward pass.
        g: dL/dq̃, the gradient of `rows.passed`.
        exact: h, the exact gradient at the latents that are compared with the codes.
        others: further gradients to compare, by name.

    Returns:
        The metrics, and sums for each range of angles, to be added up over ranks and passed to
        `by_angle`.
    """
    step = row_step(rows)
    e, q = rows.e.detach()[::step].float(), rows.q.detach()[::step].float()
    g, h = g[::step].float(), exact[::step].float()
    passed = {name: gradient_of(name, e, q, g) for name in COMPARED}
    figures: dict[str, float] = {}
    for name, found in {**passed, **{n: x[::step].float() for n, x in others.items()}}.items():
        figures[f"exact_cosine_{name}"] = float(_cosine(found, h).mean())
        whole = torch.cosine_similarity(found.flatten(), h.flatten(), dim=0, eps=1e-30)
        figures[f"exact_batch_cosine_{name}"] = float(whole)
    return figures, _sums_by_angle(angles(e, q), g, passed["rotation"], h)


def gradient_of(
    name: str, e: Float[Tensor, "n d"], q: Float[Tensor, "n d"], g: Float[Tensor, "n d"]
) -> Float[Tensor, "n d"]:
    """Return the gradient dL/de that an estimator computes from g; DiVeQ is used without noise."""
    with torch.enable_grad():
        leaf = e.detach().requires_grad_()
        passed = diveq(leaf, q, 0.0) if name == "diveq" else gradient.ESTIMATORS[name](leaf, q)
        (found,) = torch.autograd.grad(passed, leaf, g)
    return found


def by_angle(sums: Float[Tensor, "7 5"]) -> dict[str, float]:
    """Return metrics for ranges of the angle between e and q: 0–15°, …, 75–90° and above 90°.

    `exact_cosine_NAME_at_15` is the mean cosine between h and the copied or rotated gradient for
    angles of 15–30°; `best_rotation_share_at_15` is the share a for which a λRᵀg + (1 − a) g is
    nearest to h. `gradient.rotation_share` is fitted to these shares. Ranges without rows have no
    metrics.

    Args:
        sums: sums returned by `exactness`, added up over ranks.
    """
    figures: dict[str, float] = {}
    for index, (number, copied, rotated, product, square) in enumerate(sums.tolist()):
        if number:
            figures[f"exact_cosine_straight_through_at_{BIN * index}"] = copied / number
            figures[f"exact_cosine_rotation_at_{BIN * index}"] = rotated / number
        if square:
            figures[f"best_rotation_share_at_{BIN * index}"] = product / square
    return figures


def _sums_by_angle(angle: Tensor, g: Tensor, rotated: Tensor, h: Tensor) -> Float[Tensor, "7 5"]:
    turn = rotated - g
    columns = [
        torch.ones_like(angle),
        _cosine(g, h),
        _cosine(rotated, h),
        ((h - g) * turn).sum(1),
        turn.square().sum(1),
    ]
    index = (angle / BIN).long().clamp(max=6)
    sums = torch.zeros(7, 5, dtype=torch.float64, device=angle.device)
    return sums.index_add_(0, index, torch.stack(columns, 1).double())


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return torch.cosine_similarity(x, y, dim=1, eps=1e-30)
