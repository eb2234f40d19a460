"""The vector quantizer: projection, lookup, gradient estimation and statistics."""

from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from video_vq.quantizers import fused, gradient, substitutes
from video_vq.quantizers.codebook import Codebook
from video_vq.quantizers.commitment import mean_square
from video_vq.quantizers.lookup import Implementation, nearest_codes
from video_vq.quantizers.module import FeaturesLike, QuantizerModule, plain_errors
from video_vq.quantizers.quantizer_config import (
    Estimator,
    Init,
    Learning,
    QuantizerConfig,
    RmsScaling,
    SimVQConfig,
)
from video_vq.quantizers.ranks import min_over_ranks
from video_vq.quantizers.rows import QuantizedRows, QuantizerOutput, dot
from video_vq.quantizers.simvq import SimVQCodebook

gradient.rotate_on_gpu = fused.rotate_on_gpu  # gradient.py itself needs torch alone

Settings = TypeVar("Settings", bound=QuantizerConfig | SimVQConfig)
Codes = TypeVar("Codes", bound=Codebook | SimVQCodebook)


class LookupQuantizer(QuantizerModule, Generic[Settings, Codes]):
    """Quantization by the nearest code, with a choice of gradient estimators.

    `forward` does not change the codes; `step(output)` moves them, once per optimizer step. All
    computation is in float32, regardless of autocast, half(), bfloat16() and double().
    """

    config: Settings
    codebook: Codes
    implementation: Implementation

    def latents(self, features: FeaturesLike) -> Float[Tensor, "n d"]:
        """Project to the codebook's dimension; these rows are compared with the codes."""
        return self.codebook.comparable(self._project(features))

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; `quantized` and `codes` are rows too."""
        compared = self.codebook.comparable(latents)
        vectors = self.codebook.vectors()
        indices = nearest_codes(compared, vectors, self.implementation)
        q = F.embedding(indices, vectors)
        rows = self._estimate(latents, compared, q, indices)
        tangential = self.config.tangential_commitment
        commitment = mean_square(compared, q.detach(), tangential)  # mean (e − sg(q))²
        codebook = mean_square(q, compared.detach()) if q.requires_grad else commitment.detach()
        return QuantizerOutput(
            quantized=rows.passed,
            codes=indices,
            losses={"commitment": commitment, "codebook": codebook},
            statistics=self.codebook.statistics(compared, indices),
            rows=rows,
        )

    def _estimate(
        self, latents: Tensor, compared: Tensor, q: Tensor, indices: Tensor
    ) -> QuantizedRows:
        """Pass the gradient to the latents, as the settings say; q may also get one."""
        substitute = self._substitute(compared, q)
        q = q.detach()
        if substitute is not None:
            return QuantizedRows(latents, compared, q, compared, q, substitute)
        if self.config.centered:
            center = self.codebook.center()
            e, about = compared - center, q - center
            passed = gradient.straight_through(self._pass_on(e, about, indices), q)
            return QuantizedRows(latents, compared, q, e, about, passed)
        e = compared if self.config.gradient_through_norm else latents
        return QuantizedRows(latents, compared, q, e, q, self._pass_on(e, q, indices))

    def _substitute(self, e: Tensor, q: Tensor) -> Tensor | None:
        """Return the substitute that is decoded for the code; None if it is the code itself.

        Nothing is drawn at random unless a gradient is needed: the log evaluates a training step's
        batch again, and must not affect the next step.
        """
        config, trains = self.config, self.training and e.requires_grad
        if config.estimator == "none":
            return e
        if config.estimator == "diveq" and trains:
            return substitutes.diveq(e, q, config.noise_variance)
        if config.estimator == "noise_substitution" and trains:
            return substitutes.noise_substitution(e, q)
        if config.estimator == "gumbel_softmax" and trains:
            vectors = self.codebook.vectors()
            return substitutes.gumbel_softmax(e, vectors, config.temperature)
        if config.estimator == "index_backpropagation" and trains:
            vectors = self.codebook.vectors()
            return substitutes.index_backpropagation(e, q, vectors, config.temperature)
        return None

    def _pass_on(self, e: Tensor, q: Tensor, indices: Tensor) -> Tensor:
        name = self.config.estimator
        if name == "rotation_dynamic":
            return gradient.rotation_dynamic(e, q, self._fit_weight(e, q, indices))
        if name == "rotation_blended":
            return gradient.rotation_blended(e, q, self.config.equal_angle)
        # Estimators that decode a substitute copy the gradient where there is none.
        return gradient.ESTIMATORS.get(name, gradient.straight_through)(e, q)

    @torch.no_grad()
    def _fit_weight(self, e: Tensor, q: Tensor, indices: Tensor) -> Tensor:
        """Return StableVQ's weight, with the smallest distance in the global batch."""
        squared = (e - q).square().sum(1)
        nearest = squared.new_full((self.config.codebook_size,), torch.inf)
        nearest.scatter_reduce_(0, indices, squared, "amin")
        if self.training and e.requires_grad:  # scoring runs on each rank separately
            min_over_ranks(nearest)
        return gradient.fit_weight(squared, nearest[indices])

    @torch.no_grad()
    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z of the unweighted commitment loss C over the projected latents z.

        It is positive if gradient descent on C shrinks the latents, and 0 if the gradient is
        tangential, as on the unit sphere, or passes through the scale of the latents.
        """
        config = self.config
        scaled = getattr(config, "rms_scaling", "none") == "with_gradient"
        if config.normalize or config.tangential_commitment or scaled:
            return rows.e.new_zeros(())
        pull = rows.compared - rows.code
        return dot(rows.compared, pull) * (2 / max(1, pull.numel()))

    def codes_of(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        """Return the codes of projected float32 rows."""
        compared = self.codebook.comparable(latents)
        return nearest_codes(compared, self.codebook.vectors(), self.implementation)


class VectorQuantizer(LookupQuantizer[QuantizerConfig, Codebook]):
    """Vector quantization (van den Oord et al. 2017) with the rotation trick (Fifty et al. 2024).

    `forward` does not change the codes; call `step(output)` after each optimizer step to move them.
    All computation is in float32, regardless of autocast.

    Args:
        dim: number of channels of the input and of the output.
        codebook_size: number of codes, K.
        codebook_dim: dimension of a code; features are projected to it and back by two linear
            layers. None compares the features themselves.
        estimator: gradient that passes through the quantizer; see `EstimatorConfig`, also for the
            next seven arguments. exact_gradient and hessian need the second pass that `video-vq
            train-tokenizer` makes.
        normalize: whether to quantize on the unit sphere.
        gradient_through_norm: whether the gradient passes through the normalisation of `normalize`.
        centered: whether to rotate about the mean latent instead of the origin.
        tangential_commitment: whether the commitment loss turns latents without changing their
            lengths.
        equal_angle: setting of the estimator rotation_blended, in degrees.
        noise_variance: setting of the estimator diveq, per channel.
        temperature: setting of the estimators gumbel_softmax and index_backpropagation.
        learning: how codes learn: "ema" moves them to averages of their latents, "gradient" trains
            them by the loss `codebook`, and "frozen" does not move them.
        decay: decay of the averages per step.
        decay_warmup: whether to begin with a smaller decay, so that unused codes are replaced soon.
        init: first codes: "data" are latents of the first step, "uniform" are U(-1/K, 1/K).
        restart_threshold: codes used less than this fraction of the mean are moved to latents of
            the batch; 0 turns this off.
        rms_scaling: whether to divide latents by their averaged root mean square: "none",
            "constant" or "with_gradient".
        implementation: implementation of the lookup (quantizers/lookup.py).

    Raises:
        InputError: an argument is out of range, or two arguments are incompatible.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int = 1024,
        codebook_dim: int | None = None,
        *,
        estimator: Estimator = "rotation",
        normalize: bool = False,
        gradient_through_norm: bool = True,
        centered: bool = False,
        tangential_commitment: bool = False,
        equal_angle: float = 30.0,
        noise_variance: float = 5e-3,
        temperature: float = 1.0,
        learning: Learning = "ema",
        decay: float = 0.99,
        decay_warmup: bool = True,
        init: Init = "data",
        restart_threshold: float = 0.1,
        rms_scaling: RmsScaling = "none",
        implementation: Implementation = "auto",
    ):
        with plain_errors("VectorQuantizer", dim):
            config = QuantizerConfig(
                codebook_size=codebook_size,
                codebook_dim=dim if codebook_dim is None else codebook_dim,
                estimator=estimator,
                normalize=normalize,
                gradient_through_norm=gradient_through_norm,
                centered=centered,
                tangential_commitment=tangential_commitment,
                equal_angle=equal_angle,
                noise_variance=noise_variance,
                temperature=temperature,
                learning=learning,
                decay=decay,
                decay_warmup=decay_warmup,
                init=init,
                restart_threshold=restart_threshold,
                rms_scaling=rms_scaling,
            )
        super().__init__(dim, config, codebook_dim)
        self.implementation = implementation
        self.codebook = Codebook(config)


