"""Tests of the measures of how close gradients are to a known exact gradient."""

import math

import pytest
import torch

from video_vq.quantizers import gradient
from video_vq.quantizers.exactness import COMPARED, by_angle, exactness
from video_vq.quantizers.rows import QuantizedRows


def batch(n: int = 400):
    torch.manual_seed(0)
    e, g = torch.randn(n, 5), torch.randn(n, 5)
    q = e + 0.7 * torch.randn(n, 5)
    return QuantizedRows(e, e, q, e, q, q), g


def test_an_estimator_whose_gradient_is_the_exact_one_has_the_cosine_one():
    rows, g = batch()
    rotated = gradient.rotate_back(rows.e, rows.q, g)
    exact = {
        "straight_through": g,
        "scaled": gradient.norm_ratio(rows.e, rows.q) * g,
        "rotation": rotated,
        "other": 3 * torch.ones_like(g),
    }
    for name, h in exact.items():
        figures, _ = exactness(rows, g, h, {"other": torch.ones_like(g)})
        assert figures.keys() == {
            f"exact_{kind}_{found}"
            for kind in ("cosine", "batch_cosine")
            for found in (*COMPARED, "other")
        }
        assert figures[f"exact_cosine_{name}"] == pytest.approx(1, abs=1e-5)
        assert figures[f"exact_batch_cosine_{name}"] == pytest.approx(1, abs=1e-5)
        unlike = "straight_through" if name in ("rotation", "other") else "rotation"
        assert figures[f"exact_cosine_{unlike}"] < 0.99
    # Lengths of rows count in the cosine of the batch alone.
    figures, _ = exactness(rows, g, g, {})
    assert figures["exact_cosine_scaled"] == pytest.approx(1, abs=1e-5)
    assert figures["exact_batch_cosine_scaled"] < 0.999


def test_the_best_share_of_the_rotation_is_the_one_that_made_the_exact_gradient():
    rows, g = batch(4000)
    rotated = gradient.rotate_back(rows.e, rows.q, g)
    angle = torch.rad2deg(torch.acos(torch.cosine_similarity(rows.e, rows.q, dim=1)))
    share = torch.linspace(0.2, 0.8, 7)[(angle / 15).long().clamp(max=6)][:, None]
    h = share * rotated + (1 - share) * g
    _, sums = exactness(rows, g, h, {})
    figures = by_angle(sums)
    bins = [low for low in range(0, 105, 15) if f"best_rotation_share_at_{low}" in figures]
    assert len(bins) == 7
    for low in bins:
        assert figures[f"best_rotation_share_at_{low}"] == pytest.approx(0.2 + low / 150, abs=1e-3)
        inside = (angle >= low) & ((angle < low + 15) | (low == 90))
        for name, found in (("straight_through", g), ("rotation", rotated)):
            expected = torch.cosine_similarity(found, h, dim=1)[inside].mean()
            assert figures[f"exact_cosine_{name}_at_{low}"] == pytest.approx(
                float(expected), abs=1e-4
            )


def test_equal_cosines_mean_equal_weights():
    """As `gradient.rotation_share` states: at equal lengths, equal cosines mean a = 1/2."""
    e = torch.tensor([[1.0, 0.0, 0.0]])
    q = torch.tensor([[math.cos(0.3), math.sin(0.3), 0.0]])
    g = torch.tensor([[0.2, -0.9, 0.4]])
    rotated = gradient.rotate_back(e, q, g)
    middle = (g + rotated) / 2
    for h in (middle, 5 * middle + 0.3 * torch.linalg.cross(g, rotated)):
        _, sums = exactness(QuantizedRows(e, e, q, e, q, q), g, h, {})
        figures = by_angle(sums)
        copied = figures["exact_cosine_straight_through_at_15"]
        assert copied == pytest.approx(figures["exact_cosine_rotation_at_15"], abs=1e-6)
        assert figures["best_rotation_share_at_15"] == pytest.approx(0.5, abs=1e-5)
        assert set(figures) == {
            f"{name}_at_15" for name in ("exact_cosine_straight_through", "exact_cosine_rotation")
        } | {"best_rotation_share_at_15"}
