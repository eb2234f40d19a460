"""Tests that two processes with half of the clips each report one process's scores."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.metrics.code_usage import CodeUsage
from video_vq.metrics.fvd_metric import FrechetVideoDistance
from video_vq.metrics.protocol import DEFAULT_PROTOCOL

NUM_RANKS = 2


class Blocks(nn.Module):
    def forward(self, video: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(video, 2).flatten(1)


def sides() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (9, 2, 4, 4, 3), generator=generator, dtype=torch.uint8)
    fake = torch.randint(0, 200, (7, 2, 4, 4, 3), generator=generator, dtype=torch.uint8)
    codes = torch.randint(0, 20, (6, 4, 8), generator=generator).square() % 64
    return real, fake, codes


def of_levels(rank: int) -> tuple[float, ...]:
    """Return the usage of two levels of codes, which only rank 0 has."""
    usage = CodeUsage((20, 4))
    if rank == 0:
        usage.update(torch.tensor([[3, 1], [19, 1], [3, 0]]))
    use = usage.compute()
    return (use.num_tokens, *(value for level in use.levels for value in level))


def scores(rank: int, num_ranks: int) -> tuple[float, tuple[float, ...]]:
    real, fake, codes = (side[rank::num_ranks] for side in sides())
    protocol = replace(DEFAULT_PROTOCOL, num_frames=2)
    fvd, usage = FrechetVideoDistance(Blocks(), 24, protocol), CodeUsage(64)
    fvd.update(real, real=True)
    fvd.update(fake, real=False)
    for batch in codes.split(1):
        usage.update(batch)
    use = usage.compute()
    figures = [value for name, value in use._asdict().items() if name != "levels"]
    return float(fvd.compute()), (*figures, *of_levels(rank))


def scores_over_ranks(rank: int, folder: str) -> tuple[float, tuple[float, ...]]:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_RANKS
    )
    try:
        assert dist.get_world_size() == NUM_RANKS
        return scores(rank, NUM_RANKS)
    finally:
        dist.destroy_process_group()


def other_rank(folder: str) -> None:
    torch.set_num_threads(1)
    Path(folder, "other.json").write_text(json.dumps(scores_over_ranks(1, folder)))


def test_two_ranks_report_what_one_process_reports(tmp_path: Path):
    other = multiprocessing.get_context("spawn").Process(target=other_rank, args=(str(tmp_path),))
    other.start()
    first = scores_over_ranks(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0

    second = json.loads((tmp_path / "other.json").read_text())
    expected_fvd, expected_usage = scores(0, 1)
    for fvd, usage in (first, second):
        assert fvd == pytest.approx(expected_fvd, rel=1e-9)
        assert tuple(usage) == pytest.approx(expected_usage, rel=1e-12)
