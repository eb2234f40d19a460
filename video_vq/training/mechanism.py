"""Quantizer diagnostics for one training step, for the log."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from video_vq.distributed import over_ranks
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.quantizers.exactness import by_angle, exactness
from video_vq.quantizers.interface import Quantizer
from video_vq.quantizers.mechanism import changed_share, mechanism
from video_vq.quantizers.rows import QuantizedRows, QuantizerOutput, dot


class WatchedBatch(NamedTuple):
    """The last micro-batch of a logged step, before its backward pass; created by `watch`.

    Attributes:
        video: clips of the micro-batch.
        quantized: quantizer output for these clips, whose rows retain gradients.
        loss_scale: factor by which the backward pass multiplies the micro-batch's loss.
        at_latents: gradients from a second pass of the decoder, by name; empty without a second
            pass.
    """

    video: Float[Tensor, "b 3 t h w"]
    quantized: QuantizerOutput
    loss_scale: float
    at_latents: Mapping[str, Float[Tensor, "n d"]] = MappingProxyType({})


def watch(
    accelerator: Accelerator,
    video: Float[Tensor, "b 3 t h w"],
    quantized: QuantizerOutput,
    accumulation: int,
) -> WatchedBatch:
    """Return a micro-batch for `watched_step`, after requesting the gradients that it needs.

    Call this function after the forward pass and before the backward pass.

    Args:
        video: clips of the last micro-batch.
    """
    quantized.rows.passed.retain_grad()
    quantized.rows.latents.retain_grad()
    scaler = accelerator.scaler
    scale = 1.0 if scaler is None else scaler.get_scale()
    return WatchedBatch(video, quantized, scale / accumulation)


@torch.no_grad()
def watched_step(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    batch: WatchedBatch,
    commitment: float,
    weight_decay: float,
) -> dict[str, float]:
    """Return the metrics `quantizer/…` after a step, averaged over the ranks.

    All ranks must call this function. These are the metrics of `quantizers/mechanism.py` and
    `radial_forces`; the metrics of `quantizers/exactness.py` if gradients are measured; and
    `quantizer/changed_codes`, the fraction of the last micro-batch's tokens whose code changed
    because this step updated the encoder and the codebook.

    Args:
        tokenizer: tokenizer after the step, not wrapped by DDP.
        batch: last micro-batch, before the step.
        commitment: weight of the commitment loss.
        weight_decay: weight decay of the projection to the latents.
    """
    with accelerator.autocast():
        after = tokenizer.quantizer(tokenizer.encoder(batch.video), check=False).codes
    rows, gradient = batch.quantized.rows, batch.quantized.rows.passed.grad
    assert gradient is not None
    figures = mechanism(rows, gradient)
    figures |= radial_forces(tokenizer.quantizer, rows, batch.loss_scale, commitment, weight_decay)
    figures["changed_codes"] = changed_share(batch.quantized.codes, after)
    sums: dict[str, float] = {}
    if batch.at_latents.keys() == {"exact_gradient", "hessian"}:
        others = {"hessian": batch.at_latents["hessian"]}
        exact, parts = exactness(rows, gradient, batch.at_latents["exact_gradient"], others)
        figures |= exact
        sums = by_angle(over_ranks(accelerator, parts, "sum"))
    values = torch.tensor(list(figures.values()), dtype=torch.float64, device=accelerator.device)
    means = over_ranks(accelerator, values, "mean").tolist()
    figures = {**dict(zip(figures, means, strict=True)), **sums}
    return {f"quantizer/{name}": value for name, value in figures.items()}


def radial_forces(
    quantizer: Quantizer,
    rows: QuantizedRows,
    loss_scale: float,
    commitment: float,
    weight_decay: float,
) -> dict[str, float]:
    """Return the forces that change the lengths of the projected latents z.

    A force is Σ z·∇z over a micro-batch, where ∇z is the gradient of one part of the weighted mean
    loss: the rate at which plain gradient descent changes −½ Σ|z|². A positive force shrinks the
    latents.

    * `radial_wish`: Σ q·g with g = dL/dq̃, the change in the *codes'* length that the loss asks
      for; always equal to `radial_estimator` for the rotation estimator on raw latents.
    * `radial_estimator`: the force that reaches the latents through the estimator, from all losses
      on pixels.
    * `radial_commitment`: the force of the weighted commitment loss.
    * `radial_decay`: the force of weight decay on the projection W, z = Wx + b: decay d moves z as
      a gradient d (z − b) would.

    Adam rescales the gradients behind the first three forces, but not the weight decay, so compare
    only the signs of the forces, and how each force changes over time.

    Args:
        quantizer: quantizer that returned the rows.
        rows: rows whose `passed` and `latents` have gradients.
        loss_scale: factor by which the gradients were scaled; the forces are divided by this
            factor.
        commitment: weight of the commitment loss.
        weight_decay: weight decay of the projection to the latents.
    """
    passed, latents = rows.passed.detach(), rows.latents.detach()
    assert rows.passed.grad is not None
    assert rows.latents.grad is not None
    committed = commitment * float(quantizer.commitment_force(rows))
    assert isinstance(quantizer.project_in, nn.Linear)
    decayed = latents - quantizer.project_in.bias.detach()
    return {
        "radial_wish": float(dot(passed, rows.passed.grad)) / loss_scale,
        "radial_estimator": float(dot(latents, rows.latents.grad)) / loss_scale - committed,
        "radial_commitment": committed,
        "radial_decay": weight_decay * float(dot(latents, decayed)),
    }
