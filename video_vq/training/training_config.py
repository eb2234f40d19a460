"""Training settings of tokenizers and priors. This module does not import torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT
from video_vq.data.clip_config import ClipConfig
from video_vq.models.prior_config import TransformerConfig
from video_vq.models.tokenizer_config import TokenizerConfig

Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """Settings of the optimizer and of the learning rate schedule.

    Attributes:
        kind: name of the optimizer. "muon" updates hidden matrices and kernels with Muon (Jordan et
            al. 2024) and everything else with AdamW (Loshchilov and Hutter 2019), at the same
            learning rates; "adamw" updates everything with AdamW.
        steps: total number of optimizer steps.
        batch_size: size of the global batch, over all processes and accumulated micro-batches.
        accumulation: number of micro-batches per step.
        lr: peak learning rate; `final_lr` is the fraction of this rate that remains at the end.
        warmup_steps: number of optimizer steps of linear warm-up.
        decay_steps: number of final optimizer steps over which the rate falls linearly, after a
            constant rate (warm-up–stable–decay), and from the end of the warm-up in a run with
            fewer steps; null for a cosine decay from the end of the warm-up.
        clip_norm: maximum gradient norm; gradients with a larger norm are scaled down.
        max_bad_steps: number of consecutive skipped steps (loss or gradient not finite) after which
            the run ends.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    steps: Annotated[int, Field(ge=1)] = 100_000
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulation: Annotated[int, Field(ge=1)] = 1
    lr: Annotated[float, Field(gt=0)] = 3e-4
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.05
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    decay_steps: Annotated[int, Field(ge=1)] | None = None
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
    """Settings for saving and monitoring a run.

    Attributes:
        seed: seed of initial weights, data order, restarts and dropout.
        log_every, validate_every, checkpoint_every: intervals in optimizer steps.
        validation_clips: maximum number of clips (or token grids) of the val split that each
            validation pass scores; the same throughout a run.
        average_decay: decay of the averaged weights; 0 turns averaging off.
        num_workers: number of processes per rank that load data in advance.
        compile: whether to use torch.compile for training steps, on the encoder and the decoder of
            a tokenizer or on a prior.
        checkpoint_activations: whether to recompute activations in the backward pass to save
            memory.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    log_every: Annotated[int, Field(ge=1)] = 50
    validate_every: Annotated[int, Field(ge=1)] = 2000
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    validation_clips: Annotated[int, Field(ge=1)] = 64
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    num_workers: Annotated[int, Field(ge=0, le=64)] = 2
    compile: bool = False
    checkpoint_activations: bool = False


@dataclass(frozen=True, config=STRICT)
class TokenizerRunConfig(RunConfig):
    """Settings for saving and monitoring a tokenizer run.

    Attributes:
        measure_gradients: whether to also log, at each logged step, how close each estimator's
            gradient is to the exact gradient; measuring costs two more passes of the decoder and
            does not affect training.
    """

    measure_gradients: bool = False


@dataclass(frozen=True, config=STRICT)
class PerceptualConfig:
    """Settings of the perceptual loss, ST-LPIPS (Ghildyal and Liu 2022), off by default.

    Attributes:
        weight: weight of the mean distance; 0 turns the loss off, and the rotation trick paper uses
            0.1.
        num_frames: number of frames per clip to compare with their originals, drawn again at each
            step.
        trunk: network that compares frames: "vgg", the usual network for losses, or "alex", about
            four times faster.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    num_frames: Annotated[int, Field(ge=1)] = 2
    trunk: Literal["vgg", "alex"] = "vgg"


