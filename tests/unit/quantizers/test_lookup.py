"""The lookup against a float64 argmin."""

import pytest
import torch

from video_vq.quantizers.lookup import nearest_codes


@pytest.mark.parametrize(
    ("n", "k", "d"), [(3000, 64, 8), (1000, 512, 32), (700, 1000, 5), (5, 2, 1)]
)
def test_lookup_agrees_with_float64(n, k, d):
    generator = torch.Generator().manual_seed(k)
    x, codes = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    found = nearest_codes(x, codes)
    distance = torch.cdist(x.double(), codes.double())
    best = distance.argmin(1)
    differ = (found != best).nonzero().squeeze(1)
    gap = distance[differ, found[differ]] - distance[differ, best[differ]]
    assert bool((gap < 1e-6 * distance[differ, best[differ]]).all())
    assert len(differ) < 1 + n // 1000


def test_of_equal_distances_the_lowest_index_wins():
    codes = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    repeated = codes.repeat(16, 1)
    assert nearest_codes(codes, repeated).tolist() == list(range(8))


def test_lookup_is_exact_inside_autocast():
    generator = torch.Generator().manual_seed(1)
    x, codes = torch.randn(4096, 16, generator=generator), torch.randn(512, 16, generator=generator)
    expected = nearest_codes(x, codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_codes(x, codes), expected)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(nearest_codes(x, codes), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
