"""The prior: a causal transformer that predicts the tokens of a clip one by one."""

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
    """Mean cross entropy per token, in nats and in bits.

    Several codes at a position form one token, whose cross entropy is the sum over the codes.
    """

    nats: Float[Tensor, ""]
    bits: Float[Tensor, ""]


class Prior(TokenTransformer):
    """Autoregressive transformer over the tokens of a clip, flattened in the order t h w.

    Slot i contains token i - 1 (slot 0 contains the start token with the class) plus the learned
    position of token i and the actions that lead to the latent frame of token i. The slot's output
    predicts token i.

    Args:
        config: settings of tokens, conditions and transformer.
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
        """Return float32 logits: position i predicts token i from the preceding tokens.

        If a token has several sub-codes, the logits of all sub-codes are concatenated; each
        sub-code is predicted from the preceding tokens and the token's earlier sub-codes.

        Args:
            tokens: the first n tokens of each clip, with a level axis if a position has several
                codes. The last sub-code of the last token is never read.
            class_label: 0 … num_classes - 1, or NO_CLASS.
            actions: action values per latent frame, in the data's units.
            dropped: mask of the clips whose conditions are hidden. In training mode, None draws a
                mask from torch's global generator with probability `condition_dropout`; in eval
                mode, None hides no conditions.

        Raises:
            InputError: the tokens are misshapen, n is 0 or too large, or a condition is missing,
                unexpected or misshapen.
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
    """Return the cross entropy of each token in nats, in float32.

    Args:
        logits: output of the prior.
        tokens: tokens to predict.
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
        hidden: mask of the tokens that were hidden from a masked prior; the mean then covers only
            hidden tokens, with equal weight for every clip. None averages over all tokens.
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
    """Return each clip's mean nats over hidden tokens, or over all tokens if no mask is given."""
    if hidden is None:
        return nats.mean(1)
    return (nats * hidden).sum(1) / hidden.sum(1)


def _nats(logits: Tensor, tokens: Tensor, reduction: str) -> Tensor:
    flat = logits.float().flatten(0, 1)
    return F.cross_entropy(flat, tokens.flatten().long(), reduction=reduction)
