"""Exact nearest codes without an N x K matrix."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from video_vq.nn.precision import exact_float32

# A chunk's distances stay in the cache: about 4 MiB, but enough rows for an efficient product.
CHUNK_BYTES = 4 << 20
BLOCK = 32


@torch.no_grad()
def nearest_codes(
    latents: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]
) -> Int[Tensor, "n"]:
    """Return for each latent the index of the nearest code; of equal distances, the lowest index.

    Squared Euclidean distances up to the constant |x|², as |c|²/2 − x·c, in float32 with autocast
    and TF32 off. For the cosine pass l2-normalised latents and codes.
    """
    with exact_float32(latents.device):
        x = latents.detach().to(_wide_dtype(latents))
        codes = codebook.detach().to(x.dtype)
        half_square = codes.square().sum(1).mul_(0.5)
        num_rows, num_codes = len(x), len(codes)
        rows = min(max(CHUNK_BYTES // (x.element_size() * num_codes), 128), 512)
        if x.device.type != "cpu":
            rows *= 32
        indices = torch.empty(num_rows, dtype=torch.int64, device=x.device)
        buffer = torch.empty((min(rows, num_rows), num_codes), dtype=x.dtype, device=x.device)
        transposed = codes.t()
        for start in range(0, num_rows, rows):
            chunk = x[start : start + rows]
            distance = buffer[: len(chunk)]
            torch.addmm(half_square, chunk, transposed, alpha=-1, out=distance)
            indices[start : start + rows] = _first_smallest(distance)
    return indices


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _first_smallest(distance: Float[Tensor, "n k"]) -> Int[Tensor, "n"]:
    """Argmin by blocks: the minima of blocks are vectorised, a plain argmin is not."""
    num_rows, num_codes = distance.shape
    if num_codes % BLOCK or num_codes < 2 * BLOCK:
        return distance.argmin(1)
    blocks = distance.view(num_rows, num_codes // BLOCK, BLOCK)
    block = blocks.amin(2).argmin(1)
    inside = blocks[torch.arange(num_rows, device=distance.device), block].argmin(1)
    return block * BLOCK + inside
