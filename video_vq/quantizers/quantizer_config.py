"""Quantizer settings, defined without importing torch."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic.dataclasses import dataclass

from video_vq.config import STRICT

Estimator = Literal[
    "straight_through", "rotation", "rotation_unit", "rotation_clipped", "scaled",
    "rotation_dynamic", "rotation_blended", "reflection", "diveq", "noise_substitution",
    "gumbel_softmax", "index_backpropagation", "exact_gradient", "hessian", "none",
]  # fmt: skip
ResidualEstimator = Literal[
    "straight_through", "rotation", "rotation_unit", "rotation_clipped", "scaled", "reflection"
]
Learning = Literal["ema", "gradient", "frozen"]
Init = Literal["data", "uniform"]
RmsScaling = Literal["none", "constant", "with_gradient"]
Activation = Literal["tanh", "sigmoid"]
# Settings that only some estimators use: setting name, estimators and default.
SETTINGS_OF_SOME: tuple[tuple[str, tuple[Estimator, ...], float], ...] = (
    ("equal_angle", ("rotation_blended",), 30.0),
    ("noise_variance", ("diveq",), 5e-3),
    ("temperature", ("gumbel_softmax", "index_backpropagation"), 1.0),
)
# These estimators compute the gradient at the compared latents, independently of the origin.
AT_COMPARED_LATENTS: tuple[Estimator, ...] = (
    "diveq", "noise_substitution", "gumbel_softmax", "index_backpropagation", "exact_gradient",
    "hessian", "none",
)  # fmt: skip
CodebookSize = Annotated[int, Field(ge=2, le=1 << 20)]
CodebookDim = Annotated[int, Field(ge=1, le=4096)]
Groups = Annotated[int, Field(ge=1, le=64)]
MAX_CODES = 1 << 24  # largest number of codes of one level
MAX_LEVELS = 64  # largest number of codes at a position


@dataclass(frozen=True, config=STRICT)
class EstimatorConfig:
    """Settings for comparing latents with codes, and for the gradient that latents receive.

    The variants in the rotation trick paper correspond to these settings:

    | variant | estimator | normalize | gradient_through_norm |
    |---|---|---|---|
    | equation 4, Euclidean | rotation | false | |
    | equation 4, cosine | rotation | true | false |
    | released code | rotation | true | true |
    | released baseline | straight_through | true | false |
    | like-for-like baseline | straight_through | true | true |

    Attributes:
        estimator: name of the gradient estimator (quantizers/gradient.py). With diveq,
            noise_substitution and gumbel_softmax, a training step decodes a substitute instead of
            the code (quantizers/substitutes.py); exact_gradient and hessian compute the gradient in
            a second decoder pass (training/second_pass.py); with none, the decoder always sees the
            latents, which gives an upper bound on quality: codes follow the latents but are never
            decoded, and are of no use to a prior.
        normalize: whether to quantize on the unit sphere, with l2-normalized latents and codes.
        gradient_through_norm: whether, with `normalize`, the gradient also passes through e/|e|,
            which keeps only the gradient's tangential part; false applies the estimator to the raw
            latent.
        centered: whether to rotate about the mean latent instead of the origin; for latents far
            from the origin, a rotation about the origin is close to the identity.
        tangential_commitment: whether only the component of the commitment gradient orthogonal to
            each latent is kept, which turns latents towards their codes without changing the
            latents' lengths.
        equal_angle: angle in degrees between latent and code at which the rotated and the copied
            gradient have equal weight, for the estimator rotation_blended.
        noise_variance: variance per channel of the noise added to the error direction, for the
            estimator diveq; the default follows vector-quantize-pytorch.
        temperature: temperature of the softmax over all codes, in units of distance for
            gumbel_softmax and of squared distance for index_backpropagation.
    """

    estimator: Estimator = "rotation"
    normalize: bool = False
    gradient_through_norm: bool = True
    centered: bool = False
    tangential_commitment: bool = False
    equal_angle: Annotated[float, Field(gt=0, le=1000)] = 30.0
    noise_variance: Annotated[float, Field(ge=0)] = 5e-3
    temperature: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _fits_together(self) -> "EstimatorConfig":
        for name, estimators, default in SETTINGS_OF_SOME:
            if getattr(self, name) != default and self.estimator not in estimators:
                raise ValueError(
                    f"{name} is a setting of estimator: {' or '.join(estimators)}, found "
                    f"{self.estimator}; leave it out, or set that estimator"
                )
        if not self.gradient_through_norm and not self.normalize:
            raise ValueError(
                "gradient_through_norm: false applies only to normalize: true; "
                "leave it out, or set normalize: true"
            )
        if not self.gradient_through_norm and self.centered:
            raise ValueError(
                "gradient_through_norm: false rotates raw latents to unit codes, which have no "
                "common centre; set centered: false"
            )
        if self.estimator in AT_COMPARED_LATENTS and (
            self.centered or not self.gradient_through_norm
        ):
            raise ValueError(
                f"estimator: {self.estimator} has its gradient at the latents as they are compared "
                "with the codes, wherever the origin is; leave centered and gradient_through_norm "
                "out"
            )
        if self.tangential_commitment and self.normalize:
            raise ValueError(
                "with normalize: true the commitment is tangential already, as its gradient "
                "passes e/|e|; leave tangential_commitment out"
            )
        return self


@dataclass(frozen=True, config=STRICT)
class QuantizerConfig(EstimatorConfig):
    """Settings of a codebook and its learning rule.

    Attributes:
        codebook_size: number of codes, K.
        codebook_dim: code dimension, D, to which the encoder output is projected.
        learning: learning rule: "ema" moves each code to the average of its latents, "gradient"
            trains codes with a codebook loss, and "frozen" keeps the codes as initialized or
            loaded.
        decay: decay of the averages per optimizer step.
        decay_warmup: whether the decay at update t is min(decay, (1 + t)/(10 + t)), so that codes
            that are unused after the first steps are restarted soon.
        init: source of the initial codes: latents of the first batch ("data"), or U(-1/K, 1/K)
            ("uniform").
        restart_threshold: fraction of the mean count N/K below which a code's averaged count causes
            a restart, which moves the code to a latent of the batch. 0 turns restarts off.
        rms_scaling: whether and how latents are divided by their root mean square, averaged over
            steps with `decay`: "none" leaves latents unscaled, "with_gradient" also passes the
            gradient through the scale, and "constant" treats the scale as a constant
            (quantizers/scale.py).
    """

    kind: Literal["vector"] = "vector"
    codebook_size: CodebookSize = 1024
    codebook_dim: CodebookDim = 64
    learning: Learning = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    decay_warmup: bool = True
    init: Init = "data"
    restart_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1
    rms_scaling: RmsScaling = "none"

    @model_validator(mode="after")
    def _codes_fit_together(self) -> "QuantizerConfig":
        if self.estimator == "index_backpropagation" and self.learning != "gradient":
            raise ValueError(
                "estimator: index_backpropagation moves all codes by its gradient, found learning: "
                f"{self.learning}; set learning: gradient"
            )
        if self.normalize and self.rms_scaling != "none":
            raise ValueError(
                f"rms_scaling: {self.rms_scaling} changes nothing with normalize: true, which "
                "takes the length from every latent; leave out one of them"
            )
        return self

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of codes of the only level, as a tuple."""
        return (self.codebook_size,)


