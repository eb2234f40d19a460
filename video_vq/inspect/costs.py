"""What a training will cost: arithmetic and memory, counted on tensors without data."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_vq.models.discriminator import PatchDiscriminator
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.nn.blocks import num_parameters
from video_vq.training.optimizer import trained_bytes
from video_vq.training.training_config import OptimizerConfig, TokenizerTrainingConfig

DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TokenizerCosts(NamedTuple):
    """The costs of one config; see `tokenizer_costs`."""

    num_parameters: int
    num_tokens: int  # of one clip
    forward_flops: int  # encoder and decoder for one clip, a multiply-add counted as two
    step_flops: int  # the same with the backward pass and what it recomputes
    weight_bytes: int  # with gradients, optimizer, averages, copies in bf16 and the discriminator
    clip_bytes: int  # what each clip keeps for the backward pass


def tokenizer_costs(
    config: TokenizerTrainingConfig, size_thw: tuple[int, int, int], precision: str
) -> TokenizerCosts:
    """Return what one clip costs in training.

    Left out: the quantizer, whose share is under a percent, and the passes of the perceptual
    network and the discriminator.

    Args:
        size_thw: number of frames, height and width of a clip.
        precision: Accelerate's mixed precision: "no", "bf16" or "fp16".

    Raises:
        InputError: the clips do not fit the model.
    """
    grid_thw = config.model.backbone.grid_thw(size_thw)
    recompute, adversarial = config.run.checkpoint_activations, config.loss.adversarial
    with FakeTensorMode():
        tokenizer = VideoTokenizer(config.model, recompute)
        video, two = torch.zeros(1, 3, *size_thw), torch.zeros(2, 3, *size_thw)
        of_one = saved_bytes(tokenizer, lambda: through(tokenizer, video), precision)
        of_two = saved_bytes(tokenizer, lambda: through(tokenizer, two), precision)
        # The other attention kernels are not counted on a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss = through(tokenizer, video)
            forward_flops = counter.get_total_flops()
            loss.backward()
        of_discriminator = 0
        if adversarial.weight:
            discriminator = PatchDiscriminator(adversarial.channels, adversarial.levels)
            of_discriminator = trained_bytes(discriminator, config.optim)
        of_tokenizer = averaged_bytes(tokenizer, config.optim)
    copies = 2 * of_one - of_two  # what does not grow with the number of clips
    return TokenizerCosts(
        num_parameters=num_parameters(tokenizer),
        num_tokens=math.prod(grid_thw),
        forward_flops=forward_flops,
        step_flops=counter.get_total_flops(),
        weight_bytes=of_tokenizer + copies + of_discriminator,
        clip_bytes=of_two - of_one,
    )


def averaged_bytes(model: nn.Module, optim: OptimizerConfig) -> int:
    """Return the bytes of weights, gradients, optimizer state and averaged weights."""
    return trained_bytes(model, optim) + sum(value.nbytes for value in model.parameters())


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor], precision: str = "no") -> int:
    """Return how many bytes a forward pass keeps for its backward pass, without the weights.

    Run on fake tensors it computes nothing and needs no memory.
    """
    weights = {value.untyped_storage()._cdata for value in model.parameters()}
    storages: dict[int, Any] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        storages[storage._cdata] = storage
        return value

    dtype = DTYPES.get(precision)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
        torch.autocast("cpu", dtype, enabled=dtype is not None),
    ):
        output = forward()
    assert output.requires_grad
    return sum(kept.nbytes() for key, kept in storages.items() if key not in weights)


def through(tokenizer: VideoTokenizer, video: Tensor) -> Tensor:
    """Run encoder and decoder; the quantizer between them keeps little and depends on values."""
    features = tokenizer.encoder(video)
    return tokenizer.decoder(features).float().square().mean()
