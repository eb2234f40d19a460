"""Factorised rotary positions over a grid t h w: each axis rotates its own share of a head."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


class RotaryTables(NamedTuple):
    """Cosines and signed sines for every slot of a sequence that predicts a flattened grid.

    Slot i holds token i - 1 (slot 0 holds the start) and predicts token i. Queries rotate by the
    cell that they predict and keys by the cell that they hold, so that "the same place, one frame
    earlier" is the same offset everywhere, even at the edges of the grid.
    """

    query_cos: Float[Tensor, "n d"]
    query_sin: Float[Tensor, "n d"]
    key_cos: Float[Tensor, "n d"]
    key_sin: Float[Tensor, "n d"]

    def first(self, num_slots: int) -> "RotaryTables":
        """Return the tables of the first slots."""
        return RotaryTables(*(table[:num_slots] for table in self))


def grid_coordinates(grid_thw: tuple[int, int, int]) -> Float[Tensor, "n 3"]:
    """Return the t h w of every token, in the order in which grids are flattened."""
    axes = [torch.arange(size, dtype=torch.float32) for size in grid_thw]
    return rearrange(
        torch.stack(torch.meshgrid(*axes, indexing="ij")), "three t h w -> (t h w) three"
    )


def rotary_tables(grid_thw: tuple[int, int, int], head_dim: int, base: float) -> RotaryTables:
    """Return the tables of RoFormer (Su et al. 2021, eq. 34) with the head split over t h w.

    Rows and columns get 3/8 of the head each, and time gets the rest. The frequencies of an axis
    with m pairs are base^(-j/m), j = 0 … m - 1. The start is placed one frame before the first
    cell.

    Args:
        grid_thw: numbers of latent frames, rows and columns of the grid.
        head_dim: number of channels of one head, a multiple of 8; channel j is paired with j +
            head_dim / 2.
        base: base of the wavelengths, which run from 2π cells to at most 2π · base cells.
    """
    pairs = head_dim // 2
    spatial = 3 * pairs // 8
    cells = grid_coordinates(grid_thw)
    held = torch.cat([torch.tensor([[-1.0, 0.0, 0.0]]), cells[:-1]])
    frequencies = [
        base ** (-torch.arange(share, dtype=torch.float32) / share)
        for share in (pairs - 2 * spatial, spatial, spatial)
    ]

    def tables(coordinates: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.cat(
            [coordinates[:, axis, None] * frequencies[axis] for axis in range(3)], dim=1
        )
        sines = angles.sin()
        return torch.cat([angles.cos()] * 2, dim=1), torch.cat([-sines, sines], dim=1)

    return RotaryTables(*tables(cells), *tables(held))


def rotate(
    x: Float[Tensor, "... d"], cos: Float[Tensor, "... d"], signed_sin: Float[Tensor, "... d"]
) -> Float[Tensor, "... d"]:
    """Rotate channel pairs (j, j + d/2) by the angles of the tables."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * signed_sin
