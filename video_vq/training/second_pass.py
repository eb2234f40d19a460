"""Gradients that the latents would get without quantization, from a second decoder pass.

The quantizer's own losses, such as commitment, are excluded. The second pass does not change the
weights, the weight gradients or the random state.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from video_vq.models.tokenizer import VideoTokenizer
from video_vq.quantizers.rows import QuantizerOutput, dot, features_of
from video_vq.training.compiled import uncompiled
from video_vq.training.losses import TokenizerLosses
from video_vq.training.mechanism import WatchedBatch
from video_vq.training.training_config import TokenizerTrainingConfig

Name = Literal["exact_gradient", "hessian"]
NAMES: tuple[Name, ...] = ("exact_gradient", "hessian")


class SecondPass:
    """The second decoder passes that a run's gradient estimator or its diagnostics require.

    Args:
        tokenizer: tokenizer, not wrapped by DDP.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        tokenizer: VideoTokenizer,
        losses: TokenizerLosses,
        config: TokenizerTrainingConfig,
    ):
        self._accelerator, self._tokenizer = accelerator, tokenizer
        self._losses, self._config = losses, config

    def __call__(
        self,
        quantized: QuantizerOutput,
        video: Float[Tensor, "b 3 t h w"],
        step: int,
        micro_batch: int,
        watched: WatchedBatch | None,
    ) -> dict[str, Float[Tensor, "n d"]]:
        """Return the gradients that the estimator or the diagnostics require, by name.

        Args:
            watched: this micro-batch if it is the last micro-batch of a logged step; None
                otherwise.
        """
        config = self._config
        measures = watched is not None and config.run.measure_gradients
        estimator = getattr(config.model.quantizer, "estimator", None)
        names: list[Name] = [name for name in NAMES if measures or name == estimator]
        if not names or step < config.continuous_steps:
            return {}

        def loss_of(decoded: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, ""]:
            losses = self._losses.of_decoded(decoded, video, step, micro_batch)
            return self._losses.total(losses, step)

        models = (self._accelerator, self._tokenizer)
        return gradients_at_latents(*models, quantized, loss_of, names, config.run.compile)


def gradients_at_latents(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    quantized: QuantizerOutput,
    loss_of: Callable[[Float[Tensor, "b 3 t h w"]], Float[Tensor, ""]],
    names: Sequence[Name],
    is_compiled: bool,
) -> dict[str, Float[Tensor, "n d"]]:
    """Return the gradients of the loss at the latents, by name; see Fifty et al., section 3.

    `exact_gradient` is the gradient of the loss when the latents are decoded; `hessian` is the
    first-order expansion of that gradient around the codes, g + H (e − q), computed with a
    Hessian-vector product. The latents e are those that are compared with the codes q.

    Args:
        tokenizer: tokenizer, not wrapped by DDP.
        loss_of: function that returns the weighted loss of a decoded video.
        names: names of the gradients to return: "exact_gradient", "hessian" or both.
    """
    rows = quantized.rows
    scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()

    def gradient(at: Tensor, along: Tensor | None) -> Tensor:
        leaf = at.detach().requires_grad_()
        batch, _, *grid = quantized.quantized.shape
        features = features_of(leaf, tokenizer.quantizer.project_out, batch, grid)
        with accelerator.autocast():
            video = tokenizer.decoder(features.to(tokenizer.dtype)).float()
        (first,) = torch.autograd.grad(scale * loss_of(video), leaf, create_graph=along is not None)
        if along is None:
            return first / scale
        (second,) = torch.autograd.grad(dot(first, along), leaf)
        return (first.detach() + second) / scale

    found: dict[str, Tensor] = {}
    for name in names:
        if name == "exact_gradient":
            found[name] = gradient(rows.compared, None)
            continue
        # Neither compiled code nor fused attention can be differentiated twice.
        with uncompiled(is_compiled), sdpa_kernel(SDPBackend.MATH):
            found[name] = gradient(rows.code, (rows.compared - rows.code).detach())
    return found
