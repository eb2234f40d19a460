"""Gradients at the latents as if they were not quantized, by a second pass of the decoder.

What reaches them of the quantizer's own losses, such as commitment, is left out. The weights, their
gradients and the random state stay as they are.
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
from video_vq.training.training_config import TokenizerTrainingConfig

SecondPass = Literal["exact_gradient", "hessian"]
SECOND_PASSES: tuple[SecondPass, ...] = ("exact_gradient", "hessian")


def second_passes(config: TokenizerTrainingConfig, is_watched: bool) -> Sequence[SecondPass]:
    """Return the second passes that a micro-batch needs.

    Args:
        config: the config of the training.
        is_watched: whether this micro-batch is the last of a logged step.
    """
    estimator = getattr(config.model.quantizer, "estimator", None)
    measured = is_watched and config.run.measure_gradients
    return [name for name in SECOND_PASSES if measured or name == estimator]


def gradients_at_latents(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    quantized: QuantizerOutput,
    loss_of: Callable[[Float[Tensor, "b 3 t h w"]], Float[Tensor, ""]],
    names: Sequence[SecondPass],
    is_compiled: bool,
) -> dict[str, Float[Tensor, "n d"]]:
    """Return ∇L at the latents as they are compared with the codes; see Fifty et al., section 3.

    `exact_gradient` is that of the loss of the decoded latents, `hessian` its approximation to
    second order from the codes, g + H (e − q), by a Hessian-vector product.

    Args:
        accelerator: the Accelerator.
        tokenizer: the tokenizer, not wrapped.
        quantized: what the quantizer made of the micro-batch.
        loss_of: the weighted loss of a decoded video.
        names: which of the two.
        is_compiled: whether the decoder is.
    """
    rows = quantized.rows
    scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()

    def gradient(at: Tensor, along: Tensor | None) -> Tensor:
        leaf = at.detach().requires_grad_()
        batch, *grid = quantized.codes.shape
        features = features_of(leaf, tokenizer.quantizer.project_out, batch, grid)
        with accelerator.autocast():
            video = tokenizer.decoder(features.to(tokenizer.dtype)).float()
        loss = scale * loss_of(video)
        (first,) = torch.autograd.grad(loss, leaf, create_graph=along is not None)
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
