"""A prior that predicts hidden tokens from visible tokens and can draw several tokens at once."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor, nn

from video_vq.errors import InputError
from video_vq.models.prior_config import PriorConfig
from video_vq.models.token_transformer import Actions, Condition, Labels, TokenTransformer
from video_vq.nn.inputs import as_tensor
from video_vq.nn.rotary import RotaryTables


class MaskedPrior(TokenTransformer):
    """Bidirectional transformer over the tokens of a clip (MaskGIT, Chang et al. 2022).

    Slot i holds token i, or a learned embedding if the token is hidden, plus the learned position,
    the class, and the actions that lead to the token's latent frame. The transformer predicts token
    i from all slots. Tokens that are drawn in one pass do not see each other, so the prior has no
    likelihood; the loss is the cross entropy of the hidden tokens.

    Args:
        config: settings of tokens, conditions and transformer.
        checkpoint_activations: see `TokenTransformer`.
    """

    predicts = "masked"

    def __init__(self, config: PriorConfig, checkpoint_activations: bool = False):
        super().__init__(config, checkpoint_activations)
        self.hidden_token = nn.Parameter(torch.empty(config.transformer.width))
        nn.init.normal_(self.hidden_token, std=0.02)

    @property
    def rotary(self) -> RotaryTables:
        """Return rotary tables that rotate both queries and keys by the slot's own cell."""
        of_slots = super().rotary
        return of_slots._replace(key_cos=of_slots.query_cos, key_sin=of_slots.query_sin)

    def forward(
        self,
        tokens: Integer[Tensor, "b n *level"] | Integer[np.ndarray, "b n *level"],
        class_label: Labels | None = None,
        actions: Actions | None = None,
        dropped: Bool[Tensor, " b"] | None = None,
        hidden: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Return float32 logits: position i predicts token i from the visible tokens.

        If a token has several sub-codes, the logits of all sub-codes are concatenated; each
        sub-code is predicted from the visible tokens and the token's earlier sub-codes.

        Args:
            tokens: tokens of whole clips, with a level axis if a position has several codes. The
                last sub-code of a hidden token is never read.
            class_label: 0 … num_classes - 1, or NO_CLASS.
            actions: action values per latent frame, in the data's units.
            dropped: mask of the clips whose conditions are hidden; see `Prior.forward`.
            hidden: mask b n, True for hidden tokens; `hidden_tokens` draws the mask for training.
                None hides all tokens.

        Raises:
            InputError: the tokens are misshapen or do not form whole clips, a condition is missing,
                unexpected or misshapen, or `hidden` has the wrong shape or dtype.
        """
        sub_codes = self.split_tokens(tokens)
        batch, num_slots, _ = sub_codes.shape
        if num_slots != self.config.num_tokens:
            raise InputError(
                f"{num_slots} tokens for a masked prior of t h w = {self.config.grid_thw}: it "
                f"takes whole clips of {self.config.num_tokens}; `hidden` says which to predict"
            )
        hides = torch.ones(batch, num_slots, dtype=torch.bool, device=sub_codes.device)
        if hidden is not None:
            hides = as_tensor(hidden, "hidden").to(sub_codes.device)
        if hides.shape != (batch, num_slots) or hides.dtype != torch.bool:
            raise InputError(
                f"hidden: expected booleans b n = {(batch, num_slots)}, found {hides.dtype} "
                f"{tuple(hides.shape)}"
            )
        condition = self.condition(batch, class_label, actions, self.drawn_or(dropped, batch))
        return self.logits(self.outputs(sub_codes, hides, condition), sub_codes).float()

    def outputs(
        self, sub_codes: Int[Tensor, "b n s"], hidden: Bool[Tensor, "b n"], condition: Condition
    ) -> Float[Tensor, "b n d"]:
        """Return the slot outputs, from which `next_logits` computes logits.

        Args:
            sub_codes: sub-codes of whole clips; hidden tokens are ignored.
            hidden: mask of hidden tokens.
            condition: embedded conditions of the clips.
        """
        x = self.token_embedding(self.sub_codes.in_a_row(sub_codes)).sum(2)
        x = torch.where(hidden[..., None], self.hidden_token.to(x.dtype), x)
        x = x + self.positions + condition.start[:, None]
        if condition.per_frame is not None:
            x = x + condition.per_frame.repeat_interleave(self.cell_position.shape[0], dim=1)
        return self.through_blocks(x, self.rotary)


def hidden_tokens(keys: Sequence[Sequence[int]], num_tokens: int) -> Bool[Tensor, "b n"]:
    """Draw a mask of the tokens to hide, with a separate random key for each clip.

    The hidden share is cos(π/2 · u) with u uniform in [0, 1), like the share of tokens still hidden
    at a random sampling step. At least one token per clip is hidden.

    Args:
        keys: random key for each clip, as non-negative integers.
        num_tokens: number of tokens per clip.
    """
    hidden = np.zeros((len(keys), num_tokens), dtype=bool)
    for row, key in zip(hidden, keys, strict=True):
        random = np.random.default_rng([*key, 0x3A5])
        count = math.ceil(math.cos(math.pi / 2 * random.random()) * num_tokens)
        row[random.permutation(num_tokens)[:count]] = True
    return torch.from_numpy(hidden)
