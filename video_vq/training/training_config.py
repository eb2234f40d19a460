"""What can be set about training, for tokenizer and prior; imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT
from video_vq.models.prior_config import TransformerConfig
from video_vq.models.tokenizer_config import TokenizerConfig

Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        steps: optimizer steps in all.
        batch_size: the global batch, over all processes and accumulated micro-batches.
        accumulation: micro-batches per step.
        lr: peak learning rate; `final_lr` is the fraction of it that is left at the end.
        warmup_steps: optimizer steps of linear warm-up.
        clip_norm: gradients with a larger norm are scaled down to it.
        max_bad_steps: skipped steps in a row (loss or gradient not finite) that end the run.
    """

    steps: int = Field(100_000, ge=1)
    batch_size: int = Field(16, ge=1)
    accumulation: int = Field(1, ge=1)
    lr: float = Field(3e-4, gt=0)
    final_lr: float = Field(0.05, ge=0, le=1)
    warmup_steps: int = Field(1000, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    max_bad_steps: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> "OptimizerConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulation "
                f"({self.accumulation})"
            )
        return self


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """How a run is kept and watched.

    Attributes:
        seed: of weights, order of data, restarts and dropout.
        log_every, validate_every, checkpoint_every: in optimizer steps.
        validation_clips: how many fixed clips (or token grids) of the val split are scored.
        average_decay: of the averaged weights; 0 turns averaging off.
        num_workers: processes per rank that read data ahead.
        compile: run the model through torch.compile.
        audit_every: write down each n-th step what every rank saw and holds; 0 never.
        checkpoint_activations: recompute activations in the backward pass to save memory (prior).
    """

    seed: int = Field(0, ge=0)
    log_every: int = Field(50, ge=1)
    validate_every: int = Field(2000, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    validation_clips: int = Field(64, ge=1)
    average_decay: float = Field(0.999, ge=0, lt=1)
    num_workers: int = Field(2, ge=0, le=64)
    compile: bool = False
    audit_every: int = Field(0, ge=0)
    checkpoint_activations: bool = False


@dataclass(frozen=True, config=STRICT)
class ClipConfig:
    """Which clips are cut out of the videos: frames and the distance between them."""

    num_frames: int = Field(16, ge=1, le=4096)
    stride: int = Field(1, ge=1, le=64)


@dataclass(frozen=True, config=STRICT)
class TokenizerLossConfig:
    """Weights of the tokenizer's losses.

    Attributes:
        reconstruction: "l1", or "mse", of pixels in [-1, 1].
        commitment: weight of mean (e − sg(q))²; the paper's and VQ-VAE's 0.25.
        codebook: weight of mean (q − sg(e))², used when the codebook learns by gradient.
    """

    reconstruction: Literal["l1", "mse"] = "l1"
    commitment: float = Field(0.25, ge=0)
    codebook: float = Field(1.0, ge=0)


@dataclass(frozen=True, config=STRICT)
class TokenizerTrainingConfig:
    """A tokenizer's training: the whole of configs/tokenizer/*.yaml."""

    data: ClipConfig = ClipConfig()
    model: TokenizerConfig = TokenizerConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    optim: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()


@dataclass(frozen=True, config=STRICT)
class PriorTrainingConfig:
    """A prior's training: the whole of configs/prior/*.yaml.

    The vocabulary, the grid and the number of classes come from the token store.
    """

    model: TransformerConfig = TransformerConfig()
    optim: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()
