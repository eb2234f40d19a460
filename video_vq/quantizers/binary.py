"""Binary codes from the sign of each channel, and the entropy loss that keeps all codes in use."""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from video_vq.quantizers.commitment import mean_square
from video_vq.quantizers.fixed import FixedCodebook, FixedQuantizer, FixedRows
from video_vq.quantizers.module import plain_errors
from video_vq.quantizers.quantizer_config import BinaryConfig
from video_vq.quantizers.ranks import rank_and_world, sum_over_ranks
from video_vq.quantizers.rows import QuantizedRows, check_codes, dot

LEAST = 1e-12  # probability below which −log p no longer grows


class BinaryCodebook(FixedCodebook):
    """All combinations of signs, numbered with the first channel as the highest bit.

    A channel with value 0 gives bit 0. Codes are int64 numbers computed from bits, so only the
    counts are as large as the codebook.
    """

    place_values: Tensor
    config: BinaryConfig

    def __init__(self, config: BinaryConfig):
        super().__init__(config, config.num_bits * config.groups)
        values = 1 << torch.arange(config.num_bits).flip(0)
        self.register_buffer("place_values", values, persistent=False)
        self.size = (
            config.num_bits**-0.5 if config.spherical else 1.0
        )  # absolute value of a channel

    def quantize(self, latents: Float[Tensor, "n d"]) -> FixedRows:
        """Quantize each channel to its sign, on the unit sphere if `spherical` is set."""
        split = self.split(latents)
        e = F.normalize(split, dim=-1) if self.config.spherical else split
        bits = e.detach() > 0
        codes = self.merge_codes((bits * self.place_values).sum(-1))
        return FixedRows(e.flatten(1), self._vectors(bits), codes)

    def losses(self, rows: FixedRows, is_training: bool) -> dict[str, Float[Tensor, ""]]:
        """Return the commitment loss, and the entropy loss that `BinaryConfig` describes.

        In training mode with gradients, code frequencies are computed over the global batch, so
        all ranks must call this method.
        """
        config = self.config
        logits = self.split(rows.e) * (4 * self.size / config.temperature)
        over_ranks = is_training and rows.e.requires_grad  # scoring runs on each rank separately
        spread = joint_entropy(logits, config.entropy_channels, over_ranks)
        most = config.num_bits * math.log(2)
        entropy = bit_entropy(logits).sum(-1).mean() + config.diversity * (most - spread)
        return {"commitment": mean_square(rows.e, rows.q), "entropy": entropy}

    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z (0 on the unit sphere); see `VectorQuantizer.commitment_force`."""
        if self.config.spherical:
            return rows.e.new_zeros(())
        return dot(rows.e, rows.e - rows.q) * (2 / max(1, rows.e.numel()))

    def lookup(self, indices: Integer[Tensor, "n *level"]) -> Float[Tensor, "n d"]:
        """Return the vector of each code.

        Raises:
            InputError: an index is out of range.
        """
        check_codes(indices, self.config.vocabulary)
        return self._vectors((self.split_codes(indices).unsqueeze(-1) & self.place_values) != 0)

    def _vectors(self, bits: Tensor) -> Float[Tensor, "n d"]:
        return torch.where(bits, self.size, -self.size).flatten(1)


class BinaryQuantizer(FixedQuantizer):
    """Quantization of each channel to its sign: BSQ (Zhao et al. 2024) or LFQ (Yu et al. 2023).

    Add the losses `commitment` and `entropy` to the training loss. The codes are fixed, so `step`
    only counts how often each code is used.

    Args:
        dim: number of input and output channels; two linear layers project features to num_bits x
            groups channels and back.
        num_bits: number of bits per code; there are 2^num_bits codes.
        spherical: True for BSQ, with latents and codes on the unit sphere; False for LFQ, with raw
            latents and codes of ±1.
        groups: number of codes per position, each computed from separate channels.
        temperature: temperature of the soft assignment in the entropy loss; see `BinaryConfig`.
        diversity: weight of the entropy loss term that favors equally frequent codes.
        entropy_channels: number of bits per block; entropies are computed jointly within a block.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        dim: int,
        num_bits: int = 10,
        *,
        spherical: bool = True,
        groups: int = 1,
        temperature: float = 0.01,
        diversity: float = 1.0,
        entropy_channels: int = 9,
    ):
        with plain_errors("BinaryQuantizer", dim):
            config = BinaryConfig(
                num_bits=num_bits,
                spherical=spherical,
                groups=groups,
                temperature=temperature,
                diversity=diversity,
                entropy_channels=entropy_channels,
            )
        super().__init__(dim, BinaryCodebook(config))


def bit_entropy(logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the entropy in nats of bits that are 1 with probability σ(logit)."""
    return F.softplus(logits) - logits * torch.sigmoid(logits)


def joint_entropy(
    logits: Float[Tensor, "n groups d"], num_channels: int, over_ranks: bool
) -> Float[Tensor, ""]:
    """Return the entropy in nats of codes whose bits are independent given the row.

    With p(c | z) = Π p(bit | z) and the mean over rows p̄(c), the entropy is −Σ p̄ log p̄, summed
    over blocks of channels and averaged over groups. For each block, p̄ is the product of two
    matrices, the transposed probabilities of the first half of the bits and the probabilities of
    the second half, so that no row needs a table of codes.

    Args:
        logits: bit logits for each row, group and channel.
        num_channels: largest number of channels per block.
        over_ranks: whether to take the mean over the rows of all ranks; averaging gradients over
            ranks then gives the gradient for the whole batch. All ranks must then call this
            function, with equal numbers of rows.
    """
    probability = torch.sigmoid(logits).transpose(0, 1)  # groups n d
    entropies = []
    for block in probability.split(num_channels, dim=2):
        middle = (block.shape[2] + 1) // 2
        first = code_probabilities(block[..., :middle])
        second = code_probabilities(block[..., middle:])
        mean = torch.bmm(first.mT, second) / max(1, block.shape[1])
        if over_ranks and rank_and_world()[1] > 1:
            whole = sum_over_ranks(mean.detach().clone()) / rank_and_world()[1]
            mean = mean + (whole - mean).detach()
        entropies.append(-(mean * mean.clamp(min=LEAST).log()).sum((1, 2)).mean())
    return torch.stack(entropies).sum()


def code_probabilities(probability: Float[Tensor, "g n d"]) -> Float[Tensor, "g n codes"]:
    """Return Π p(bit) for each of the 2^d codes; the first channel is the highest bit."""
    codes = probability.new_ones(*probability.shape[:2], 1)
    for channel in probability.unbind(2):
        pair = torch.stack([1 - channel, channel], dim=-1)
        codes = (codes.unsqueeze(-1) * pair.unsqueeze(-2)).flatten(2)
    return codes
