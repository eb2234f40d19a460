"""Divided space-time attention: each token attends along time, then within its own frame."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Tokens = Float[Tensor, "b t h w d"]
NORM_EPS = 1e-6
# CUDA kernels reject more sequences in one call (pytorch/pytorch#142228).
MAX_SEQUENCES = 65_535


class SelfAttention(nn.Module):
    """Multi-head self-attention without a mask (Vaswani et al. 2017, §3.2)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Attend from each token to all tokens."""
        joined = self.query_key_value(x)
        query_key_value = rearrange(joined, "b n (s h c) -> s b h n c", s=3, h=self.heads)
        parts = [
            F.scaled_dot_product_attention(query, key, value)
            for query, key, value in query_key_value.split(MAX_SEQUENCES, dim=1)
        ]
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.output(rearrange(mixed, "b heads n c -> b n (heads c)"))


class DividedBlock(nn.Module):
    """A transformer block with divided space-time attention (Bertasius et al. 2021, eq. 11).

    The block consists of temporal attention, spatial attention within each frame, and an MLP, each
    preceded by a norm. The output of the temporal attention passes through an extra projection
    before the residual addition, as in the authors' code. There is no class token, because the
    model does not classify clips.
    """

    def __init__(self, width: int, heads: int, mlp_width: int):
        super().__init__()
        self.norm_time = nn.LayerNorm(width, NORM_EPS)
        self.time = SelfAttention(width, heads)
        self.project_time = nn.Linear(width, width)
        self.norm_space = nn.LayerNorm(width, NORM_EPS)
        self.space = SelfAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width)
        )

    def forward(self, x: Tokens) -> Tokens:
        """Add the attention outputs, then the MLP output, to the residual stream."""
        batch, frames, rows, _, _ = x.shape
        along_time = rearrange(self.norm_time(x), "b t h w d -> (b h w) t d")
        read = self.project_time(self.time(along_time))
        x = x + rearrange(read, "(b h w) t d -> b t h w d", b=batch, h=rows)
        in_frame = rearrange(self.norm_space(x), "b t h w d -> (b t) (h w) d")
        x = x + rearrange(self.space(in_frame), "(b t) (h w) d -> b t h w d", t=frames, h=rows)
        return x + self.mlp(self.norm_mlp(x))
