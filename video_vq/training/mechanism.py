"""The logged numbers of the quantizer's mechanism on one training step."""

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from video_vq.distributed import over_ranks
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.quantizers.mechanism import changed_share, mechanism
from video_vq.quantizers.rows import QuantizerOutput


@torch.no_grad()
def watched_step(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    video: Float[Tensor, "b 3 t h w"],
    quantized: QuantizerOutput,
) -> dict[str, float]:
    """Return `quantizer/…` after a step, means over the ranks; collective.

    Beside the figures of `quantizers/mechanism.py`, `quantizer/changed_codes`: the share of the
    last micro-batch's tokens that this one step, of encoder and codebook, moved to another code.

    Args:
        accelerator: the Accelerator.
        tokenizer: the tokenizer after the step, not wrapped.
        video: the last micro-batch.
        quantized: what the quantizer made of it before the step, with the gradient of
            `rows.passed` retained.
    """
    with accelerator.autocast():
        after = tokenizer.quantizer(tokenizer.encoder(video), check=False).codes
    gradient = quantized.rows.passed.grad
    assert gradient is not None
    figures = mechanism(quantized.rows, gradient)
    figures["changed_codes"] = changed_share(quantized.codes, after)
    values = torch.tensor(list(figures.values()), dtype=torch.float64, device=accelerator.device)
    means = over_ranks(accelerator, values, "mean").tolist()
    return {f"quantizer/{name}": value for name, value in zip(figures, means, strict=True)}