@dataclass(frozen=True, config=STRICT)
class SimVQConfig(EstimatorConfig):
    """Settings of SimVQ (Zhu et al. 2024): fixed random codes and one learned linear map.

    Every optimizer step moves all codes, so no code dies. Training needs the codebook loss.
    """

    kind: Literal["simvq"] = "simvq"
    codebook_size: CodebookSize = 1024
    codebook_dim: CodebookDim = 64

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of codes of the only level, as a tuple."""
        return (self.codebook_size,)


class _ManyCodes:
    """Settings whose codebook size is the product of the sizes in `vocabulary`."""

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of codes of each level; a position has one code per level."""
        raise NotImplementedError

    @property
    def codebook_size(self) -> int:
        """Return the number of codes, K, or of combinations if a position has several codes."""
        return math.prod(self.vocabulary)


@dataclass(frozen=True, config=STRICT)
class FiniteConfig(_ManyCodes):
    """Settings of FSQ (Mentzer et al. 2023), which rounds each channel to a few levels.

    Attributes:
        levels: number of values of each channel, at least 3; the product is the codebook size. The
            paper proposes (8, 6, 5) for 2^8, (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) for 2^12.
        groups: number of codes per position, each computed from separate channels with these
            levels.
        activation: function that bounds each channel before rounding: "tanh", or iFSQ's "sigmoid",
            2σ(1.6x) − 1, whose values are closer to uniform for normally distributed latents.
    """

    kind: Literal["finite"] = "finite"
    levels: tuple[Annotated[int, Field(ge=3, le=256)], ...] = (8, 5, 5, 5)
    groups: Groups = 1
    activation: Activation = "tanh"

    @model_validator(mode="after")
    def _has_a_size(self) -> "FiniteConfig":
        if not self.levels or math.prod(self.levels) > MAX_CODES:
            raise ValueError(f"levels must have a product of 3 to {MAX_CODES}, found {self.levels}")
        return self

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of codes of each group."""
        return (math.prod(self.levels),) * self.groups


@dataclass(frozen=True, config=STRICT)
class BinaryConfig(_ManyCodes):
    """Settings of BSQ (Zhao et al. 2024) or LFQ (Yu et al. 2023), which keep each channel's sign.

    The entropy loss (weight `loss.entropy`) uses the soft assignment of a latent z to codes c,
    p(c | z) ∝ exp(−|z − c|² / temperature), whose bits are independent. The loss is
    H(c | z) + diversity · (log K − H(c)), in nats. The first term favors confident assignments,
    and the second term favors equally frequent codes over the batch.

    Attributes:
        num_bits: number of bits per code; there are 2^num_bits codes.
        spherical: true for BSQ, with latents and codes on the unit sphere; false for LFQ, with raw
            latents and codes of ±1.
        groups: number of codes per position, each computed from separate channels.
        temperature: temperature of the soft assignment.
        diversity: weight of the second term.
        entropy_channels: number of bits per block. H(c) is computed as if the blocks were
            independent, which needs no table of 2^num_bits entries and gives an upper bound on the
            joint entropy.
    """

    kind: Literal["binary"] = "binary"
    num_bits: Annotated[int, Field(ge=1, le=24)] = 10
    spherical: bool = True
    groups: Groups = 1
    temperature: Annotated[float, Field(gt=0)] = 0.01
    diversity: Annotated[float, Field(ge=0)] = 1.0
    entropy_channels: Annotated[int, Field(ge=1, le=18)] = 9

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of codes of each group."""
        return (1 << self.num_bits,) * self.groups


