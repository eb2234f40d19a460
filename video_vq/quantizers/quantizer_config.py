"""Settings of a quantizer; does not import torch."""

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
# Settings that only some estimators have: their names, these estimators, their defaults.
SETTINGS_OF_SOME: tuple[tuple[str, tuple[Estimator, ...], float], ...] = (
    ("equal_angle", ("rotation_blended",), 30.0),
    ("noise_variance", ("diveq",), 5e-3),
    ("temperature", ("gumbel_softmax", "index_backpropagation"), 1.0),
)
# Their gradients are those at the compared latents, wherever the origin is.
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
    """Settings of the comparison of latents with codes, and of the gradient that latents get.

    With K codes on the unit sphere, the arms of the rotation trick's paper have these settings:

    | arm | estimator | normalize | gradient_through_norm |
    |---|---|---|---|
    | its equation 4, Euclidean | rotation | false | |
    | its equation 4, cosine | rotation | true | false |
    | its released code | rotation | true | true |
    | its released baseline | straight_through | true | false |
    | a like-for-like baseline | straight_through | true | true |

    Attributes:
        estimator: name of the gradient that is passed through the quantizer
            (quantizers/gradient.py). With diveq, noise_substitution and gumbel_softmax, a training
            step does not decode the code itself (quantizers/substitutes.py); exact_gradient and
            hessian get their gradient from a second pass of the decoder (training/second_pass.py);
            with none, the decoder always sees the latents, which gives an upper bound: the codes
            follow them without being decoded, and are of no use to a prior.
        normalize: whether to quantize on the unit sphere, with l2-normalised latents and codes.
        gradient_through_norm: whether, with `normalize`, the gradient also passes through e/|e|,
            which keeps only its tangential part; false applies the estimator to the raw latent.
        centered: whether to rotate about the mean latent instead of the origin; far from the origin
            the rotation tends to the identity.
        tangential_commitment: whether the gradient of the commitment loss is projected orthogonally
            to each latent, so that it turns latents towards their codes without changing their
            lengths.
        equal_angle: angle in degrees between latent and code at which the rotated and the copied
            gradient weigh the same, for the estimator rotation_blended.
        noise_variance: variance per channel of the noise on the direction of the error, for the
            estimator diveq; the default is vector-quantize-pytorch's.
        temperature: temperature of the softmax over all codes, for the estimators gumbel_softmax,
            in units of distances, and index_backpropagation, in units of squared distances.
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
    """Settings of a codebook and of its learning.

    Attributes:
        codebook_size: number of codes, K.
        codebook_dim: dimension of a code, D; the encoder's output is projected to it.
        learning: "ema" moves a code to the average of its latents, "gradient" follows a codebook
            loss, and "frozen" leaves the codes as they were initialised or loaded.
        decay: decay of the averages per optimizer step.
        decay_warmup: whether the decay at update t is min(decay, (1 + t)/(10 + t)), so that codes
            that the first steps leave behind are restarted soon.
        init: "data" draws the first codes from the first batch; "uniform" is U(-1/K, 1/K).
        restart_threshold: fraction of the mean count N/K; a code whose averaged count falls below
            it is moved to a latent of the batch. 0 turns restarts off.
        rms_scaling: whether to divide latents by their root mean square, which is averaged over
            steps with `decay`, like the codes. "with_gradient" passes the gradient through the
            scale, "constant" does not (quantizers/scale.py).
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
        """Return the number of codes of each level; there is one level."""
        return (self.codebook_size,)


@dataclass(frozen=True, config=STRICT)
class SimVQConfig(EstimatorConfig):
    """SimVQ (Zhu et al. 2024): fixed random codes that go through one learned linear map.

    Every step of the map moves all codes, so none dies. It needs the codebook loss.
    """

    kind: Literal["simvq"] = "simvq"
    codebook_size: CodebookSize = 1024
    codebook_dim: CodebookDim = 64

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of codes of each level; there is one level."""
        return (self.codebook_size,)


class _ManyCodes:
    """Settings whose number of codes follows from `vocabulary`."""

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of codes of each level; a position has one code of each."""
        raise NotImplementedError

    @property
    def codebook_size(self) -> int:
        """Return the number of codes, K, or of combinations where a position has several codes."""
        return math.prod(self.vocabulary)


@dataclass(frozen=True, config=STRICT)
class FiniteConfig(_ManyCodes):
    """Finite scalar quantization (Mentzer et al. 2023): each channel rounded to a few levels.

    Attributes:
        levels: number of values of each channel, at least 3; their product is the codebook's size.
            The paper proposes (8, 6, 5) for 2^8, (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) for 2^12.
        groups: number of codes at a position, each with its own channels and these levels.
        activation: function that bounds a channel before it is rounded: "tanh", or iFSQ's
            "sigmoid", 2σ(1.6x) − 1, whose values are closer to uniform for normally distributed
            latents.
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
    """The sign of each channel as a bit: BSQ (Zhao et al. 2024), LFQ (Yu et al. 2023).

    Its entropy loss (weight `loss.entropy`) is computed from the soft choice among the codes c of a
    latent z, p(c | z) ∝ exp(−|z − c|² / temperature), under which the bits are independent; it is
    H(c | z) + diversity · (log K − H(c)), in nats. The first part favours confident choices, the
    second equally frequent codes over the batch.

    Attributes:
        num_bits: number of channels of a code; there are 2^num_bits codes.
        spherical: true is BSQ, with latents and codes on the unit sphere; false is LFQ, with raw
            latents and codes of ±1.
        groups: number of codes at a position, each with its own channels.
        temperature: temperature of the soft choice.
        diversity: weight of the second part.
        entropy_channels: number of bits in a block. H(c) is computed as if the blocks were
            independent, so that no table of 2^num_bits is needed; it bounds the joint entropy from
            above.
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
    """Several codebooks per position: residual levels (Zeghidour et al. 2021), groups, or both.

    With one level and several groups it is grouped, or product, VQ. See `QuantizerConfig` for the
    settings that are not described here.

    Attributes:
        codebook_sizes: number of codes of each level; a level quantizes the residual of the
            previous one.
        groups: number of parts that the channels of a latent are cut into, each with its own
            codebooks.
        codebook_dim: dimension of a code, which belongs to one group.
        shared: whether all levels of a group use one codebook.
        dropout: whether the decoder sees only the first few levels in training; their number is
            drawn for each step.
        estimator: the gradient from the sum of a group's levels to its latent.
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
        """Return the codebook size of each code at a position: coarse to fine, then by group."""
        return tuple(size for size in self.codebook_sizes for _ in range(self.groups))

    def level_config(self, codebook_size: int) -> QuantizerConfig:
        """Return the settings of one codebook."""
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
    """Return whether the decoder sees codes rather than the latents (estimator: none)."""
    return getattr(config, "estimator", None) != "none"


def _tag(value: Any) -> str:
    if isinstance(value, dict):
        return f"[{value.get('kind', 'vector')}]"
    return f"[{getattr(value, 'kind', None)}]"


# Tags in brackets are left out of the names of settings that the config loader prints.
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
