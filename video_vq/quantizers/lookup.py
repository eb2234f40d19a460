"""Exact nearest-code search without an N x K matrix."""

import importlib.util
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from video_vq.errors import InputError
from video_vq.nn.cards import is_verified
from video_vq.nn.fallback import WithFallback
from video_vq.nn.precision import exact_float32

# Fastest on one Zen 4 core: 256 rows at a time for wide products, and tiles of 2 MiB.
BUFFER_BYTES = 16 << 20
TILE_CODES = 2048  # a multiple of BLOCK
BLOCK = 32

Implementation = Literal["auto", "torch", "triton"]


@torch.no_grad()
def nearest_codes(
    latents: Float[Tensor, "n d"],
    codebook: Float[Tensor, "k e"],
    implementation: Implementation = "auto",
) -> Int[Tensor, "n"]:
    """Return the index of each latent's nearest code, or the lowest index if codes are tied.

    Squared Euclidean distances are compared as |c|²/2 − x·c, without the constant |x|², in float32
    with autocast and TF32 off (float64 for float64 latents). For cosine similarity, pass
    l2-normalized latents and codes.

    Args:
        latents: finite rows; the result for a NaN row is undefined.
        codebook: the codes.
        implementation: "torch" is the reference; "triton" is a fused CUDA kernel, which needs an
            optional extra; "auto" uses the kernel on GPUs where `make gpu` found the kernel correct
            and faster, and the reference on other devices or after the kernel has failed.

    Raises:
        InputError: the codebook is empty or has the wrong dimension, or "triton" is requested but
            is not installed or does not support the dtype or device of the latents.
    """
    if len(codebook) == 0 or latents.shape[1] != codebook.shape[1]:
        raise InputError(
            f"latents of dimension {latents.shape[1]} need at least one code of the same "
            f"dimension; the codebook holds {len(codebook)} of dimension {codebook.shape[1]}"
        )
    with exact_float32(latents.device):
        if implementation == "triton":
            return _triton(latents, codebook)
        if implementation == "auto" and _kernel_is_verified(latents):
            return _kernel_or_tiles()(latents, codebook)
        return _in_tiles(latents, codebook)


def _in_tiles(latents: Tensor, codebook: Tensor) -> Tensor:
    """Iterate over tiles of codes x rows, and take minima over blocks while a tile is cached.

    Each code is a row of the tile, so a minimum over codes is an elementwise minimum of rows, which
    is vectorized, unlike a plain argmin. Padding in the last block has an infinite distance.
    """
    x = latents.detach().to(_wide_dtype(latents))
    codes = codebook.detach().to(x.dtype)
    num_rows, (num_codes, dim) = len(x), codes.shape
    rows = min(_rows_at_a_time(num_codes * x.element_size(), dim, x.device), max(num_rows, 1))
    num_blocks = -(-num_codes // BLOCK)
    indices = torch.empty(num_rows, dtype=torch.int64, device=x.device)
    half_square = codes.square().sum(1, keepdim=True).mul_(0.5).expand(num_codes, rows)
    distance = x.new_empty(num_blocks * BLOCK, rows)
    distance[num_codes:] = torch.inf
    blocks = distance.view(num_blocks, BLOCK, rows)
    minima = x.new_empty(num_blocks, rows)
    columns = torch.arange(rows, device=x.device)
    tile = TILE_CODES if x.device.type == "cpu" else num_blocks * BLOCK
    for start in range(0, num_rows, rows):
        chunk = x[start : start + rows].t()
        width = chunk.shape[1]
        for first in range(0, num_codes, tile):
            some = slice(first, min(first + tile, num_codes))
            torch.addmm(
                half_square[some, :width], codes[some], chunk, alpha=-1, out=distance[some, :width]
            )
            some = slice(first // BLOCK, (first + tile) // BLOCK)
            torch.amin(blocks[some], 1, out=minima[some])
        block = minima.min(0).indices  # the first of equal minima, as torch.min documents
        inside = blocks[block, :, columns].argmin(1)
        indices[start : start + rows] = (block * BLOCK + inside)[:width]
    return indices


def _rows_at_a_time(bytes_per_row: int, dim: int, device: torch.device) -> int:
    most = 256 if dim >= 64 else 128
    rows = max(64, min(BUFFER_BYTES // bytes_per_row, most))
    return rows if device.type == "cpu" else rows * 64


def _kernel_is_verified(latents: Tensor) -> bool:
    return (
        is_verified("triton_lookup", latents.device)
        and latents.dtype != torch.float64
        and importlib.util.find_spec("triton") is not None
    )


@cache
def _kernel_or_tiles() -> WithFallback[[Tensor, Tensor], Tensor]:
    return WithFallback("the Triton lookup", _triton, _in_tiles)


def _triton(latents: Tensor, codebook: Tensor) -> Tensor:
    if importlib.util.find_spec("triton") is None:
        raise InputError(
            'implementation="triton" needs the optional extra: pip install "video-vq[triton]"'
        )
    from video_vq.quantizers.kernels.nearest import nearest_codes_triton

    return nearest_codes_triton(latents, codebook)


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
