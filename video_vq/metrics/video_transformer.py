"""The two video transformers that published alternatives to FVD use: VideoMAE and V-JEPA.

Content-debiased FVD (Ge et al. 2024) uses VideoMAE v2: ViT-g, fine-tuned on Something-Something v2.
JEDi (Luo et al. 2024) uses V-JEPA: ViT-H/16 and the attentive pooler of a probe trained on the same
data. The tensors have the names of the published checkpoints.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError

NUM_FRAMES = 16
FRAME_SIZE = 224
TUBELET = 2  # frames per token
ENCODER_EPS = 1e-6
POOLER_EPS = 1e-5  # the probe uses PyTorch's default
# Mean and standard deviation of ImageNet's pixels in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of a video transformer.

    Attributes:
        width: number of channels per token.
        hidden: number of hidden channels in each MLP.
        patch: side of a patch in pixels.
        frame_size: side of a frame in pixels.
        num_frames: number of frames in a clip.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    frame_size: int = FRAME_SIZE
    num_frames: int = NUM_FRAMES

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens per clip."""
        return (self.num_frames // TUBELET) * (self.frame_size // self.patch) ** 2


VIDEOMAE_G = TransformerSizes(width=1408, depth=40, heads=16, hidden=6144, patch=14)
V_JEPA_H = TransformerSizes(width=1280, depth=32, heads=16, hidden=5120, patch=16)


class Attention(nn.Module):
    """Self-attention with a single projection to queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the attention output for each token."""
        q, k, v = rearrange(self.qkv(x), "b n (s h d) -> s b h n d", s=3, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class CrossAttention(nn.Module):
    """Cross-attention from queries to tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, queries: Float[Tensor, "b m d"], x: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b m d"]:
        """Return the attention output for each query."""
        q = rearrange(self.q(queries), "b m (h d) -> b h m d", h=self.heads)
        k, v = rearrange(self.kv(x), "b n (s h d) -> s b h n d", s=2, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h m d -> b m (h d)"))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU in between."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Apply the MLP."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, sizes: TransformerSizes):
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=ENCODER_EPS)
        self.attn = Attention(sizes.width, sizes.heads)
        self.norm2 = nn.LayerNorm(sizes.width, eps=ENCODER_EPS)
        self.mlp = Mlp(sizes.width, sizes.hidden)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Apply the block."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PoolerBlock(nn.Module):
    """A transformer block whose queries attend to all tokens."""

    def __init__(self, sizes: TransformerSizes):
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=POOLER_EPS)
        self.xattn = CrossAttention(sizes.width, sizes.heads)
        self.norm2 = nn.LayerNorm(sizes.width, eps=POOLER_EPS)
        self.mlp = Mlp(sizes.width, sizes.hidden)

    def forward(
        self, queries: Float[Tensor, "b m d"], x: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b m d"]:
        """Apply the block."""
        queries = queries + self.xattn(queries, self.norm1(x))
        return queries + self.mlp(self.norm2(queries))


class Pooler(nn.Module):
    """Attention pooling of a clip's tokens with a single learned query."""

    def __init__(self, sizes: TransformerSizes):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.cross_attention_block = PoolerBlock(sizes)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Return the pooled features of each clip."""
        queries = self.query_tokens.expand(len(x), -1, -1)
        return self.cross_attention_block(queries, x)[:, 0]


class _Patches(nn.Module):
    """Linear projection of pixel boxes to tokens."""

    def __init__(self, sizes: TransformerSizes):
        super().__init__()
        box = (TUBELET, sizes.patch, sizes.patch)
        self.proj = nn.Conv3d(3, sizes.width, box, stride=box)

    def forward(self, x: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b n d"]:
        return rearrange(self.proj(x), "b d t h w -> b (t h w) d")


class VideoMae(nn.Module):
    """VideoMAE feature network, which returns the normalized mean of the last block's tokens."""

    def __init__(self, sizes: TransformerSizes = VIDEOMAE_G):
        super().__init__()
        self.sizes = sizes
        self.patch_embed = _Patches(sizes)
        self.pos_embed = nn.Buffer(sinusoids(sizes.num_tokens, sizes.width), persistent=False)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.depth)))
        self.fc_norm = nn.LayerNorm(sizes.width, eps=ENCODER_EPS)
        self.requires_grad_(False)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
        """Return the features of RGB clips in [-1, 1].

        The clips are rescaled to [0, 1], without ImageNet normalization, as in the code of
        content-debiased FVD.

        Raises:
            InputError: the clips do not have 16 frames of 224 x 224.
        """
        require_clips(video, self.sizes, "VideoMAE")
        x = self.patch_embed((video + 1) / 2) + self.pos_embed
        return self.fc_norm(self.blocks(x).mean(dim=1))


class VJepa(nn.Module):
    """V-JEPA feature network as used by JEDi; the probe's attentive pooler pools the tokens."""

    def __init__(self, sizes: TransformerSizes = V_JEPA_H):
        super().__init__()
        self.sizes = sizes
        self.patch_embed = _Patches(sizes)
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.num_tokens, sizes.width))
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.depth)))
        self.norm = nn.LayerNorm(sizes.width, eps=ENCODER_EPS)
        self.pooler = Pooler(sizes)
        self.mean = nn.Buffer(torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(IMAGENET_STD).view(3, 1, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
        """Return the features of RGB clips in [-1, 1].

        Raises:
            InputError: the clips do not have 16 frames of 224 x 224.
        """
        require_clips(video, self.sizes, "V-JEPA")
        pixels = ((video + 1) / 2 - self.mean) / self.std
        x = self.patch_embed(pixels) + self.pos_embed
        return self.pooler(self.norm(self.blocks(x)))


def require_clips(video: Tensor, sizes: TransformerSizes, name: str) -> None:
    """Check that clips have the size that a network requires.

    Raises:
        InputError: the size is wrong; the message gives the required size.
    """
    side = sizes.frame_size
    if video.ndim != 5 or video.shape[1:] != (3, sizes.num_frames, side, side):
        raise InputError(
            f"{name} takes clips of b 3 {sizes.num_frames} {side} {side}, found "
            f"{tuple(video.shape)}; score clips of {sizes.num_frames} frames"
        )


def sinusoids(num_tokens: int, width: int) -> Float[Tensor, "1 n d"]:
    """Return VideoMAE's fixed position embeddings (Vaswani et al. 2017, section 3.5)."""
    angles = np.arange(num_tokens)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)
    places = np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles))
    return torch.from_numpy(places)[None].float()