class SimVQ(LookupQuantizer[SimVQConfig, SimVQCodebook]):
    """SimVQ (Zhu et al. 2024): fixed random codes that go through one learned linear map.

    Every optimizer step moves all codes, so none dies. Add the loss `codebook`, which trains the
    map, to yours. `step` only counts.

    Args:
        dim: number of channels of the input and of the output.
        codebook_size: number of codes, K.
        codebook_dim: dimension of a code; None compares the features themselves.
        estimator, normalize, gradient_through_norm, tangential_commitment: see `VectorQuantizer`.
        centered: whether to rotate about the mean code instead of the origin.
        equal_angle, noise_variance, temperature, implementation: see `VectorQuantizer`.

    Raises:
        InputError: an argument is out of range, or two arguments are incompatible.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int = 1024,
        codebook_dim: int | None = None,
        *,
        estimator: Estimator = "rotation",
        normalize: bool = False,
        gradient_through_norm: bool = True,
        centered: bool = False,
        tangential_commitment: bool = False,
        equal_angle: float = 30.0,
        noise_variance: float = 5e-3,
        temperature: float = 1.0,
        implementation: Implementation = "auto",
    ):
        with plain_errors("SimVQ", dim):
            config = SimVQConfig(
                codebook_size=codebook_size,
                codebook_dim=dim if codebook_dim is None else codebook_dim,
                estimator=estimator,
                normalize=normalize,
                gradient_through_norm=gradient_through_norm,
                centered=centered,
                tangential_commitment=tangential_commitment,
                equal_angle=equal_angle,
                noise_variance=noise_variance,
                temperature=temperature,
            )
        super().__init__(dim, config, codebook_dim)
        self.implementation = implementation
        self.codebook = SimVQCodebook(config)
