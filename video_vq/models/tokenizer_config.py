"""Tokenizer settings, defined without importing torch."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT
from video_vq.errors import InputError
from video_vq.quantizers.quantizer_config import AnyQuantizerConfig, QuantizerConfig

Stride = Annotated[int, Field(ge=1, le=8)]
StrideTHW = tuple[Stride, Stride, Stride]
MAX_TOKENS = 1 << 20  # largest number of tokens per clip with learned position embeddings


@dataclass(frozen=True, config=STRICT)
class ConvBackboneConfig:
    """Settings of a 3D-convolutional encoder and mirror-image decoder (MAGVIT, Yu et al. 2023).

    Attributes:
        patch_thw: size of the pixel boxes that the first layer folds into channels; t is 1 in
            causal models.
        stem_kernel: kernel size of the first and last convolutions: 3, or 1 for large patches.
        strides_thw: strides of each downsampling layer, in t h w order.
        multipliers: number of channels of each level, as a multiple of `channels`; one more entry
            than `strides_thw`.
        channels: base width; multiples of 32, as in all shipped configs, run efficiently.
        num_blocks: number of residual blocks per level.
        upsampling: decoder upsampling: "subpixel", a linear map to finer positions, or the slower
            "nearest", copies followed by a convolution of size 3.
        causal: whether no frame depends on later frames; clips then have 1 + n·(time stride)
            frames.
    """

    kind: Literal["conv"] = "conv"
    patch_thw: StrideTHW = (1, 2, 2)
    stem_kernel: Literal[1, 3] = 3
    strides_thw: tuple[StrideTHW, ...] = ((2, 2, 2), (2, 2, 2))
    multipliers: tuple[Annotated[int, Field(ge=1, le=16)], ...] = (1, 2, 4)
    channels: Annotated[int, Field(ge=8, le=1024)] = 64
    num_blocks: Annotated[int, Field(ge=1, le=8)] = 2
    upsampling: Literal["nearest", "subpixel"] = "nearest"
    causal: bool = False

    @model_validator(mode="after")
    def _levels_match(self) -> "ConvBackboneConfig":
        if len(self.multipliers) != len(self.strides_thw) + 1:
            raise ValueError(
                f"multipliers must have one entry more than strides_thw: "
                f"{len(self.strides_thw)} strides need {len(self.strides_thw) + 1} multipliers, "
                f"found {len(self.multipliers)}"
            )
        if self.causal and self.patch_thw[0] > 1:
            raise ValueError(
                f"a causal model needs patch_thw with t = 1, found {self.patch_thw}; "
                "begin with a causal config (`base: bair_small.yaml`), or change patch_thw"
            )
        return self

    @property
    def total_stride_thw(self) -> tuple[int, int, int]:
        """Return the numbers of frames, rows and columns that one latent covers."""
        steps = (self.patch_thw, *self.strides_thw)
        t, h, w = (math.prod(step[axis] for step in steps) for axis in range(3))
        return t, h, w

    def grid_thw(self, size_thw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the token grid size t h w for a clip size.

        Raises:
            InputError: the clip size does not fit the strides.
        """
        stride_t, stride_h, stride_w = self.total_stride_thw
        num_frames, height, width = size_thw
        lead = 1 if self.causal else 0
        wrong: list[str] = []
        if num_frames < 1 or (num_frames - lead) % stride_t:
            below = max(lead + (num_frames - lead) // stride_t * stride_t, lead or stride_t)
            rule = f"1 + a multiple of {stride_t}" if lead else f"a multiple of {stride_t}"
            wrong.append(
                f"frames must be {rule} (near: {below} or {below + stride_t}): set data.num_frames"
            )
        if min(height, width) < 1 or height % stride_h or width % stride_w:
            next_hw = (
                max(1, -(-size // stride)) * stride
                for size, stride in ((height, stride_h), (width, stride_w))
            )
            wrong.append(
                f"height and width must be multiples of {stride_h} and {stride_w} (next: "
                f"{' x '.join(map(str, next_hw))}): prepare frames of such a size with "
                "`data-prep folder --size N`"
            )
        if wrong:
            raise InputError(
                f"a clip of t h w = {num_frames} x {height} x {width} is not divisible by "
                f"the tokenizer's strides {stride_t} x {stride_h} x {stride_w}; {'; '.join(wrong)}"
            )
        return (num_frames - lead) // stride_t + lead, height // stride_h, width // stride_w


@dataclass(frozen=True, config=STRICT)
class TimeSformerConfig:
    """Settings of a transformer encoder and decoder with divided space-time attention.

    The blocks are those of TimeSformer (Bertasius et al. 2021). The defaults describe the backbone
    that the rotation trick paper uses on BAIR (Fifty et al. 2025, table 11), with no compression in
    time and 16 x 32 x 32 tokens per clip.

    Attributes:
        size_thw: numbers of frames, rows and columns of clips; positions are learned, so other
            sizes raise an error.
        patch_thw: size of the pixel box that becomes one token.
        width: number of channels per token.
        depth: number of blocks, both in the encoder and in the decoder.
        heads: number of attention heads, which must divide the width.
        mlp_width: number of hidden channels of the MLPs.
    """

    kind: Literal["timesformer"] = "timesformer"
    size_thw: tuple[PositiveInt, PositiveInt, PositiveInt] = (16, 64, 64)
    patch_thw: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    width: Annotated[int, Field(ge=8, le=4096)] = 256
    depth: Annotated[int, Field(ge=1, le=64)] = 8
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    mlp_width: Annotated[int, Field(ge=8, le=16384)] = 768

    @model_validator(mode="after")
    def _divides(self) -> "TimeSformerConfig":
        if any(size % patch for size, patch in zip(self.size_thw, self.patch_thw, strict=True)):
            raise ValueError(
                f"size_thw {self.size_thw} is not divisible by patch_thw {self.patch_thw}"
            )
        if math.prod(self.size_thw) // math.prod(self.patch_thw) > MAX_TOKENS:
            raise ValueError(
                f"clips of size_thw {self.size_thw} in patches of {self.patch_thw} have more than "
                f"{MAX_TOKENS} tokens; take larger patches"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self

    @property
    def causal(self) -> bool:
        """Return False, since each frame attends to all frames."""
        return False

    @property
    def total_stride_thw(self) -> tuple[int, int, int]:
        """Return the numbers of frames, rows and columns that one latent covers."""
        return self.patch_thw

    def grid_thw(self, size_thw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the token grid size t h w for a clip size.

        Raises:
            InputError: the clip size differs from `size_thw`, for which positions are learned.
        """
        if size_thw != self.size_thw:
            found, expected = (" x ".join(map(str, size)) for size in (size_thw, self.size_thw))
            num_frames, height, width = self.size_thw
            raise InputError(
                f"this TimeSformer has learned positions for clips of t h w = {expected}, found "
                f"{found}; set data.num_frames={num_frames} and prepare frames of {height} x "
                f"{width} (`data-prep folder --size {height}`), or train one with "
                f"model.backbone.size_thw={list(size_thw)}"
            )
        t, h, w = (s // p for s, p in zip(self.size_thw, self.patch_thw, strict=True))
        return t, h, w


def _backbone_tag(value: Any) -> str:
    if isinstance(value, dict):
        return f"[{value.get('kind', 'conv')}]"
    return f"[{getattr(value, 'kind', None)}]"


# The config loader omits tags in brackets from the setting names that it prints.
AnyBackboneConfig = Annotated[
    Annotated[ConvBackboneConfig, Tag("[conv]")]
    | Annotated[TimeSformerConfig, Tag("[timesformer]")],
    Discriminator(
        _backbone_tag,
        custom_error_type="backbone_kind",
        custom_error_message="kind must be conv or timesformer",
    ),
]


@dataclass(frozen=True, config=STRICT)
class TokenizerConfig:
    """Settings of a tokenizer: backbone and quantizer."""

    backbone: AnyBackboneConfig = ConvBackboneConfig()
    quantizer: AnyQuantizerConfig = QuantizerConfig()


@dataclass(frozen=True, config=STRICT)
class TokenizerFacts:
    """Details of a tokenizer's training.

    Attributes:
        num_frames, stride, frame_size_hw: length and stride of the training clips in frames, and
            frame size in pixels.
        grid_thw: token grid size of a training clip.
        trained_on: content hash of the clip store.
        steps: number of optimizer steps.
    """

    num_frames: Annotated[int, Field(ge=1)]
    stride: Annotated[int, Field(ge=1)]
    frame_size_hw: tuple[PositiveInt, PositiveInt]
    grid_thw: tuple[PositiveInt, PositiveInt, PositiveInt]
    trained_on: str
    steps: int
