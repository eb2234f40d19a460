"""Tests of tables of evaluations: only distinguishable scores are bold."""

from pathlib import Path

import numpy as np
import pytest
from trained import scores_of

from video_vq.evaluation.compare_evaluations import (
    Cell,
    EvaluationTable,
    compare_evaluations,
)
from video_vq.evaluation.feature_file import write_features
from video_vq.evaluation.feature_network import named_i3d
from video_vq.evaluation.features import FeatureSet
from video_vq.evaluation.scored_clip import Cut
from video_vq.metrics.protocol import fvd_protocol
from video_vq.report.evaluation_table import as_latex, as_markdown
from video_vq.stores.files import write_json


@pytest.mark.parametrize(
    ("low", "high", "differs"),
    [(0.0, 0.0, False), (0.0, 1.0, False), (-1.0, 0.0, False), (-1.0, 1.0, False),
     (0.1, 1.0, True), (-1.0, -0.1, True), (None, None, False)],
)  # fmt: skip
def test_a_cell_differs_where_its_interval_leaves_zero_out(low, high, differs):
    assert Cell(27.11, low, high).differs is differs


def test_equal_scores_are_not_bold():
    equal = EvaluationTable(
        ("a", "a"), (("PSNR, dB", "↑", (Cell(27.11), Cell(27.11, 0.0, 0.0))),), ""
    )
    assert "| 27.11 (+0 ± 0) |" in as_markdown(equal)
    assert "textbf" not in as_latex(equal)


def evaluated(path: Path, number: int, num_videos: int, with_fvd: bool) -> Path:
    """Write an evaluation with two clips per video, and return its path."""
    groups = tuple(f"video {clip % num_videos}" for clip in range(2 * num_videos))
    scores = scores_of("a tokenizer")
    same = {"split": "test", "num_clips": len(groups), "protocol": scores["protocol"]}
    scores["identity"] |= {"data": "d" * 64, **same}
    random = np.random.default_rng(number)
    psnr = random.normal(30, 1, len(groups)).tolist()
    scores["reconstruction"]["clips"] = [
        {"group": group, "psnr": value} for group, value in zip(groups, psnr, strict=True)
    ]
    scores["num_clips"] = len(groups)
    del scores["prior"]
    path.mkdir()
    preparation = fvd_protocol("styleganv").preparation
    for seed, name in enumerate(("real", "reconstructed") if with_fvd else ("real",)):
        draw = np.random.default_rng(seed + number * (name != "real"))
        rows = {preparation: draw.normal(size=(len(groups), 400)).astype(np.float32)}
        features = FeatureSet(name, rows, groups, (), "h" * 64, "test", {"16x16": len(groups)})
        file = path / f"features-{name}.safetensors"
        write_features(file, features, named_i3d(), Cut(4, 1))
    write_json(path / "scores.json", scores)
    return path


@pytest.mark.parametrize(
    ("num_videos", "with_fvd", "shown"),
    [(1, True, ()), (3, False, ("Student's t",)), (16, True, ("Student's t", "split halves"))],
)
def test_only_intervals_that_the_table_shows_are_explained(tmp_path, num_videos, with_fvd, shown):
    paths = [evaluated(tmp_path / f"{n}", n, num_videos, with_fvd) for n in range(2)]
    told = as_markdown(compare_evaluations(paths))
    table, _, methods = told.rpartition("\n\n")
    assert ("(" in table.replace(str(tmp_path), "")) == ("In brackets" in methods) == bool(shown)
    for how in ("Student's t", "split halves"):
        assert (how in methods) == (how in shown)
    assert ("No difference has an interval" in methods) == (not shown)
    alone = as_markdown(compare_evaluations(paths[:1]))  # nothing to compare: nothing to explain
    assert "interval" not in alone.rpartition("\n\n")[2]
