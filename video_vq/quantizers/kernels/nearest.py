"""Nearest-code lookup in one Triton kernel, which fuses product and argmin without an n x k matrix.

`implementation="torch"` is the reference; docs/results.md lists measurements of the kernel.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from video_vq.errors import InputError

ROWS = 64  # latents per program
CODES = 64  # codes compared at a time
MAX_WIDTH = 64  # dimensions multiplied at a time


@triton.jit
def _nearest_kernel(
    latents,
    codebook,
    half_square,
    indices,
    num_rows,
    num_codes,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Find the code with the smallest |c|²/2 − x·c for each row in a block."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    smallest = tl.full((ROWS,), float("inf"), tl.float32)
    nearest = tl.zeros((ROWS,), tl.int32)
    for first in range(0, num_codes, CODES):
        codes = first + tl.arange(0, CODES)
        product = tl.zeros((ROWS, CODES), tl.float32)
        for start in range(0, DIM, WIDTH):
            dims = start + tl.arange(0, WIDTH)
            x = tl.load(
                latents + rows[:, None] * DIM + dims[None, :],
                mask=(rows[:, None] < num_rows) & (dims[None, :] < DIM),
                other=0.0,
            )
            c = tl.load(
                codebook + codes[None, :].to(tl.int64) * DIM + dims[:, None],
                mask=(codes[None, :] < num_codes) & (dims[:, None] < DIM),
                other=0.0,
            )
            product = tl.dot(x, c, product, input_precision="ieee")
        half = tl.load(half_square + codes, mask=codes < num_codes, other=float("inf"))
        distance = half[None, :] - product
        value, place = tl.min(
            distance, axis=1, return_indices=True, return_indices_tie_break_left=True
        )
        closer = value < smallest  # strict, so the lowest of equally near codes stays
        smallest = tl.where(closer, value, smallest)
        nearest = tl.where(closer, first + place, nearest)
    tl.store(indices + rows, nearest.to(tl.int64), mask=rows < num_rows)


@torch.no_grad()
def nearest_codes_triton(
    latents: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]
) -> Int[Tensor, "n"]:
    """Return the index of each latent's nearest code; see `lookup.nearest_codes`.

    Products are plain float32 (`input_precision="ieee"`): no TF32, no bf16.

    Raises:
        InputError: the latents are float64, or on a CPU without Triton's interpreter.
    """
    if latents.dtype == torch.float64:
        raise InputError('implementation="triton" computes in float32, found float64 latents')
    if not latents.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(
            'implementation="triton" needs latents on a GPU; on a CPU use implementation="torch"'
        )
    x, codes = latents.detach().float().contiguous(), codebook.detach().float().contiguous()
    num_rows, dim = x.shape
    half_square = codes.square().sum(1).mul_(0.5)
    indices = torch.empty(num_rows, dtype=torch.int64, device=x.device)
    width = min(MAX_WIDTH, max(16, triton.next_power_of_2(dim)))
    launch: Any = _nearest_kernel[(triton.cdiv(num_rows, ROWS),)]
    launch(
        x,
        codes,
        half_square,
        indices,
        num_rows,
        len(codes),
        DIM=dim,
        ROWS=ROWS,
        CODES=CODES,
        WIDTH=width,
    )
    return indices
