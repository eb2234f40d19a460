"""The prediction targets of a prior for each token: one code, or several sub-codes in order."""

from itertools import accumulate

import torch
from jaxtyping import Int, Integer
from torch import Tensor

from video_vq.errors import InputError


class SubCodes:
    """A conversion between tokens and sub-codes.

    The sub-codes of a position are in the order of prediction: code by code as in the token store
    (from coarse to fine for a residual quantizer), and for each code, digit by digit, with the
    highest digit first.

    Args:
        factors: sub-code sizes for each code at a position.

    Attributes:
        sizes: sizes of all sub-codes at a position, in order.
        starts: offset of each sub-code if all sub-codes are numbered consecutively, as in an
            embedding table.
        has_levels: whether tokens have a last axis for several codes per position.
    """

    def __init__(self, factors: tuple[tuple[int, ...], ...]):
        self.factors = factors
        self.sizes = [size for sizes in factors for size in sizes]
        self.starts = [0, *accumulate(self.sizes)][:-1]
        self.has_levels = len(factors) > 1

    def __len__(self) -> int:
        return len(self.sizes)

    def split(self, tokens: Integer[Tensor, "*n"]) -> Int[Tensor, "*n2 s"]:
        """Return the sub-codes of tokens along a last axis, which replaces any level axis.

        Raises:
            InputError: the tokens have a different number of codes per position.
        """
        levels = tokens.long().unsqueeze(-1)
        if self.has_levels:
            if tokens.ndim < 2 or tokens.shape[-1] != len(self.factors):
                raise InputError(
                    f"tokens must have {len(self.factors)} codes per position along their last "
                    f"axis, found the shape {tuple(tokens.shape)}; do they belong to "
                    "another tokenizer?"
                )
            levels = tokens.long()
        digits = []
        for level, sizes in zip(levels.unbind(-1), self.factors, strict=True):
            rest = level
            of_code = []
            for size in reversed(sizes[1:]):
                of_code.append(rest % size)
                rest = rest // size
            digits += [rest, *reversed(of_code)]  # the highest digit of an invalid code is too big
        return torch.stack(digits, dim=-1)

    def join(self, sub_codes: Integer[Tensor, "*n s"]) -> Int[Tensor, "*n2"]:
        """Return the tokens for sub-codes, the inverse of `split`."""
        codes, first = [], 0
        for sizes in self.factors:
            code = torch.zeros_like(sub_codes[..., 0], dtype=torch.int64)
            for place, size in enumerate(sizes, first):
                code = code * size + sub_codes[..., place]
            codes.append(code)
            first += len(sizes)
        return torch.stack(codes, dim=-1) if self.has_levels else codes[0]

    def in_a_row(self, sub_codes: Int[Tensor, "*n s"]) -> Int[Tensor, "*n s"]:
        """Return the row numbers of sub-codes in one concatenated table."""
        return sub_codes + torch.tensor(self.starts[: sub_codes.shape[-1]], device=sub_codes.device)
