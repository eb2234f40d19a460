"""Rotary position embeddings for a grid t h w.

Each axis rotates its own share of a head's channels.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


class RotaryTables(NamedTuple):
    """Cosines and signed sines for every slot of a sequence that predicts a flattened grid.

    Slot i contains token i - 1 (slot 0 contains the start token) and predicts token i. Queries
    rotate by the cell of the predicted token, and keys by the cell of the token in the slot, so
    that "the same cell, one frame earlier" is the same offset everywhere, even at the edges of the
    grid.
    """

    query_cos: Float[Tensor, "n d"]
    query_sin: Float[Tensor, "n d"]
    key_cos: Float[Tensor, "n d"]
    key_sin: Float[Tensor, "n d"]

    def first(self, num_slots: int) -> "RotaryTables":
        """Return the tables for the first `num_slots` slots."""
        return RotaryTables(*(table[:num_slots] for table in self))


def grid_coordinates(grid_thw: tuple[int, int, int]) -> Float[Tensor, "n 3"]:
    """Return the coordinates t h w of every token, in the order of a flattened grid."""
    axes = [torch.arange(size, dtype=torch.float32) for size in grid_thw]
    return rearrange(
        torch.stack(torch.meshgrid(*axes, indexing="ij")), "three t h w -> (t h w) three"
    )


def rotary_tables(grid_thw: tuple[int, int, int], head_dim: int, base: float) -> RotaryTables:
    """Return RoFormer tables (Su et al. 2021, eq. 34) with each head split over t h w.

    Rows and columns get at most 3/8 of a head's channels each, and time gets the rest. The
    frequencies of an axis with m pairs are base^(-j/m), j = 0 … m - 1. The start token lies one
    frame before the first cell.

    Args:
        grid_thw: numbers of latent frames, rows and columns of the grid.
        head_dim: number of channels per head, a multiple of 8; channel j is paired with channel j +
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
    """Rotate channel pairs (j, j + d/2) by the angles in the tables."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * signed_sin
