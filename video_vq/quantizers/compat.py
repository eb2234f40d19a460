"""A drop-in replacement for `VectorQuantize` from vector-quantize-pytorch."""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.quantizers.codebook import Codebook
from video_vq.quantizers.rows import check_finite
from video_vq.quantizers.vector import VectorQuantizer


class Quantized(NamedTuple):
    """The result of a forward pass, in the format of vector-quantize-pytorch."""

    quantized: Float[Tensor, "..."]
    indices: Int[Tensor, "..."]
    loss: Float[Tensor, ""]  # weighted; 0 in eval mode


class VectorQuantize(nn.Module):
    """`vector_quantize_pytorch.VectorQuantize` with this package's lookup, gradient and codebook.

    As in vector-quantize-pytorch, every forward pass in training mode updates the codebook, rather
    than every optimizer step. New code should use `VectorQuantizer`.

    There are three differences: averages are plain (without Laplace smoothing, which shifts codes
    by 1e-5 of a count); `kmeans_init` and restarts draw latents from the global batch, identically
    on all ranks and determined by `seed`; and a restarted code starts with the mean count instead
    of the threshold. The ranks' batches may differ in length, as at the end of an epoch; a rank
    without latents has a loss of 0.

    Args:
        dim: number of channels of the input.
        codebook_size: number of codes.
        codebook_dim: code dimension; if this differs from `dim`, two linear maps project features
            to `codebook_dim` and back.
        decay: decay of the averages per forward pass.
        commitment_weight: weight of the commitment loss in the returned loss.
        use_cosine_sim: whether to compare latents with codes on the unit sphere.
        kmeans_init: whether to initialize the codes by k-means on the first batch rather than at
            random.
        kmeans_iters: number of k-means iterations.
        threshold_ema_dead_code: averaged count below which a code is moved to a latent; 0 turns
            restarts off.
        learnable_codebook: whether the returned loss, rather than moving averages, updates the
            codes.
        ema_update: whether codes follow moving averages; must be None or the opposite of
            `learnable_codebook`.
        freeze_codebook: whether forward passes leave the codes unchanged by default.
        rotation_trick: whether the gradient is rotated instead of copied; None means True unless
            `dim` is 1.
        channel_last: whether the input is b n d rather than b d n.
        accept_image_fmap: whether the input is b d h w.
        accept_3d_fmap: whether the input is b d t h w.
        seed: seed for `kmeans_init` and for restarts; other initial codes are drawn from torch's
            global generator.
        unsupported: any other arguments, which raise an error that lists their names.

    Raises:
        InputError: an argument is not supported, or two arguments are mutually exclusive.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        *,
        decay: float = 0.8,
        commitment_weight: float | int = 1.0,
        use_cosine_sim: bool = False,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        threshold_ema_dead_code: float | int = 0,
        learnable_codebook: bool = False,
        ema_update: bool | None = None,
        freeze_codebook: bool = False,
        rotation_trick: bool | None = None,
        channel_last: bool = True,
        accept_image_fmap: bool = False,
        accept_3d_fmap: bool = False,
        seed: int = 0,
        **unsupported: object,
    ):
        super().__init__()
        if unsupported:
            raise InputError(
                f"VectorQuantize: no such argument here: {', '.join(sorted(unsupported))}. Leave "
                "it out, or keep vector-quantize-pytorch for this module"
            )
        for excluded, names in (
            (use_cosine_sim and learnable_codebook, "use_cosine_sim and learnable_codebook"),
            (ema_update is learnable_codebook, "ema_update and learnable_codebook, or neither,"),
            (accept_image_fmap and accept_3d_fmap, "accept_image_fmap and accept_3d_fmap"),
        ):
            if excluded:
                raise InputError(f"VectorQuantize: {names} exclude each other")
        if rotation_trick is None:
            rotation_trick = dim > 1
        self.quantizer = VectorQuantizer(
            dim,
            codebook_size,
            None if codebook_dim in (None, 0, dim) else codebook_dim,
            estimator="rotation" if rotation_trick else "straight_through",
            normalize=use_cosine_sim,
            learning="gradient" if learnable_codebook else "ema",
            decay=decay,
            decay_warmup=False,
            init="data" if kmeans_init else "uniform",
        )
        self.dim = dim
        self.commitment_weight = commitment_weight
        self.kmeans_iters = kmeans_iters
        self.threshold_ema_dead_code = threshold_ema_dead_code
        self.freeze_codebook = freeze_codebook
        self.layout = _layout(channel_last, accept_image_fmap, accept_3d_fmap)
        self.seed = seed
        if not kmeans_init:
            self._random_codes()

    @torch.no_grad()
    def _random_codes(self) -> None:
        """Draw codes as vector-quantize-pytorch does, each with a count of one."""
        book = self._book
        bound = math.sqrt(6 / book.codes.numel())
        book.codes.uniform_(-bound, bound)
        if self.quantizer.config.normalize:
            book.codes.copy_(F.normalize(book.codes, dim=1))
        book.average_count.fill_(1.0)
        book.average_sum.copy_(book.codes)

    @property
    def _book(self) -> Codebook:
        return self.quantizer.codebook

    @property
    def codebook(self) -> Float[Tensor, "k d"]:
        """Return the codes."""
        return self._book.vectors()

    def forward(self, x: Float[Tensor, "..."], freeze_codebook: bool | None = None) -> Quantized:
        """Quantize the input; in training mode, also update the codebook unless it is frozen.

        Raises:
            InputError: the shape is wrong, or latents are not finite.
        """
        rows, shape = self._to_rows(x)
        with torch.autocast(x.device.type, enabled=False):
            latents = self.quantizer.project_in(rows.float())
            check_finite(latents)
            if self.training and not self._book.is_initialized:
                self._first_codes(latents)
            output = self.quantizer.quantize(latents)
            quantized = self.quantizer.project_out(output.quantized)
        frozen = self.freeze_codebook if freeze_codebook is None else freeze_codebook
        loss = output.losses["commitment"]
        if self._book.config.learning == "gradient" and not frozen:
            codebook_loss = output.losses["codebook"]
            loss = loss + codebook_loss - codebook_loss.detach()
        if self.training and not frozen:
            self._book.update(output.statistics, self.seed, float(self.threshold_ema_dead_code))
        loss = self.commitment_weight * loss if self.training else torch.zeros_like(loss)
        return Quantized(
            self._from_rows(quantized.to(x.dtype), shape), output.codes.view(shape), loss
        )

    def _first_codes(self, latents: Tensor) -> None:
        latents = F.normalize(latents, dim=1) if self.quantizer.config.normalize else latents
        self._book.initialize((latents,), self.seed)
        self._book.refine(latents.detach(), self.kmeans_iters)

    def get_codes_from_indices(self, indices: Int[Tensor, "..."]) -> Float[Tensor, "... d"]:
        """Return the code vectors for indices, in the layout of the `forward` input.

        Raises:
            InputError: an index is out of range.
        """
        return self._from_rows(self._book.lookup(indices.flatten()), tuple(indices.shape))

    def get_output_from_indices(self, indices: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the features that `forward` outputs for the same indices.

        Raises:
            InputError: an index is out of range.
        """
        rows = self.quantizer.project_out(self._book.lookup(indices.flatten()))
        return self._from_rows(rows, tuple(indices.shape))

    def _to_rows(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        layout = "b d" if x.ndim == 2 else self.layout
        axes = layout.split()
        if x.ndim != len(axes) or x.shape[axes.index("d")] != self.dim:
            raise InputError(
                f"VectorQuantize takes {layout} with d = {self.dim}, found {tuple(x.shape)}"
            )
        shape = tuple(size for size, axis in zip(x.shape, axes, strict=True) if axis != "d")
        inner = " ".join(axis for axis in axes if axis != "d")
        return rearrange(x, f"{layout} -> ({inner}) d"), shape

    def _from_rows(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        layout = "b d" if len(shape) == 1 else self.layout
        sizes = dict(zip((axis for axis in layout.split() if axis != "d"), shape, strict=True))
        return rearrange(rows, f"({' '.join(sizes)}) d -> {layout}", **sizes)


def _layout(channel_last: bool, image: bool, video: bool) -> str:
    if video:
        return "b d t h w"
    if image:
        return "b d h w"
    return "b n d" if channel_last else "b d n"
