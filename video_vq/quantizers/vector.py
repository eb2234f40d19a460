"""The vector quantizer: project, look up, pass the gradient on, report statistics."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.quantizers import gradient
from video_vq.quantizers.codebook import Codebook, CodebookStatistics, flatten_grid
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig


class QuantizerOutput(NamedTuple):
    """Losses are unweighted means over latents and dimensions, in float32."""

    quantized: Float[Tensor, "b c *grid"]
    codes: Int[Tensor, "b *grid"]
    commitment: Float[Tensor, ""]  # mean (e − sg(q))²
    codebook_loss: Float[Tensor, ""]  # mean (q − sg(e))²; without a gradient when learning is ema
    statistics: CodebookStatistics


class VectorQuantizer(nn.Module):
    """Vector quantization with a choice of gradient estimators (quantizers/gradient.py).

    `forward` changes nothing; call `codebook.update(output.statistics, seed)` once per optimizer
    step. Everything inside is float32, whatever the autocast outside.

    Args:
        dim: channels of the latents that come in and of the vectors that go out.
        config: codebook and estimator.
    """

    def __init__(self, dim: int, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.project_in = nn.Linear(dim, config.codebook_dim)
        self.project_out = nn.Linear(config.codebook_dim, dim)
        self.codebook = Codebook(config)

    def latents(self, features: Float[Tensor, "b c *grid"]) -> Float[Tensor, "n d"]:
        """Project to the codebook's dimension: the rows that are compared with the codes."""
        with torch.autocast(features.device.type, enabled=False):
            rows = self.project_in(flatten_grid(features).float())
            return F.normalize(rows, dim=1) if self.config.normalize else rows

    def forward(self, features: Float[Tensor, "b c *grid"]) -> QuantizerOutput:
        """Quantize a grid of features; the forward value is the code itself, bit for bit."""
        batch, _, *grid = features.shape
        with torch.autocast(features.device.type, enabled=False):
            e = self.latents(features)
            vectors = self.codebook.vectors()
            indices = nearest_codes(e, vectors)
            q = F.embedding(indices, vectors)
            passed = self._estimate(e, q.detach(), indices)
            quantized = self._to_grid(self.project_out(passed), batch, grid)
            return QuantizerOutput(
                quantized=quantized,
                codes=indices.view(batch, *grid),
                commitment=F.mse_loss(e, q.detach()),
                codebook_loss=F.mse_loss(q, e.detach()),
                statistics=self.codebook.statistics(e, indices),
            )

    def _estimate(self, e: Tensor, q: Tensor, indices: Tensor) -> Tensor:
        if self.config.estimator == "rotation_dynamic":
            squared = (e.detach() - q).square().sum(1)
            nearest = torch.full_like(self.codebook.average_count, torch.inf)
            nearest.scatter_reduce_(0, indices, squared, "amin")
            weight = gradient.fit_weight(squared, nearest[indices])
            return gradient.rotation_dynamic(e, q, weight)
        return {
            "straight_through": gradient.straight_through,
            "rotation": gradient.rotation,
            "rotation_unit": gradient.rotation_unit,
            "rotation_clipped": gradient.rotation_clipped,
            "scaled": gradient.scaled,
            "reflection": gradient.reflection,
        }[self.config.estimator](e, q)

    def encode(self, features: Float[Tensor, "b c *grid"]) -> Int[Tensor, "b *grid"]:
        """Return the codes of a grid of features."""
        batch, _, *grid = features.shape
        rows = self.latents(features)
        return nearest_codes(rows, self.codebook.vectors()).view(batch, *grid)

    def decode(self, codes: Shaped[Tensor, "b *grid"]) -> Float[Tensor, "b c *grid"]:
        """Return the features that codes stand for: what `forward` gives for the same codes.

        Raises:
            InputError: a code lies outside the codebook, or they are not integers.
        """
        if codes.dtype not in (torch.int64, torch.int32, torch.uint8, torch.int16):
            raise InputError(f"codes must be integers, found {codes.dtype}")
        with torch.autocast(codes.device.type, enabled=False):
            rows = self.codebook.lookup(codes.long().flatten())
            return self._to_grid(self.project_out(rows), codes.shape[0], list(codes.shape[1:]))

    @staticmethod
    def _to_grid(rows: Tensor, batch: int, grid: list[int]) -> Tensor:
        return rows.view(batch, *grid, -1).movedim(-1, 1).contiguous()
