"""Code usage and perplexity over a whole split and all ranks."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from video_vq.errors import InputError
from video_vq.nn.inputs import as_integers
from video_vq.quantizers.ranks import sum_over_ranks

TENSORS = ("counts", "batch_usage", "num_batches")


class LevelUse(NamedTuple):
    """Code usage of one level, for positions with several codes; see `CodebookUse`."""

    code_usage: float
    perplexity: float
    relative_perplexity: float
    batch_code_usage: float
    entropy: float


class CodebookUse(NamedTuple):
    """Code usage over all batches; if there are several levels, the mean over the levels.

    Attributes:
        code_usage: fraction of the K codes used at least once.
        perplexity: exp of the entropy (in nats) of the code frequencies, from 1 to K.
        relative_perplexity: perplexity / K.
        batch_code_usage: fraction of codes used within a batch, averaged over batches. This
            fraction grows with the batch size, so compare only runs with equal batch sizes.
        num_tokens: number of codes counted at each level.
        entropy: entropy of the code frequencies, in bits; at each level, log2 of the perplexity.
        levels: usage at each level; empty if each position has a single code.
    """

    code_usage: float
    perplexity: float
    relative_perplexity: float
    batch_code_usage: float
    num_tokens: int
    entropy: float
    levels: tuple[LevelUse, ...] = ()


class CodeUsage:
    """Counts how often each of the K codes occurs, over batches and ranks.

    Args:
        codebook_size: number of codes, K; a sequence gives the number of codes at each level.
        device: device of the counts; None for the CPU. Several ranks under NCCL need their GPU.

    Attributes:
        counts: number of times that each code occurred on this rank; levels follow each other.
        batch_usage: sum over batches of the fraction of codes used, for each level if several.
        num_batches: number of batches.
    """

    counts: Tensor
    batch_usage: Tensor
    num_batches: Tensor

    def __init__(
        self, codebook_size: int | Sequence[int], device: torch.device | str | None = None
    ):
        is_one = isinstance(codebook_size, int)
        self.vocabulary = (codebook_size,) if is_one else tuple(codebook_size)
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        shape = () if len(self.vocabulary) == 1 else (len(self.vocabulary),)
        device = self.device
        self.counts = torch.zeros(sum(self.vocabulary), dtype=torch.int64, device=device)
        self.batch_usage = torch.zeros(shape, dtype=torch.float64, device=device)
        self.num_batches = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, codes: Integer[Tensor, "..."] | Integer[np.ndarray, "..."]) -> None:
        """Count a batch of codes of any shape; the last axis holds the levels if there are several.

        Raises:
            InputError: the codes are not integers or lie outside 0..K-1, or the last axis does not
                have one code per level.
        """
        found = as_integers(codes, "codes").to(self.counts.device).long()
        if found.numel() == 0:
            return
        if len(self.vocabulary) > 1 and found.shape[-1] != len(self.vocabulary):
            raise InputError(
                f"codes of the shape {tuple(found.shape)} do not have {len(self.vocabulary)} "
                "levels along their last axis; they belong to another tokenizer"
            )
        counts = []
        levels = found.reshape(-1, len(self.vocabulary)).unbind(1)
        for codes_of_level, size in zip(levels, self.vocabulary, strict=True):
            low, high = (int(value) for value in codes_of_level.aminmax())
            if low < 0 or high >= size:
                raise InputError(
                    f"codes from {low} to {high} do not fit a codebook of {size}; "
                    "they belong to another tokenizer"
                )
            counts.append(torch.bincount(codes_of_level, minlength=size))
        self.counts = self.counts + torch.cat(counts)
        usage = torch.stack([(level > 0).double().mean() for level in counts])
        self.batch_usage = self.batch_usage + usage.view(self.batch_usage.shape)
        self.num_batches = self.num_batches + 1

    def tensors(self) -> dict[str, Tensor]:
        """Return the counts of this rank by name, which `load` takes."""
        return {name: getattr(self, name) for name in TENSORS}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the counts by those of `tensors()`."""
        for name in TENSORS:
            setattr(self, name, tensors[name].to(self.device))

    def merge(self, other: "CodeUsage") -> None:
        """Add the batches of another object with the same numbers of codes."""
        for name, value in other.tensors().items():
            setattr(self, name, getattr(self, name) + value)

    def over_ranks(self) -> "CodeUsage":
        """Return the counts of all ranks together. All ranks must call this method."""
        total = CodeUsage(self.vocabulary, self.device)
        total.load({name: sum_over_ranks(value.clone()) for name, value in self.tensors().items()})
        return total

    def compute(self) -> CodebookUse:
        """Return the code usage over all batches and ranks. All ranks must call this method.

        Raises:
            InputError: no codes were counted.
        """
        return self.over_ranks().of_this_rank()

    def of_this_rank(self) -> CodebookUse:
        """Return the code usage over the batches of this rank alone; see `compute`."""
        if int(self.counts.sum()) == 0:
            raise InputError("code usage needs at least one code, found none")
        usage = (self.batch_usage / self.num_batches).reshape(-1).tolist()
        counts = self.counts.split(list(self.vocabulary))
        levels = tuple(_use(*level) for level in zip(counts, usage, strict=True))
        means = {
            name: sum(getattr(level, name) for level in levels) / len(levels)
            for name in LevelUse._fields
        }
        num_tokens = int(counts[0].sum())
        return CodebookUse(**means, num_tokens=num_tokens, levels=levels if len(levels) > 1 else ())


def _use(counts: Tensor, batch_usage: float) -> LevelUse:
    nats = float(torch.special.entr(counts.double() / counts.sum()).sum())
    return LevelUse(
        code_usage=float((counts > 0).double().mean()),
        perplexity=math.exp(nats),
        relative_perplexity=math.exp(nats) / len(counts),
        batch_code_usage=batch_usage,
        entropy=nats / math.log(2),
    )
