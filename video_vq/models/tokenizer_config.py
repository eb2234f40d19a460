"""What can be set about a tokenizer; imports no torch."""

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT
from video_vq.errors import InputError
from video_vq.quantizers.quantizer_config import AnyQuantizerConfig, QuantizerConfig

Stride = Annotated[int, Field(ge=1, le=8)]
StrideTHW = tuple[Stride, Stride, Stride]


@dataclass(frozen=True, config=STRICT)
class ConvBackboneConfig:
    """A 3D-convolutional encoder and its mirror image, the decoder (MAGVIT, Yu et al. 2023).

    Attributes:
        patch_thw: the box of pixels that the first layer folds into channels; causal models keep
            t = 1.
        stem_kernel: size of the first and the last convolution, 3, or 1 for large patches.
        strides_thw: one entry per downsampling, in t h w order.
        multipliers: channels of each level over `channels`; one more than there are strides.
        channels: base width.
        num_blocks: residual blocks per level.
        causal: no frame sees a later one; clips then have 1 + n·(stride in t) frames.
    """

    patch_thw: StrideTHW = (1, 2, 2)
    stem_kernel: Literal[1, 3] = 3
    strides_thw: tuple[StrideTHW, ...] = ((2, 2, 2), (2, 2, 2))
    multipliers: tuple[Annotated[int, Field(ge=1, le=16)], ...] = (1, 2, 4)
    channels: Annotated[int, Field(ge=8, le=1024)] = 64
    num_blocks: Annotated[int, Field(ge=1, le=8)] = 2
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
            raise ValueError(f"a causal model needs patch_thw with t = 1, found {self.patch_thw}")
        return self

    @property
    def total_stride_thw(self) -> tuple[int, int, int]:
        """Return how many frames, rows and columns one latent stands for."""
        steps = (self.patch_thw, *self.strides_thw)
        t, h, w = (math.prod(step[axis] for step in steps) for axis in range(3))
        return t, h, w

    def grid_thw(self, size_thw: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the token grid of a clip.

        Raises:
            InputError: the clip does not divide by the strides.
        """
        stride_t, stride_h, stride_w = self.total_stride_thw
        num_frames, height, width = size_thw
        lead = 1 if self.causal else 0
        if (
            (num_frames - lead) % stride_t
            or num_frames < 1
            or height % stride_h
            or width % stride_w
        ):
            below = max(lead + (num_frames - lead) // stride_t * stride_t, lead or stride_t)
            near = f"{below} or {below + stride_t}"
            rule = f"1 + a multiple of {stride_t}" if lead else f"a multiple of {stride_t}"
            raise InputError(
                f"a clip of t h w = {num_frames} x {height} x {width} does not divide by the "
                f"tokenizer's strides {stride_t} x {stride_h} x {stride_w}: frames must be {rule} "
                f"(near: {near}), height and width multiples of {stride_h} and {stride_w}; set "
                "data.num_frames, or prepare frames of such a size with "
                "`data-prep folder --size N`"
            )
        return (num_frames - lead) // stride_t + lead, height // stride_h, width // stride_w


@dataclass(frozen=True, config=STRICT)
class TokenizerConfig:
    """A tokenizer: backbone and quantizer."""

    backbone: ConvBackboneConfig = ConvBackboneConfig()
    quantizer: AnyQuantizerConfig = QuantizerConfig()


@dataclass(frozen=True, config=STRICT)
class TokenizerFacts:
    """What a tokenizer was trained on.

    Attributes:
        num_frames, stride, frame_size_hw: of its clips.
        grid_thw: of the tokens of such a clip.
        trained_on: content hash of the clip store.
        steps: optimizer steps.
    """

    num_frames: Annotated[int, Field(ge=1)]
    stride: Annotated[int, Field(ge=1)]
    frame_size_hw: tuple[PositiveInt, PositiveInt]
    grid_thw: tuple[PositiveInt, PositiveInt, PositiveInt]
    trained_on: str
    steps: int
