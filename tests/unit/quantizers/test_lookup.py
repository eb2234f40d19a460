"""Tests of the lookup against argmin in float64."""

from typing import Any

import pytest
import torch

from video_vq.errors import InputError
from video_vq.quantizers import lookup
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


def differ_by_more_than_rounding(
    x: torch.Tensor, codes: torch.Tensor, found: torch.Tensor, chunk: int
) -> tuple[int, int]:
    """Count rows whose code is not the float64 argmin, and those where this is not a tie.

    Two distances |c|²/2 − x·c tie if float32 rounding of their terms explains the difference.
    """
    wide = codes.double()
    half_square = wide.square().sum(1).mul_(0.5)
    others, wrong = 0, 0
    for rows, mine in zip(x.split(chunk), found.split(chunk), strict=True):
        distance = torch.addmm(half_square, rows.double(), wide.t(), alpha=-1)
        best = distance.min(1)
        gap = distance.gather(1, mine[:, None])[:, 0] - best.values
        largest = rows.double().norm(dim=1) * wide.norm(dim=1).max() + half_square.max()
        others += int((mine != best.indices).sum())
        wrong += int((gap > 4 * torch.finfo(torch.float32).eps * largest).sum())
    return others, wrong


@pytest.mark.parametrize(("n", "k", "d"), [(20_000, 1024, 64), (4_000, 65_536, 16)])
def test_codes_other_than_float64s_are_ties_of_float32(n, k, d):
    generator = torch.Generator().manual_seed(n)
    x, codes = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    others, wrong = differ_by_more_than_rounding(x, codes, nearest_codes(x, codes), 500)
    assert wrong == 0
    assert others <= 1 + n // 1000


@pytest.mark.slow
@pytest.mark.parametrize("k", [16, 1000, 1024, 8192, 65_536])
def test_a_million_lookups_agree_with_float64_but_for_ties(k):
    generator = torch.Generator().manual_seed(k)
    x, codes = torch.randn(10**6, 8, generator=generator), torch.randn(k, 8, generator=generator)
    others, wrong = differ_by_more_than_rounding(x, codes, nearest_codes(x, codes), 1000)
    assert wrong == 0
    assert others <= 1000


@pytest.mark.parametrize("n", [0, 1, 127, 129, 300])
@pytest.mark.parametrize("k", [1, 2, 31, 33, 2048, 2049, 4100])
def test_every_number_of_rows_and_codes_works(n, k):
    generator = torch.Generator().manual_seed(n)
    x, codes = torch.randn(n, 3, generator=generator), torch.randn(k, 3, generator=generator)
    wide = nearest_codes(x.double(), codes.double())
    assert torch.equal(wide, torch.cdist(x.double(), codes.double()).argmin(1))
    assert float((nearest_codes(x, codes) != wide).sum()) <= 1


def test_products_see_no_coarse_setting_whatever_the_machine_could_do(monkeypatch):
    # Not every CPU computes otherwise under these settings, so what the products see is asked for.
    seen = []
    in_tiles = lookup._in_tiles

    def watched(*values):
        backends: Any = torch.backends
        seen.append(
            (
                torch.get_float32_matmul_precision(),
                torch.is_autocast_enabled("cpu"),
                backends.mkldnn.matmul.fp32_precision,
                backends.cuda.matmul.fp32_precision,
            )
        )
        return in_tiles(*values)

    monkeypatch.setattr(lookup, "_in_tiles", watched)
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            nearest_codes(x, x)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [("highest", False, "ieee", "ieee")]


@pytest.fixture
def uninitialised_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("uninitialised_memory_is_nan")
@pytest.mark.parametrize("k", [1, 31, 33, 2047, 2049, 2100])
def test_nothing_is_read_from_beyond_the_last_code(k):
    assert torch.empty(3).isnan().all()
    generator = torch.Generator().manual_seed(k)
    x, codes = torch.randn(300, 3, generator=generator), torch.randn(k, 3, generator=generator)
    codes *= 3  # far away: what lies beyond them would win
    found = nearest_codes(x, codes)
    assert int(found.max()) < k
    best = torch.cdist(x.double(), codes.double()).argmin(1)
    assert int((found != best).sum()) <= 1


def test_float64_latents_are_compared_in_float64_and_narrow_ones_in_float32():
    codes = torch.tensor([[1.0], [1.0 + 1e-9]], dtype=torch.float64)
    assert nearest_codes(torch.tensor([[2.0]], dtype=torch.float64), codes).tolist() == [1]
    assert nearest_codes(torch.tensor([[2.0]]), codes).tolist() == [0]
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.tensor([[1.0, 1.0]], dtype=dtype)
        near = torch.tensor([[1.0002, 1.0], [1.0001, 1.0]])
        assert nearest_codes(x, near).tolist() == [1]


def test_codes_that_fit_no_latent_are_refused():
    with pytest.raises(InputError, match="dimension 3 need at least one code of the same dim"):
        nearest_codes(torch.zeros(4, 3), torch.zeros(8, 2))
    with pytest.raises(InputError, match="the codebook holds 0 of dimension 3"):
        nearest_codes(torch.zeros(4, 3), torch.zeros(0, 3))


def test_triton_on_a_cpu_is_refused():
    with pytest.raises(InputError, match=r"needs latents on a GPU|needs the optional extra"):
        nearest_codes(torch.zeros(4, 3), torch.zeros(8, 3), "triton")
