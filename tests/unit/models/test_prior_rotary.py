"""Tests of rotary positions: only offsets matter, and packed products equal plain ones."""

import pytest
import torch
import torch.nn.functional as F

from video_vq.nn import packed
from video_vq.nn.packed import constant_product
from video_vq.nn.rotary import grid_coordinates, rotary_tables, rotate

GRID = (3, 4, 5)


def test_cells_are_counted_in_the_order_t_h_w():
    cells = grid_coordinates(GRID)
    assert cells.shape == (60, 3)
    assert cells[1].tolist() == [0, 0, 1]
    assert cells[5].tolist() == [0, 1, 0]
    assert cells[20].tolist() == [1, 0, 0]


def test_equal_offsets_on_the_grid_give_equal_products_wherever_they_lie():
    generator = torch.Generator().manual_seed(0)
    tables = rotary_tables(GRID, 16, 100.0)
    query, key = torch.randn(2, 16, generator=generator)
    queries = rotate(query.expand(60, 16), tables.query_cos, tables.query_sin)
    keys = rotate(key.expand(60, 16), tables.key_cos, tables.key_sin)
    products = queries @ keys.T
    cells = grid_coordinates(GRID)
    held = torch.cat([torch.tensor([[-1.0, 0.0, 0.0]]), cells[:-1]])
    by_offset: dict[tuple[float, ...], list[float]] = {}
    for slot in range(60):
        for source in range(slot + 1):
            offset = tuple((held[source] - cells[slot]).tolist())
            by_offset.setdefault(offset, []).append(products[slot, source].item())
    for values in by_offset.values():
        assert max(values) - min(values) < 1e-4
    means = torch.tensor([values[0] for values in by_offset.values()])
    assert (means[:, None] - means).abs().fill_diagonal_(1).min() > 1e-7  # all offsets differ


def test_turning_keeps_lengths():
    generator = torch.Generator().manual_seed(0)
    tables = rotary_tables(GRID, 24, 100.0)
    x = torch.randn(60, 24, generator=generator)
    turned = rotate(x, tables.query_cos, tables.query_sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])  # the first cell is the origin


@pytest.mark.parametrize("num_rows", [1, 2, 5, 16])
@pytest.mark.parametrize("has_packed", [True, False])
def test_products_with_constant_weights_equal_plain_ones(monkeypatch, num_rows, has_packed):
    if not has_packed:
        monkeypatch.setattr(packed, "has_packed_products", lambda: False)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(37, 24, generator=generator)
    with torch.inference_mode():
        product = constant_product(weight, num_rows)
        for rows in (num_rows, 3 * num_rows):
            x = torch.randn(rows, 24, generator=generator)
            torch.testing.assert_close(product(x), F.linear(x, weight), atol=1e-5, rtol=1e-5)
