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

gradient.rotate_on_gpu = fused.rotate_on_gpu  # gradient.py itself needs only torch

Settings = TypeVar("Settings", bound=QuantizerConfig | SimVQConfig)
Codes = TypeVar("Codes", bound=Codebook | SimVQCodebook)


class LookupQuantizer(QuantizerModule, Generic[Settings, Codes]):
    """Nearest-code quantization with a choice of gradient estimators.

    `forward` does not change the codes; `step(output)`, called after each optimizer step, updates
    the codes. All computation is in float32, regardless of autocast, half(), bfloat16() and
    double().
    """

    config: Settings
    codebook: Codes
    implementation: Implementation

    def latents(self, features: FeaturesLike) -> Float[Tensor, "n d"]:
        """Return the projected rows that are compared with the codes."""
        return self.codebook.comparable(self._project(features))

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; return `quantized` and `codes` as rows, too."""
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
        """Apply the gradient estimator; codes receive gradients only through a substitute."""
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
        """Return the vectors to decode in place of the codes, or None to decode the codes.

        Random numbers are drawn only if a gradient is needed, since logging evaluates a training
        batch again and must not affect the next step.
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
        # Estimators with a substitute copy the gradient when no substitute is decoded.
        return gradient.ESTIMATORS.get(name, gradient.straight_through)(e, q)

    @torch.no_grad()
    def _fit_weight(self, e: Tensor, q: Tensor, indices: Tensor) -> Tensor:
        """Return StableVQ's weights, based on each code's smallest distance in the global batch."""
        squared = (e - q).square().sum(1)
        nearest = squared.new_full((self.config.codebook_size,), torch.inf)
        nearest.scatter_reduce_(0, indices, squared, "amin")
        if self.training and e.requires_grad:  # scoring runs on each rank separately
            min_over_ranks(nearest)
        return gradient.fit_weight(squared, nearest[indices])

    @torch.no_grad()
    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z over projected latents z, for the unweighted commitment loss C.

        The sum is positive if gradient descent on C shrinks the latents, and 0 if the gradient is
        tangential, as on the unit sphere, or also passes through the RMS scale.
        """
        config = self.config
        scaled = getattr(config, "rms_scaling", "none") == "with_gradient"
        if config.normalize or config.tangential_commitment or scaled:
            return rows.e.new_zeros(())
        pull = rows.compared - rows.code
        return dot(rows.compared, pull) * (2 / max(1, pull.numel()))

    def codes_of(self, latents: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        """Return the codes for projected float32 rows."""
        compared = self.codebook.comparable(latents)
        return nearest_codes(compared, self.codebook.vectors(), self.implementation)


class VectorQuantizer(LookupQuantizer[QuantizerConfig, Codebook]):
    """Vector quantization (van den Oord et al. 2017) with the rotation trick (Fifty et al. 2025).

    `forward` does not change the codes; call `step(output)` after each optimizer step to update the
    codes. All computation is in float32, regardless of autocast.

    Args:
        dim: number of input and output channels.
        codebook_size: number of codes, K.
        codebook_dim: code dimension; two linear layers project features to this dimension and back.
            None compares the features themselves with the codes.
        estimator: name of the gradient estimator; `EstimatorConfig` describes the estimators and
            the next seven arguments. exact_gradient and hessian need the second decoder pass of
            `video-vq train-tokenizer`.
        normalize: whether to quantize on the unit sphere.
        gradient_through_norm: whether the gradient also passes through the normalization, if
            `normalize` is set.
        centered: whether to rotate about the mean latent instead of the origin.
        tangential_commitment: whether the commitment loss changes the directions of the latents but
            not the lengths.
        equal_angle: angle in degrees at which both gradients have equal weight, for
            rotation_blended.
        noise_variance: noise variance per channel, for diveq.
        temperature: softmax temperature, for gumbel_softmax and index_backpropagation.
        learning: learning rule: "ema" moves codes to the averages of their latents, "gradient"
            trains codes with the loss `codebook`, and "frozen" leaves codes unchanged.
        decay: decay of the averages per step.
        decay_warmup: whether to begin with a smaller decay, so that unused codes are replaced soon.
        init: initial codes: latents of the first step ("data"), or U(-1/K, 1/K) ("uniform").
        restart_threshold: fraction of the mean count below which a code is moved to a latent of the
            batch; 0 turns restarts off.
        rms_scaling: whether and how latents are divided by a running root mean square: "none",
            "constant" or "with_gradient"; see `QuantizerConfig`.
        implementation: lookup implementation (quantizers/lookup.py).

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
    """SimVQ (Zhu et al. 2024): fixed random codes transformed by one learned linear map.

    Every optimizer step moves all codes, so no code dies. Add the loss `codebook`, which trains the
    linear map, to the training loss. `step` only counts how often each code is used.

    Args:
        dim: number of input and output channels.
        codebook_size: number of codes, K.
        codebook_dim: code dimension; None compares the features themselves with the codes.
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
