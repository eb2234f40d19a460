"""A table of evaluations: bold is what can be told apart, and nothing else."""

import pytest

from video_vq.evaluation.compare_runs import Cell, Comparison


@pytest.mark.parametrize(
    ("low", "high", "differs"),
    [(0.0, 0.0, False), (0.0, 1.0, False), (-1.0, 0.0, False), (-1.0, 1.0, False),
     (0.1, 1.0, True), (-1.0, -0.1, True), (None, None, False)],
)  # fmt: skip
def test_a_cell_differs_where_its_interval_leaves_zero_out(low, high, differs):
    assert Cell(27.11, low, high).differs is differs


def test_equal_scores_are_not_bold():
    equal = Comparison(("a", "a"), (("PSNR, dB", "↑", (Cell(27.11), Cell(27.11, 0.0, 0.0))),), "")
    assert "| 27.11 (+0 ± 0) |" in equal.markdown()
    assert "textbf" not in equal.latex()
