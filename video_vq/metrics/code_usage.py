"""How much of the codebook is used: code usage and perplexity over a whole split, all ranks."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor
from torchmetrics import Metric

from video_vq.errors import InputError
from video_vq.nn.inputs import as_integers


class CodebookUse(NamedTuple):
    """Figures over all codes that were seen.

    Attributes:
        code_usage: fraction of the K codes used at least once.
        perplexity: exp of the entropy, in nats, of the codes' frequencies; 1 to K.
        relative_perplexity: perplexity / K.
        batch_code_usage: mean over batches of the fraction of codes used within one batch; it
            grows with the batch, so compare it at one batch size only.
        num_tokens: how many codes were counted.
    """

    code_usage: float
    perplexity: float
    relative_perplexity: float
    batch_code_usage: float
    num_tokens: int


class CodeUsage(Metric):
    """Counts how often each of the K codes occurs; counts add up over batches and ranks.

    Args:
        codebook_size: K.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor
    batch_usage: Tensor
    num_batches: Tensor

    def __init__(self, codebook_size: int):
        super().__init__()
        self.codebook_size = codebook_size
        self.add_state("counts", torch.zeros(codebook_size, dtype=torch.int64), "sum")
        self.add_state("batch_usage", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("num_batches", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, codes: Integer[Tensor, "..."] | Integer[np.ndarray, "..."]) -> None:
        """Count one batch of codes, of any shape.

        Raises:
            InputError: a code lies outside 0..K-1.
        """
        flat = as_integers(codes, "codes").to(self.counts.device).reshape(-1).long()
        if flat.numel() == 0:
            return
        low, high = (int(value) for value in flat.aminmax())
        if low < 0 or high >= self.codebook_size:
            raise InputError(
                f"codes from {low} to {high} do not fit a codebook of {self.codebook_size}; "
                "they belong to another tokenizer"
            )
        counts = torch.bincount(flat, minlength=self.codebook_size)
        self.counts = self.counts + counts
        self.batch_usage = self.batch_usage + (counts > 0).double().mean()
        self.num_batches = self.num_batches + 1

    def compute(self) -> CodebookUse:
        """Return the figures over all batches and ranks.

        Raises:
            InputError: no code was counted.
        """
        num_tokens = int(self.counts.sum())
        if num_tokens == 0:
            raise InputError("code usage needs at least one code, found none")
        frequencies = self.counts.double() / num_tokens
        perplexity = float(torch.special.entr(frequencies).sum().exp())
        return CodebookUse(
            code_usage=float((self.counts > 0).double().mean()),
            perplexity=perplexity,
            relative_perplexity=perplexity / self.codebook_size,
            batch_code_usage=float(self.batch_usage / self.num_batches),
            num_tokens=num_tokens,
        )