@dataclass(frozen=True, config=STRICT)
class AdversarialConfig:
    """Settings of the adversarial loss, a 3D patch discriminator with hinge losses, off by default.

    Attributes:
        weight: fixed weight of the tokenizer's adversarial loss; 0 turns the discriminator off, and
            the rotation trick paper uses 0.1.
        start: step from which the discriminator is trained; earlier steps do not run the
            discriminator.
        warmup_steps: number of steps, from `start`, over which the weight grows from 0, so that an
            untrained discriminator has little influence.
        lecam: weight of the LeCam regularizer (Tseng et al. 2021, eq. 4).
        lr_ratio: ratio of the discriminator's learning rate to the tokenizer's.
        betas: betas of the discriminator's AdamW optimizer; the discriminator never uses Muon.
        channels: base width, doubled at each level up to eight times the base width.
        levels: number of halvings of t, h and w; each patch gets one logit.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    start: Annotated[int, Field(ge=0)] = 10_000
    warmup_steps: Annotated[int, Field(ge=0)] = 5000
    lecam: Annotated[float, Field(ge=0)] = 0.001
    lr_ratio: Annotated[float, Field(gt=0)] = 1.0
    betas: tuple[Beta, Beta] = (0.5, 0.9)
    channels: Annotated[int, Field(ge=8, le=1024)] = 64
    levels: Annotated[int, Field(ge=1, le=6)] = 3


@dataclass(frozen=True, config=STRICT)
class TokenizerLossConfig:
    """The tokenizer losses and the loss weights.

    Attributes:
        reconstruction: loss on pixels in [-1, 1]: "l1" or "mse".
        reconstruction_weight: weight of the reconstruction loss. "data" is the inverse of the loss
            of predicting the mean of all training pixels: the inverse variance of the pixels for
            "mse" (VQ-VAE), or the inverse mean absolute deviation for "l1".
        commitment: weight of mean (e − sg(q))²; 0.25 in VQ-VAE.
        codebook: weight of mean (q − sg(e))², used if the codebook is learned by gradient descent.
        entropy: weight of the entropy loss of binary codes (quantizers/quantizer_config.py).
        temporal: weight of the error of the differences between consecutive frames, absolute or
            squared like `reconstruction`; 0 turns the loss off. The loss is large if a
            reconstruction flickers, and 0 if the error is the same in all frames.
        perceptual, adversarial: settings of the perceptual and adversarial losses.
    """

    reconstruction: Literal["l1", "mse"] = "mse"
    reconstruction_weight: Annotated[float, Field(gt=0)] | Literal["data"] = 4.0
    commitment: Annotated[float, Field(ge=0)] = 0.25
    codebook: Annotated[float, Field(ge=0)] = 1.0
    entropy: Annotated[float, Field(ge=0)] = 0.1
    temporal: Annotated[float, Field(ge=0)] = 0.0
    perceptual: PerceptualConfig = PerceptualConfig()
    adversarial: AdversarialConfig = AdversarialConfig()


@dataclass(frozen=True, config=STRICT)
class TokenizerTrainingConfig:
    """All settings of a tokenizer's training: the contents of configs/tokenizer/*.yaml.

    Attributes:
        init_from: finished tokenizer to start from (fine-tuning): a model folder, a run folder, or
            "org/name" on the Hugging Face Hub. The tensors, including the codes, must fit `model`;
            the optimizer, the steps and the averages start from scratch.
        continuous_steps: number of initial steps in which the decoder decodes the latents, not the
            codes. In these steps, the codes follow the latents without being decoded, the quantizer
            losses have weight 0, and validation passes score the reconstructions of the latents.
            Afterwards, `init: data` draws the codes again.
    """

    data: ClipConfig = ClipConfig()
    model: TokenizerConfig = TokenizerConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    optim: OptimizerConfig = OptimizerConfig()
    run: TokenizerRunConfig = TokenizerRunConfig()
    init_from: str | None = None
    continuous_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _quantizes_at_last(self) -> "TokenizerTrainingConfig":
        if self.continuous_steps >= self.optim.steps:
            raise ValueError(
                f"continuous_steps = {self.continuous_steps} leaves none of optim.steps = "
                f"{self.optim.steps} to quantize in; lower it, or set "
                "model.quantizer.estimator: none for a model that never quantizes"
            )
        return self

    @model_validator(mode="after")
    def _frames_change(self) -> "TokenizerTrainingConfig":
        if self.loss.temporal and self.data.num_frames == 1:
            raise ValueError(
                f"loss.temporal = {self.loss.temporal:g} needs clips of at least 2 frames, "
                "data.num_frames is 1; set loss.temporal=0"
            )
        return self


@dataclass(frozen=True, config=STRICT)
class PriorTrainingConfig:
    """All settings of a prior's training: the contents of configs/prior/*.yaml.

    The vocabulary, the grid and the number of classes come from the token store.
    """

    model: TransformerConfig = TransformerConfig()
    optim: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()
