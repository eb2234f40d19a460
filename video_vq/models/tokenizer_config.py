"""Settings of a tokenizer; does not import torch."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT
from video_vq.errors import InputError
from video_vq.quantizers.quantizer_config import AnyQuantizerConfig, QuantizerConfig

Stride = Annotated[int, Field(ge=1, le=8)]
StrideTHW = tuple[Stride, Stride, Stride]
MAX_TOKENS = 1 << 20  # tokens of one clip with learned positions; more must be a mistake


@dataclass(frozen=True, config=STRICT)
class ConvBackboneConfig:
    """A 3D-convolutional encoder and its mirror image, the decoder (MAGVIT, Yu et al. 2023).

    Attributes:
        patch_thw: size of the box of pixels that the first layer folds into channels; t is 1 in
            causal models.
        stem_kernel: kernel size of the first and the last convolution: 3, or 1 for large patches.
        strides_thw: strides of each downsampling, in t h w order.
        multipliers: channels of each level as a multiple of `channels`, with one more entry than
            strides.
        channels: base width; processors work well with multiples of 32, which all shipped configs
            have.
        num_blocks: number of residual blocks per level.
        upsampling: upsampling of the decoder: "subpixel", a linear map to the finer positions, or
            "nearest", copies and a convolution of size 3, which is slower.
        causal: whether no frame depends on a later one; clips then have 1 + n·(stride in t) frames.
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
        """Return the number of frames, rows and columns that one latent covers."""
        steps = (self.patch_thw, *self.strides_thw)
        t, h, w = (math.prod(step[axis] for step in steps) for axis in range(3))
        return t, h, w

    def grid_thw(self, size_thw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the token grid of a clip.

        Raises:
            InputError: the clip is not divisible by the strides.
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
    """A transformer of divided space-time attention (Bertasius et al. 2021), and its mirror image.

    The defaults are the backbone of the rotation trick's paper on BAIR (Fifty et al. 2025, table
    11): no compression in time, 16 x 32 x 32 tokens a clip.

    Attributes:
        size_thw: number of frames, rows and columns of the clips; positions are learned, so other
            sizes are refused.
        patch_thw: size of the box of pixels that becomes one token.
        width: number of channels of a token.
        depth: number of blocks of the encoder, and again of the decoder.
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
        """Return the number of frames, rows and columns that one latent covers."""
        return self.patch_thw

    def grid_thw(self, size_thw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the token grid of a clip.

        Raises:
            InputError: the clip's size is not the one that the positions were made for.
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


# Tags in brackets are left out of the names of settings that the config loader prints.
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
    """A tokenizer: backbone and quantizer."""

    backbone: AnyBackboneConfig = ConvBackboneConfig()
    quantizer: AnyQuantizerConfig = QuantizerConfig()


@dataclass(frozen=True, config=STRICT)
class TokenizerFacts:
    """The data that a tokenizer was trained on.

    Attributes:
        num_frames, stride, frame_size_hw: length and stride of its clips in frames, and the size of
            their frames in pixels.
        grid_thw: token grid of one of these clips.
        trained_on: content hash of the clip store.
        steps: number of optimizer steps.
    """

    num_frames: Annotated[int, Field(ge=1)]
    stride: Annotated[int, Field(ge=1)]
    frame_size_hw: tuple[PositiveInt, PositiveInt]
    grid_thw: tuple[PositiveInt, PositiveInt, PositiveInt]
    trained_on: str
    steps: int