@dataclass(frozen=True, config=STRICT)
class ResidualConfig(_ManyCodes):
    """Settings of residual VQ (Zeghidour et al. 2021), grouped VQ, or both.

    One level with several groups is grouped VQ, also called product VQ. See `QuantizerConfig` for
    the settings that are not described here.

    Attributes:
        codebook_sizes: number of codes of each level; a level quantizes the residual of the
            previous level.
        groups: number of groups into which latent channels are split; each group has its own
            codebooks.
        codebook_dim: code dimension within one group.
        shared: whether all levels of a group use one codebook.
        dropout: whether the decoder sees only the first few levels in training; the number of
            levels is drawn for each step.
        estimator: name of the gradient estimator, which passes the gradient from the sum of a
            group's levels to the group's latent.
    """

    kind: Literal["residual"] = "residual"
    codebook_sizes: tuple[CodebookSize, ...] = (1024, 1024)
    groups: Groups = 1
    codebook_dim: CodebookDim = 64
    shared: bool = False
    dropout: bool = False
    estimator: ResidualEstimator = "rotation"
    learning: Learning = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    decay_warmup: bool = True
    init: Init = "data"
    restart_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _has_several_codes(self) -> "ResidualConfig":
        levels = len(self.codebook_sizes)
        if not 2 <= levels * self.groups <= MAX_LEVELS:
            raise ValueError(
                f"codebook_sizes x groups = {levels} x {self.groups} codes per position: expected "
                f"2 to {MAX_LEVELS}; for a single code set kind: vector"
            )
        if self.shared and len(set(self.codebook_sizes)) > 1:
            raise ValueError(
                f"shared: true needs levels of one size, found codebook_sizes "
                f"{self.codebook_sizes}; make them equal, or set shared: false"
            )
        if self.dropout and levels == 1:
            raise ValueError(
                "dropout: true leaves out levels, and there is only one; set dropout: false"
            )
        return self

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the codebook size of each code at a position, ordered by level, then by group."""
        return tuple(size for size in self.codebook_sizes for _ in range(self.groups))

    def level_config(self, codebook_size: int) -> QuantizerConfig:
        """Return the settings of a codebook with this number of codes."""
        return QuantizerConfig(
            codebook_size=codebook_size,
            codebook_dim=self.codebook_dim,
            learning=self.learning,
            decay=self.decay,
            decay_warmup=self.decay_warmup,
            init=self.init,
            restart_threshold=self.restart_threshold,
        )


def quantizes(config: Any) -> bool:
    """Return whether the decoder sees codes; with `estimator: none`, the decoder sees latents."""
    return getattr(config, "estimator", None) != "none"


def _tag(value: Any) -> str:
    if isinstance(value, dict):
        return f"[{value.get('kind', 'vector')}]"
    return f"[{getattr(value, 'kind', None)}]"


# The config loader omits tags in brackets from the setting names that it prints.
AnyQuantizerConfig = Annotated[
    Annotated[QuantizerConfig, Tag("[vector]")]
    | Annotated[SimVQConfig, Tag("[simvq]")]
    | Annotated[FiniteConfig, Tag("[finite]")]
    | Annotated[BinaryConfig, Tag("[binary]")]
    | Annotated[ResidualConfig, Tag("[residual]")],
    Discriminator(
        _tag,
        custom_error_type="quantizer_kind",
        custom_error_message="kind must be vector, simvq, finite, binary or residual",
    ),
]
