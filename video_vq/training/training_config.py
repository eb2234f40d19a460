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

    steps: Annotated[int, Field(ge=1)] = 100_000
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulation: Annotated[int, Field(ge=1)] = 1
    lr: Annotated[float, Field(gt=0)] = 3e-4
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.05
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    max_bad_steps: Annotated[int, Field(ge=1)] = 10

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
        checkpoint_activations: recompute activations in the backward pass to save memory.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    log_every: Annotated[int, Field(ge=1)] = 50
    validate_every: Annotated[int, Field(ge=1)] = 2000
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    validation_clips: Annotated[int, Field(ge=1)] = 64
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    num_workers: Annotated[int, Field(ge=0, le=64)] = 2
    compile: bool = False
    audit_every: Annotated[int, Field(ge=0)] = 0
    checkpoint_activations: bool = False


@dataclass(frozen=True, config=STRICT)
class ClipConfig:
    """Which clips are cut out of the videos: frames and the distance between them."""

    num_frames: Annotated[int, Field(ge=1, le=4096)] = 16
    stride: Annotated[int, Field(ge=1, le=64)] = 1


@dataclass(frozen=True, config=STRICT)
class TokenizerLossConfig:
    """Weights of the tokenizer's losses.

    Attributes:
        reconstruction: "l1", or "mse", of pixels in [-1, 1].
        reconstruction_weight: for "mse" about one over the variance of the pixels.
        commitment: weight of mean (e − sg(q))²; the paper's and VQ-VAE's 0.25.
        codebook: weight of mean (q − sg(e))², used when the codebook learns by gradient.
    """

    reconstruction: Literal["l1", "mse"] = "mse"
    reconstruction_weight: Annotated[float, Field(gt=0)] = 4.0
    commitment: Annotated[float, Field(ge=0)] = 0.25
    codebook: Annotated[float, Field(ge=0)] = 1.0


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
