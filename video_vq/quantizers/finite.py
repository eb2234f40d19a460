"""Finite scalar quantization, whose codebook is a fixed grid."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from video_vq.quantizers.fixed import FixedCodebook, FixedQuantizer, FixedRows
from video_vq.quantizers.module import plain_errors
from video_vq.quantizers.quantizer_config import Activation, FiniteConfig
from video_vq.quantizers.rows import QuantizedRows, check_codes

SIGMOID_SLOPE = 0.8  # iFSQ's 2σ(1.6x) − 1 is tanh(0.8x)


class FiniteCodebook(FixedCodebook):
    """The grid of all combinations of levels, numbered with the first channel varying fastest.

    The rounding passes gradients through unchanged; there is no commitment or codebook loss.
    """

    levels: Tensor
    strides: Tensor
    config: FiniteConfig

    def __init__(self, config: FiniteConfig):
        super().__init__(config, len(config.levels) * config.groups)
        levels = config.levels
        strides = [math.prod(levels[:index]) for index in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def bound(self, latents: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Squash each channel to the range of its levels (Mentzer et al. 2023, appendix A.1)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        if self.config.activation == "sigmoid":
            latents = latents * SIGMOID_SLOPE
        return torch.tanh(latents + torch.atanh(offset / half)) * half - offset

    def quantize(self, latents: Float[Tensor, "n d"]) -> FixedRows:
        """Bound latents and round them to the grid; NaN latents give NaN vectors."""
        bounded = self.bound(self.split(latents))
        rounded = bounded.detach().round()
        half_width = self.levels // 2
        # NaN latents appear in the training loss rather than as an invalid index.
        level = rounded.nan_to_num(0.0).long() + half_width
        return FixedRows(
            (bounded / half_width).flatten(1),
            (rounded / half_width).flatten(1),
            self.merge_codes((level * self.strides).sum(-1)),
        )

    def losses(self, rows: FixedRows, is_training: bool) -> dict[str, Float[Tensor, ""]]:
        """Return no losses, since bounded latents always lie near the grid."""
        return {}

    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return 0, as there is no commitment loss; see `VectorQuantizer.commitment_force`."""
        return rows.e.new_zeros(())

    def lookup(self, indices: Integer[Tensor, "n *level"]) -> Float[Tensor, "n d"]:
        """Return the grid point of each code, with channels in [-1, 1].

        Raises:
            InputError: an index is out of range.
        """
        check_codes(indices, self.config.vocabulary)
        level = self.split_codes(indices).unsqueeze(-1) // self.strides % self.levels
        half_width = self.levels // 2
        return ((level - half_width).float() / half_width).flatten(1)


class FiniteScalarQuantizer(FixedQuantizer):
    """Finite scalar quantization (FSQ, Mentzer et al. 2023), which rounds channels to a few levels.

    There is no quantizer loss, and the codes are fixed, so `step` only counts how often each code
    is used.

    Args:
        dim: number of input and output channels; two linear layers project features to `groups`
            channels for each entry of `levels` and back.
        levels: number of values of each channel, at least 3; the product is the codebook size.
        groups: number of codes per position, each computed from separate channels with these
            levels.
        activation: function that bounds each channel before rounding: "tanh", or iFSQ's "sigmoid".

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (8, 5, 5, 5),
        groups: int = 1,
        activation: Activation = "tanh",
    ):
        with plain_errors("FiniteScalarQuantizer", dim):
            config = FiniteConfig(levels=tuple(levels), groups=groups, activation=activation)
        super().__init__(dim, FiniteCodebook(config))
