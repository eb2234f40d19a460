"""The prior: a causal transformer that predicts a clip's tokens, one after the other."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from video_vq.models.sub_codes import SubCodes
from video_vq.models.token_transformer import Actions, Labels, TokenTransformer


class PriorLoss(NamedTuple):
    """Mean cross entropy per token in nats and bits: a rate, not comparable with losses on pixels.

    Several codes at a position form one token, whose cross entropy is the sum of theirs.
    """

    nats: Float[Tensor, ""]
    bits: Float[Tensor, ""]


class Prior(TokenTransformer):
    """Autoregressive transformer over the tokens of a clip, flattened in the order t h w.

    Slot i holds token i - 1 (slot 0 the start, which carries the class) plus the learned position
    of token i and the actions that lead to its latent frame; it predicts token i.

    Args:
        config: the tokens, the conditions and the sizes.
        checkpoint_activations: see `TokenTransformer`.
    """

    predicts = "autoregressive"

    def forward(
        self,
        tokens: Integer[Tensor, "b n *level"] | Integer[np.ndarray, "b n *level"],
        class_label: Labels | None = None,
        actions: Actions | None = None,
        dropped: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Return float32 logits: position i predicts token i from the tokens before it.

        Where a token has several sub-codes, their logits are concatenated; each is predicted from
        the tokens and the sub-codes before it.

        Args:
            tokens: the first n tokens of each clip, with an axis of levels where a position has
                several codes. The last sub-code of the last token is never read.
            class_label: 0 … num_classes - 1, or NO_CLASS.
            actions: numbers per latent frame, in the data's units.
            dropped: mask of clips whose conditions are hidden. None draws it in training mode, with
                probability `condition_dropout` from torch's global generator, and hides none in
                eval mode.

        Raises:
            InputError: a condition is missing, unexpected or misshapen, or n is too large.
        """
        sub_codes = self.split_tokens(tokens)
        batch, num_slots, _ = sub_codes.shape
        condition = self.condition(batch, class_label, actions, self.drawn_or(dropped, batch))
        rows = self.sub_codes.in_a_row(sub_codes[:, :-1])
        x = torch.cat([condition.start[:, None], self.token_embedding(rows).sum(2)], dim=1)
        x = x + self.positions[:num_slots]
        if condition.per_frame is not None:
            cells = self.cell_position.shape[0]
            x = x + condition.per_frame.repeat_interleave(cells, dim=1)[:, :num_slots]
        x = self.through_blocks(x, self.rotary.first(num_slots))
        return self.logits(x, sub_codes).float()


def token_nats(
    logits: Float[Tensor, "b n v"],
    tokens: Integer[Tensor, "b n *level"],
    sub_codes: SubCodes | None = None,
) -> Float[Tensor, "b n"]:
    """Return each token's cross entropy in nats, in float32.

    Args:
        logits: the prior's output.
        tokens: the tokens that were predicted.
        sub_codes: the prior's sub-codes; None for a single code per token.
    """
    if sub_codes is None or len(sub_codes) == 1:
        return _nats(logits, tokens, "none").view(logits.shape[:2])
    parts = zip(logits.split(sub_codes.sizes, 2), sub_codes.split(tokens).unbind(2), strict=True)
    return torch.stack([_nats(*part, "none") for part in parts]).sum(0).view(logits.shape[:2])


def prior_loss(
    logits: Float[Tensor, "b n v"],
    tokens: Integer[Tensor, "b n *level"],
    sub_codes: SubCodes | None = None,
    hidden: Bool[Tensor, "b n"] | None = None,
) -> PriorLoss:
    """Return the mean cross entropy per token, in nats and in bits; see `token_nats`.

    Args:
        hidden: mask of the tokens that were hidden from a masked prior: only these count, and every
            clip counts equally.
    """
    if hidden is not None:
        nats = clip_nats(token_nats(logits, tokens, sub_codes), hidden).mean()
    elif sub_codes is None or len(sub_codes) == 1:
        nats = _nats(logits, tokens, "mean")
    else:
        nats = token_nats(logits, tokens, sub_codes).mean()
    return PriorLoss(nats, nats / math.log(2))


def clip_nats(
    nats: Float[Tensor, "b n"], hidden: Bool[Tensor, "b n"] | None
) -> Float[Tensor, " b"]:
    """Return the mean over each clip's tokens, or over its hidden tokens."""
    if hidden is None:
        return nats.mean(1)
    return (nats * hidden).sum(1) / hidden.sum(1)


def _nats(logits: Tensor, tokens: Tensor, reduction: str) -> Tensor:
    flat = logits.float().flatten(0, 1)
    return F.cross_entropy(flat, tokens.flatten().long(), reduction=reduction)
