"""Prior settings and sampling settings, defined without importing torch."""

from math import log, prod
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT, check_config, to_json
from video_vq.errors import InputError
from video_vq.stores.tokens import TokenHeader

NO_CLASS = -1  # label of a clip without a class, which a prior maps to the null class
MAX_SUB_CODE = 1 << 24
MAX_TOKENS = 65536  # largest number of positions per clip, to catch config mistakes

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
PriorKind = Literal["autoregressive", "masked"]


@dataclass(frozen=True, config=STRICT)
class TransformerConfig:
    """Settings of the transformer: prior kind, sizes and dropout.

    Attributes:
        kind: "autoregressive" predicts the tokens of a clip one by one. "masked" predicts hidden
            tokens from visible tokens, so that several tokens can be drawn at once (MaskGIT, Chang
            et al. 2022), which is faster but gives no likelihood.
        width: number of channels in the residual stream.
        depth: number of blocks.
        heads: number of attention heads; width / heads must be a multiple of 8.
        mlp_ratio: ratio of hidden SwiGLU channels to width; the number of hidden channels is
            rounded up to a multiple of 32. 8/3 gives as many parameters as a plain MLP of ratio 4
            (Shazeer 2020, §2).
        dropout: dropout rate for embeddings and for the outputs that blocks add to the residual
            stream.
        condition_dropout: share of clips whose class and actions are hidden in training, which
            gives the unconditional predictions that guidance needs (Ho and Salimans 2022).
        rotary_base: base of the rotary wavelengths, which run from 2π to at most 2π · rotary_base
            grid cells.
        sub_code_size: largest number of values per prediction; a code with more values is predicted
            as several sub-codes of at most this size, one by one (`factorise`).
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
        """Return the number of channels per head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Return the number of hidden channels of the SwiGLU."""
        return -(-round(self.width * self.mlp_ratio) // 32) * 32


@dataclass(frozen=True, config=STRICT)
class PriorConfig:
    """Settings of a prior: tokens, conditions and transformer.

    Attributes:
        codebook_size: number of codes of the tokenizer, K, or of combinations if a position has
            several codes.
        grid_thw: numbers of latent frames, rows and columns in a clip's token grid.
        num_classes: number of classes; 0 for a prior without classes.
        num_action_dims: number of action values per *latent* frame (action values per frame times
            frames per latent frame); 0 for a prior without actions.
        transformer: transformer settings.
        levels: codebook size of each code at a position; empty if there is only one code.
        sub_codes: sub-code sizes for each code at a position; empty if no code is split into
            sub-codes.
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
        """Return the number of tokens per clip; several codes at a position form one token."""
        return prod(self.grid_thw)

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the codebook size of each code at a position."""
        return self.levels or (self.codebook_size,)

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """Return the sub-code sizes for each code at a position."""
        return self.sub_codes or tuple((size,) for size in self.vocabulary)

    @property
    def sub_code_sizes(self) -> tuple[int, ...]:
        """Return the sizes of all sub-codes at a position, in prediction order."""
        return tuple(size for sizes in self.factors for size in sizes)


def factorise(size: int, most: int) -> tuple[int, ...]:
    """Factorize the size of a code into as few and as equal sub-code sizes as possible.

    For example, 2^18 with at most 2^14 becomes 2^9 x 2^9. Sub-codes are the digits of a code, with
    the highest digit first. Each sub-code is predicted given the earlier sub-codes, so the product
    of the sub-code probabilities is the probability of the code.

    Args:
        size: number of code values.
        most: largest number of values per sub-code.

    Raises:
        InputError: the size cannot be factorized into sub-code sizes of at most `most`.
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
    """Return the config of a prior with these transformer settings for a token store.

    Raises:
        InputError: a code cannot be split into sub-codes of at most `sub_code_size` values.
        ConfigError: the tokens exceed a limit of priors, such as the number of tokens per clip.
    """
    split = tuple(factorise(size, sizes.sub_code_size) for size in header.vocabulary)
    settings = {
        "codebook_size": header.codebook_size,
        "grid_thw": header.grid_thw,
        "num_classes": len(header.classes),
        "num_action_dims": header.num_action_dims,
        "transformer": to_json(sizes),
        "levels": header.levels,
        "sub_codes": split if any(len(parts) > 1 for parts in split) else (),
    }
    return check_config(PriorConfig, settings, "a prior of these tokens")


@dataclass(frozen=True, config=STRICT)
class PriorFacts:
    """Details of a prior's training, which are saved with the prior.

    Attributes:
        tokenizer_hash: hash of the tokenizer that produced the tokens.
        classes: class names, in label order.
        num_frames, frame_size_hw, fps: length, frame size and frame rate of the tokenized clips.
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
    """Settings for drawing tokens from a prior's logits, applied in the order listed here.

    Attributes:
        guidance: factor g in null + g · (conditional - null), classifier-free guidance on the
            logits (Ho and Salimans 2022, eq. 6, with g = 1 + w). 1 samples the conditional prior,
            and 0 samples the unconditional prior.
        temperature: divisor of the logits.
        top_k: number of most likely tokens among which to draw (plus ties with the last); None for
            all tokens. If a token has several sub-codes, the limit applies to each sub-code.
        top_p: total probability that the smallest set of most likely tokens must reach; only tokens
            of this set are drawn. The limit applies to each sub-code.
    """

    temperature: Annotated[float, Field(gt=0.0, le=1e4)] = 1.0
    top_k: PositiveInt | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    guidance: Annotated[float, Field(ge=0.0, le=1e4)] = 1.0


@dataclass(frozen=True, config=STRICT)
class ParallelSettings:
    """Settings for drawing several tokens at once from a masked prior (Chang et al. 2022, §3.2).

    Attributes:
        steps: number of transformer passes per clip. The number of hidden tokens follows a
            cosine and falls by at least one per step. With as many steps as tokens, tokens are
            drawn one by one.
        confidence_temperature: initial temperature of the noise that is added to log probabilities
            before the most certain drawn tokens are kept; the temperature falls to 0 at the last
            step. 0 adds no noise.
    """

    steps: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 12
    confidence_temperature: Annotated[float, Field(ge=0.0, le=1e4)] = 4.5
