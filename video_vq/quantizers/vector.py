"""The vector quantizer: project, look up, pass the gradient on, report statistics."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.nn.precision import Float32Module
from video_vq.quantizers import gradient, substitutes
from video_vq.quantizers.codebook import Codebook
from video_vq.quantizers.commitment import mean_square
from video_vq.quantizers.lookup import Implementation, nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig, SimVQConfig
from video_vq.quantizers.ranks import min_over_ranks
from video_vq.quantizers.rows import (
    QuantizedRows,
    QuantizerOutput,
    check_channels,
    check_finite,
    decode_grid,
    dot,
    features_of,
    flatten_grid,
)
from video_vq.quantizers.simvq import SimVQCodebook


class VectorQuantizer(Float32Module):
    """Vector quantization with a choice of gradient estimators (quantizers/gradient.py).

    `forward` changes nothing; call `codebook.update(output.statistics, seed)` once per optimizer
    step. Everything inside is float32, whatever the autocast outside; half(), bfloat16() and
    double() leave it so.

    Args:
        dim: number of channels of the input and of the output.
        config: settings of the codebook and the estimator.
        implementation: implementation of the lookup (quantizers/lookup.py).
    """

    project_in: nn.Module
    project_out: nn.Module

    def __init__(
        self,
        dim: int,
        config: QuantizerConfig | SimVQConfig,
        implementation: Implementation = "torch",
    ):
        super().__init__()
        self.dim = dim
        self.config = config
        self.implementation: Implementation = implementation
        self.project_in = nn.Linear(dim, config.codebook_dim)
        self.project_out = nn.Linear(config.codebook_dim, dim)
        is_simvq = isinstance(config, SimVQConfig)
        self.codebook = SimVQCodebook(config) if is_simvq else Codebook(config)

    def latents(self, features: Float[Tensor, "b c *grid"]) -> Float[Tensor, "n d"]:
        """Project to the codebook's dimension: the rows that are compared with the codes."""
        return self.codebook.comparable(self._project(features))

    def forward(self, features: Float[Tensor, "b c *grid"], check: bool = True) -> QuantizerOutput:
        """Quantize a grid of features; the forward value is the code itself, bit for bit.

        Exceptions are `estimator: none`, and diveq, noise_substitution and gumbel_softmax in
        training mode where a gradient is needed. The codes are still the nearest ones.

        Args:
            features: output of the encoder, with `dim` channels.
            check: whether to refuse NaN and infinite latents. A training loop that skips and counts
                steps whose loss is not finite, alike on all ranks, passes False.

        Raises:
            InputError: the number of channels is wrong, or latents are not finite.
        """
        rows = self._project(features)
        batch, _, *grid = features.shape
        if check:
            check_finite(rows)
        with torch.autocast(features.device.type, enabled=False):
            output = self.quantize(rows)
            return output._replace(
                quantized=features_of(output.quantized, self.project_out, batch, grid),
                codes=output.codes.view(batch, *grid),
            )

    def quantize(self, latents: Float[Tensor, "n d"]) -> QuantizerOutput:
        """Quantize projected float32 rows; `quantized` and `codes` are rows too."""
        compared = self.codebook.comparable(latents)
        vectors = self.codebook.vectors()
        indices = nearest_codes(compared, vectors, self.implementation)
        q = F.embedding(indices, vectors)
        rows = self._estimate(latents, compared, q, indices)
        tangential = self.config.tangential_commitment
        commitment = mean_square(compared, q.detach(), tangential)  # mean (e − sg(q))²
        learns = q.requires_grad
        codebook = mean_square(q, compared.detach()) if learns else commitment.detach()
        return QuantizerOutput(
            quantized=rows.passed,
            codes=indices,
            losses={"commitment": commitment, "codebook": codebook},
            statistics=self.codebook.statistics(compared, indices),
            rows=rows,
        )

    def _project(self, features: Tensor) -> Tensor:
        check_channels(features, self.dim)
        with torch.autocast(features.device.type, enabled=False):
            return self.project_in(flatten_grid(features).float())

    def _estimate(
        self, latents: Tensor, compared: Tensor, q: Tensor, indices: Tensor
    ) -> QuantizedRows:
        """Pass the gradient on to the latents that the settings name; q may also have one."""
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
        """Return what is decoded in place of the code; None where it is the code itself.

        Nothing is drawn at random where no gradient is needed: the log evaluates a training step's
        batch once more, and must not change the next one.
        """
        config, draws = self.config, self.training and e.requires_grad
        if config.estimator == "none":
            return e
        if config.estimator == "diveq" and draws:
            return substitutes.diveq(e, q, config.noise_variance)
        if config.estimator == "noise_substitution" and draws:
            return substitutes.noise_substitution(e, q)
        if config.estimator == "gumbel_softmax" and draws:
            vectors = self.codebook.vectors()
            return substitutes.gumbel_softmax(e, vectors, config.temperature)
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
        """Return StableVQ's weight; the smallest distances are those of the global batch."""
        squared = (e - q).square().sum(1)
        nearest = squared.new_full((self.config.codebook_size,), torch.inf)
        nearest.scatter_reduce_(0, indices, squared, "amin")
        if self.training and e.requires_grad:  # scoring runs on each rank separately
            min_over_ranks(nearest)
        return gradient.fit_weight(squared, nearest[indices])

    @torch.no_grad()
    def commitment_force(self, rows: QuantizedRows) -> Float[Tensor, ""]:
        """Return Σ z·∂C/∂z of the unweighted commitment loss C over the projected latents z.

        Positive where gradient descent on C shrinks the latents; 0 where the gradient is
        tangential, as on the unit sphere, or passes the scale of the latents.
        """
        config = self.config
        scaled = getattr(config, "rms_scaling", "none") == "with_gradient"
        if config.normalize or config.tangential_commitment or scaled:
            return rows.e.new_zeros(())
        pull = rows.compared - rows.code
        return dot(rows.compared, pull) * (2 / max(1, pull.numel()))

    def encode(self, features: Float[Tensor, "b c *grid"]) -> Int[Tensor, "b *grid"]:
        """Return the codes of a grid of features.

        Raises:
            InputError: the number of channels is wrong, or latents are not finite.
        """
        rows = self.latents(features)
        batch, _, *grid = features.shape
        check_finite(rows)
        indices = nearest_codes(rows, self.codebook.vectors(), self.implementation)
        return indices.view(batch, *grid)

    def decode(self, codes: Shaped[Tensor, "b *grid"]) -> Float[Tensor, "b c *grid"]:
        """Return the features that codes stand for: what `forward` gives for the same codes.

        Raises:
            InputError: a code lies outside the codebook, or the codes are not integers.
        """
        vocabulary = self.config.vocabulary
        return decode_grid(codes, vocabulary, self.codebook.lookup, self.project_out)
