"""Settings of a prior and of sampling from it; does not import torch."""

from math import log, prod
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT
from video_vq.errors import InputError
from video_vq.stores.tokens import TokenHeader

NO_CLASS = -1  # the label of a clip without a class; the prior reads it as its null class
MAX_SUB_CODE = 1 << 24
MAX_TOKENS = 65536  # positions of one clip; a config that asks for more must be a mistake

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
PriorKind = Literal["autoregressive", "masked"]


@dataclass(frozen=True, config=STRICT)
class TransformerConfig:
    """The kind and the sizes of the transformer.

    Attributes:
        kind: "autoregressive" predicts a clip's tokens one after the other. "masked" predicts
            hidden tokens from the visible ones, so that several can be drawn at once (MaskGIT,
            Chang et al. 2022): faster, without a likelihood.
        width: channels of the residual stream.
        depth: number of blocks.
        heads: number of attention heads; width / heads must be a multiple of 8.
        mlp_ratio: hidden channels of the SwiGLU over width, rounded up to a multiple of 32. 8/3
            gives as many parameters as a plain MLP of ratio 4 (Shazeer 2020, §2).
        dropout: rate of dropout on the embeddings and on what each block adds to the residual
            stream.
        condition_dropout: share of the clips whose class and actions are hidden in training, so
            that guidance has an unconditional prediction to push away from (Ho and Salimans 2022).
        rotary_base: base of the rotary wavelengths, which run from 2π grid cells to at most 2π
            times this.
        sub_code_size: largest number of values that are predicted at once; a larger code is
            predicted as several sub-codes of at most this size, one after the other (`factorise`).
    """

    kind: PriorKind = "autoregressive"
    width: Annotated[int, Field(ge=8, le=16384)] = 512
    depth: Annotated[int, Field(ge=1, le=256)] = 8
    heads: Annotated[int, Field(ge=1, le=256)] = 8
    mlp_ratio: Annotated[float, Field(gt=0.0, le=16.0)] = 8 / 3
    dropout: Share = 0.1
    condition_dropout: Share = 0.1
    rotary_base: Annotated[float, Field(gt=1.0, le=1e6)] = 100.0
    sub_code_size: Annotated[int, Field(ge=2, le=1 << 24)] = 1 << 14

    @model_validator(mode="after")
    def _heads_divide(self) -> "TransformerConfig":
        if self.width % (8 * self.heads):
            raise ValueError(
                f"width {self.width} does not split into {self.heads} heads of a multiple of 8 "
                f"channels; the next width that does is "
                f"{-(-self.width // (8 * self.heads)) * 8 * self.heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Return the number of channels of one head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Return the number of hidden channels of the SwiGLU."""
        return -(-round(self.width * self.mlp_ratio) // 32) * 32


@dataclass(frozen=True, config=STRICT)
class PriorConfig:
    """The tokens that a prior models, its conditions and its transformer.

    Attributes:
        codebook_size: number of the tokenizer's codes, K, or of combinations where a position has
            several codes.
        grid_thw: numbers of latent frames, rows and columns of one clip's tokens.
        num_classes: number of classes that it can sample; 0 for none.
        num_action_dims: number of values that steer a *latent* frame (actions per frame times
            frames per latent frame); 0 for none.
        transformer: sizes of the transformer.
        levels: codebook size of each code at a position; empty if there is only one.
        sub_codes: for each code at a position, the sizes of the sub-codes that it is predicted as;
            empty if all codes are predicted as they are.
    """

    codebook_size: Annotated[int, Field(ge=2)]
    grid_thw: tuple[PositiveInt, PositiveInt, PositiveInt]
    num_classes: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    num_action_dims: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    transformer: TransformerConfig = TransformerConfig()
    levels: tuple[Annotated[int, Field(ge=2)], ...] = ()
    sub_codes: tuple[tuple[Annotated[int, Field(ge=2)], ...], ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> "PriorConfig":
        if self.num_tokens > MAX_TOKENS:
            raise ValueError(
                f"a grid of t h w = {self.grid_thw} has {self.num_tokens} tokens, "
                f"more than {MAX_TOKENS}"
            )
        if prod(self.vocabulary) != self.codebook_size:
            raise ValueError(
                f"levels {self.levels} have a product of {prod(self.vocabulary)}, codebook_size is "
                f"{self.codebook_size}"
            )
        if tuple(prod(sizes) for sizes in self.factors) != self.vocabulary:
            raise ValueError(
                f"sub_codes {self.sub_codes} do not multiply to the levels {self.vocabulary}"
            )
        if max(self.sub_code_sizes) > MAX_SUB_CODE:
            raise ValueError(f"a code has at most {MAX_SUB_CODE} values, found {self.factors}")
        return self

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of a clip; several codes of a position are one token."""
        return prod(self.grid_thw)

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the codebook size of each code at a position."""
        return self.levels or (self.codebook_size,)

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """Return the sizes of the sub-codes of each code at a position."""
        return self.sub_codes or tuple((size,) for size in self.vocabulary)

    @property
    def sub_code_sizes(self) -> tuple[int, ...]:
        """Return the sizes of all sub-codes at a position, in the order of their prediction."""
        return tuple(size for sizes in self.factors for size in sizes)


def factorise(size: int, most: int) -> tuple[int, ...]:
    """Factorise a code's size into as few and as equal sizes of sub-codes as possible.

    For example, 2^18 with at most 2^14 becomes 2^9 x 2^9. Sub-codes are the digits of a code, the
    highest first. Each is predicted given the ones before it, so the product of their probabilities
    is that of the code.

    Args:
        size: number of values of the code.
        most: largest number of values of a sub-code.

    Raises:
        InputError: the size has no such factors.
    """
    for parts in range(1, size.bit_length() + 1):
        if found := _factors(size, parts, most):
            return found
    raise InputError(
        f"a code of {size} values does not split into sub-codes of at most {most} values, whose "
        f"numbers multiply to {size}; set model.sub_code_size={size} to predict it as it is"
    )


def _factors(size: int, parts: int, most: int) -> tuple[int, ...] | None:
    if parts == 1:
        return (size,) if size <= most else None
    divisors = [number for number in range(2, min(most, size // 2) + 1) if size % number == 0]
    even = log(size) / parts
    for first in sorted(divisors, key=lambda number: abs(log(number) - even)):
        if rest := _factors(size // first, parts - 1, most):
            return (first, *rest)
    return None


def config_for(header: TokenHeader, sizes: TransformerConfig) -> PriorConfig:
    """Return the config of a prior with these sizes over the tokens of a store.

    Raises:
        InputError: a code cannot be split into sub-codes of that size.
    """
    split = tuple(factorise(size, sizes.sub_code_size) for size in header.vocabulary)
    return PriorConfig(
        codebook_size=header.codebook_size,
        grid_thw=header.grid_thw,
        num_classes=len(header.classes),
        num_action_dims=header.num_action_dims,
        transformer=sizes,
        levels=header.levels,
        sub_codes=split if any(len(parts) > 1 for parts in split) else (),
    )


@dataclass(frozen=True, config=STRICT)
class PriorFacts:
    """The facts about a prior's training that are saved with it.

    Attributes:
        tokenizer_hash: hash of the tokenizer whose tokens it models.
        classes: names of the classes, in the order of their labels.
        num_frames, frame_size_hw, fps: length, frame size and frame rate of the clips behind the
            tokens.
        trained_on: content hash of the token store.
        steps: number of optimizer steps.
    """

    tokenizer_hash: str
    classes: tuple[str, ...]
    num_frames: Annotated[int, Field(ge=1)]
    frame_size_hw: tuple[PositiveInt, PositiveInt]
    fps: float | None
    trained_on: str
    steps: int


@dataclass(frozen=True, config=STRICT)
class SamplingSettings:
    """How tokens are drawn from the prior's logits; the settings apply in this order.

    Attributes:
        guidance: factor g in null + g · (conditional - null), classifier-free guidance on the
            logits (Ho and Salimans 2022, eq. 6, with g = 1 + w). 1 samples the conditional prior, 0
            the unconditional one.
        temperature: number that divides the logits.
        top_k: draw among the k likeliest tokens (and those equal to the k-th); None for all. If a
            token has several sub-codes, each of them is drawn this way.
        top_p: draw among the likeliest tokens that together reach this probability.
    """

    temperature: Annotated[float, Field(gt=0.0, le=1e4)] = 1.0
    top_k: PositiveInt | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    guidance: Annotated[float, Field(ge=0.0, le=1e4)] = 1.0


@dataclass(frozen=True, config=STRICT)
class ParallelSettings:
    """How a masked prior draws several tokens at once (Chang et al. 2022, §3.2).

    Attributes:
        steps: number of passes of the transformer for a clip. The hidden share falls along a
            cosine, by at least one token per step. With as many steps as tokens, they are drawn one
            after the other.
        confidence_temperature: temperature of the noise that is added to the log probabilities by
            which the drawn tokens to keep are chosen; it falls to 0 at the last step. 0 keeps the
            most certain tokens.
    """

    steps: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 12
    confidence_temperature: Annotated[float, Field(ge=0.0, le=1e4)] = 4.5
