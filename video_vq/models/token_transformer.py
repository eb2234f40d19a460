"""The base class of all priors, with embeddings, conditions, transformer blocks and heads."""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from video_vq.errors import InputError
from video_vq.models.pretrained import Pretrained
from video_vq.models.prior_config import PriorConfig, PriorFacts, PriorKind
from video_vq.models.sub_codes import SubCodes
from video_vq.nn.attention import ChannelRMSNorm, SwiGLU, TransformerBlock
from video_vq.nn.inputs import as_integers, as_tensor
from video_vq.nn.precision import keeping_dtype
from video_vq.nn.rotary import RotaryTables, rotary_tables

Labels = Integer[Tensor, " b"] | Integer[np.ndarray, " b"]
Actions = Float[Tensor, "b t a"] | Float[np.ndarray, "b t a"]


class Condition(NamedTuple):
    """Embedded conditions: a start slot per clip, and a term for the slots of each latent frame."""

    start: Float[Tensor, "b d"]
    per_frame: Float[Tensor, "b t d"] | None


class TokenTransformer(Pretrained[PriorConfig, PriorFacts]):
    """A transformer over the tokens of a clip, flattened in the order t h w.

    A token with several sub-codes (models/sub_codes.py) takes one slot of the transformer: the
    token embedding is the sum of the sub-code embeddings, and a small MLP predicts the sub-codes
    one by one from the slot output and the earlier sub-codes. Separate slots would multiply the
    sequence length by the number of sub-codes, and the attention cost by the square of this number.
    With two sub-codes of 2^9 values each, the head and the logits are as large as for 1,024 codes;
    a single head over 2^18 codes would be 256 times as large.

    The head is not tied to the token embedding, since the head has at most a few percent of the
    parameters and starts at zero, so that the initial loss is exactly log K nats.

    Args:
        config: settings of tokens, conditions and transformer.
        checkpoint_activations: whether to recompute each block in the backward pass, which takes
            about a third more time and 1 / depth of the activation memory. Results do not change.

    Attributes:
        predicts: kind of prior, as named in the config.

    Raises:
        InputError: the config describes a different kind of prior.
    """

    kind = "prior"
    config_type = PriorConfig
    facts_type = PriorFacts
    predicts: ClassVar[PriorKind]

    action_mean: Float[Tensor, " a"]
    action_std: Float[Tensor, " a"]

    def __init__(self, config: PriorConfig, checkpoint_activations: bool = False):
        super().__init__(config)
        sizes = config.transformer
        if sizes.kind != self.predicts:
            raise InputError(
                f"{type(self).__name__} is {self.predicts}, this prior's kind is {sizes.kind!r}; "
                "load_prior (video_vq.models.priors) loads either"
            )
        frames, rows, columns = config.grid_thw
        self.checkpoint_activations = checkpoint_activations
        self.sub_codes = SubCodes(config.factors)
        self.token_embedding = nn.Embedding(sum(self.sub_codes.sizes), sizes.width)
        self.class_embedding = nn.Embedding(config.num_classes + 1, sizes.width)  # last: no class
        self.frame_position = nn.Parameter(torch.empty(frames, sizes.width))
        self.cell_position = nn.Parameter(torch.empty(rows * columns, sizes.width))
        if config.num_action_dims:
            self.action_embedding = nn.Linear(config.num_action_dims, sizes.width)
            self.no_action = nn.Parameter(torch.empty(sizes.width))
            self.register_buffer("action_mean", torch.zeros(config.num_action_dims))
            self.register_buffer("action_std", torch.ones(config.num_action_dims))
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                sizes.width,
                sizes.heads,
                sizes.hidden,
                sizes.dropout,
                is_causal=self.predicts == "autoregressive",
            )
            for _ in range(sizes.depth)
        )
        self.final_norm = ChannelRMSNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sum(self.sub_codes.sizes), bias=False)
        if len(self.sub_codes) > 1:
            before_last = sum(self.sub_codes.sizes[:-1])
            self.sub_code_embedding = nn.Embedding(before_last, sizes.width)
            self.sub_code_norm = ChannelRMSNorm(sizes.width)
            self.sub_code_mlp = SwiGLU(sizes.width, sizes.width)
        for name, table in zip(
            RotaryTables._fields,
            rotary_tables(config.grid_thw, sizes.head_dim, sizes.rotary_base),
            strict=True,
        ):
            self.register_buffer(f"rotary_{name}", table, persistent=False)
        self._initialise()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TokenTransformer":
        """Move or convert the model, but keep rotary tables and action statistics in float32."""
        buffers = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in buffers.items():
            assert buffer is not None
            self._buffers[name] = keeping_dtype(fn)(buffer)
        return self

    def _initialise(self) -> None:
        """Draw weights from torch's global generator; set the head and all biases to zero.

        The standard deviation is 0.02 for embeddings, 0.02 / √fan_in for the action embedding, and
        1 / √fan_in for other linear layers. As in GPT-2, the output layers of a block's residual
        branches are divided by √(2 · number of blocks).
        """
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            for output in (block.attention.output, block.mlp.down):
                with torch.no_grad():
                    output.weight.div_(math.sqrt(2 * len(self.blocks)))
        nn.init.normal_(self.frame_position, std=0.02)
        nn.init.normal_(self.cell_position, std=0.02)
        nn.init.zeros_(self.head.weight)
        if self.config.num_action_dims:
            nn.init.normal_(self.no_action, std=0.02)
            nn.init.normal_(
                self.action_embedding.weight, std=0.02 * self.config.num_action_dims**-0.5
            )

    def set_action_statistics(self, mean: Float[Tensor, " a"], std: Float[Tensor, " a"]) -> None:
        """Set the mean and standard deviation with which actions are standardized.

        Raises:
            InputError: the prior takes no actions, a size is wrong, a value is not finite, or a
                deviation is not positive.
        """
        size = self.config.num_action_dims
        if not size:
            raise InputError("this prior takes no actions (num_action_dims is 0)")
        if mean.shape != (size,) or std.shape != (size,):
            raise InputError(
                f"action statistics: expected {size} means and deviations, "
                f"found {tuple(mean.shape)} and {tuple(std.shape)}"
            )
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise InputError(
                "action statistics: means must be finite and deviations positive; "
                "give a constant action the deviation 1"
            )
        self.action_mean.copy_(mean)
        self.action_std.copy_(std)

    @property
    def rotary(self) -> RotaryTables:
        """Return the rotary tables of all slots."""
        return RotaryTables(*(getattr(self, f"rotary_{name}") for name in RotaryTables._fields))

    @property
    def positions(self) -> Float[Tensor, "n d"]:
        """Return the learned position of each token, the sum of a frame and a cell position."""
        return (self.frame_position[:, None] + self.cell_position).flatten(0, 1)

    def condition(
        self,
        batch: int,
        class_label: Labels | None,
        actions: Actions | None,
        dropped: Bool[Tensor, " b"] | None,
    ) -> Condition:
        """Embed the conditions of a batch of clips.

        Args:
            batch: number of clips.
            class_label: 0 … num_classes - 1, or NO_CLASS.
            actions: actions that lead to each latent frame, in the data's units.
            dropped: mask of the clips whose class and actions are hidden; None hides no conditions.

        Raises:
            InputError: a condition is missing but not dropped for all clips, is not supported by
                the prior, or has the wrong shape.
        """
        device = self.head.weight.device
        if dropped is None:
            dropped = torch.zeros(batch, dtype=torch.bool, device=device)
        num_classes = self.config.num_classes
        label = torch.full_like(dropped, num_classes, dtype=torch.long)
        self._require("class labels", class_label is not None, num_classes > 0, dropped)
        if class_label is not None:
            given = as_integers(class_label, "class labels").to(device).long()
            if given.shape != (batch,):
                raise InputError(
                    f"class labels: expected one for each of {batch} clips, found the shape "
                    f"{tuple(given.shape)}"
                )
            label = torch.where(dropped | (given < 0), label, given)
        self._require("actions", actions is not None, self.config.num_action_dims > 0, dropped)
        per_frame = None
        if self.config.num_action_dims:
            frames = self.config.grid_thw[0]
            per_frame = self.no_action.expand(batch, frames, -1)
            if actions is not None:
                actions = as_tensor(actions, "actions").to(device, torch.float32)
                expected = (batch, frames, self.config.num_action_dims)
                if tuple(actions.shape) != expected:
                    raise InputError(
                        f"actions: expected b t a = {expected} (numbers per latent frame), "
                        f"found {tuple(actions.shape)}"
                    )
                standard = (actions - self.action_mean) / self.action_std
                embedded = self.action_embedding(standard.to(self.no_action.dtype))
                per_frame = torch.where(dropped[:, None, None], per_frame, embedded)
        return Condition(self.class_embedding(label), per_frame)

    def _require(self, what: str, given: bool, taken: bool, dropped: Tensor) -> None:
        if given and not taken:
            raise InputError(f"this prior was trained without {what}; leave them out")
        if taken and not given and not bool(dropped.all()):
            raise InputError(
                f"this prior needs {what}; give them, or sample without any condition (guidance 0)"
            )

    def split_tokens(
        self, tokens: Integer[Tensor, "b n *level"] | Integer[np.ndarray, "b n *level"]
    ) -> Int[Tensor, "b n s"]:
        """Split tokens into sub-codes, on the model's device.

        Raises:
            InputError: the tokens are not integers or have the wrong axes, or the number of tokens
                is 0 or exceeds the clip length.
        """
        tokens = as_integers(tokens, "tokens").to(self.head.weight.device).long()
        sub_codes = self.sub_codes.split(tokens)
        if sub_codes.ndim != 3:
            axes, flat = ("b n level", "1, 3") if self.sub_codes.has_levels else ("b n", "1")
            raise InputError(
                f"tokens: expected {axes}, found the shape {tuple(tokens.shape)}; "
                f"for a grid of codes, pass grid.flatten({flat})"
            )
        num_slots = sub_codes.shape[1]
        if not 1 <= num_slots <= self.config.num_tokens:
            raise InputError(
                f"{num_slots} tokens for a prior of t h w = {self.config.grid_thw}: "
                f"expected 1 to {self.config.num_tokens}"
            )
        return sub_codes

    def drawn_or(self, dropped: Bool[Tensor, " b"] | None, batch: int) -> Bool[Tensor, " b"] | None:
        """Return `dropped`, the mask of clips without conditions, or draw a mask if it is None.

        A mask is drawn only in training mode and for a prior with conditions, from torch's global
        generator, with probability `condition_dropout`.
        """
        steered = self.config.num_classes or self.config.num_action_dims
        if dropped is None and self.training and steered:
            share = self.config.transformer.condition_dropout
            return torch.rand(batch, device=self.head.weight.device) < share
        return dropped

    def through_blocks(
        self, x: Float[Tensor, "b n d"], rotary: RotaryTables
    ) -> Float[Tensor, "b n d"]:
        """Run the transformer on embedded slots."""
        x = self.dropout(x)
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                x = checkpoint(block, x, rotary, use_reentrant=False)
            else:
                x = block(x, rotary)
        return x

    def logits(
        self, x: Float[Tensor, "b n d"], sub_codes: Int[Tensor, "b n s"]
    ) -> Float[Tensor, "b n v"]:
        """Return the concatenated logits of all sub-codes, each given the earlier sub-codes."""
        if len(self.sub_codes) == 1:
            return self.head(self.final_norm(x))
        found = []
        for place in range(len(self.sub_codes)):
            before = sub_codes[..., place - 1] if place else None
            x, of_place = self.next_logits(x, place, before)
            found.append(of_place)
        return torch.cat(found, dim=-1)

    def next_logits(
        self, x: Float[Tensor, "*n d"], place: int, before: Int[Tensor, "*n"] | None
    ) -> tuple[Float[Tensor, "*n d"], Float[Tensor, "*n v"]]:
        """Return updated features for a sub-code, and the logits of this sub-code.

        Args:
            x: slot outputs for the first sub-code, then the features returned for the previous
                sub-code.
            place: index of the sub-code.
            before: previous sub-code; None for the first.
        """
        head = self.head.weight.split(self.sub_codes.sizes)[place]
        if before is None:
            return x, F.linear(self.final_norm(x), head)
        x = x + self.sub_code_embedding(before + self.sub_codes.starts[place - 1])
        mixed = x + self.sub_code_mlp(self.sub_code_norm(x))
        return x, F.linear(self.final_norm(mixed), head)
