"""Makes the table in docs/configs.md: sizes and costs of the shipped tokenizer configs.

    python scripts/config_table.py           # prints it
    python scripts/config_table.py --write   # puts it into docs/configs.md
    python scripts/config_table.py --check   # fails if docs/configs.md has another table

Nothing is measured; everything is counted on tensors without data.
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_vq.config import find_config, load_config
from video_vq.facts import codes
from video_vq.inspect.costs import averaged_bytes, saved_bytes, through
from video_vq.models.discriminator import PatchDiscriminator
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.nn.blocks import num_parameters
from video_vq.training.optimizer import trained_bytes
from video_vq.training.training_config import TokenizerTrainingConfig

PAGE = Path(__file__).parents[1] / "docs" / "configs.md"
BEGIN, END = "<!-- table: python scripts/config_table.py --write -->", "<!-- end of table -->"

# Shipped configs and the side of the square frames that they are for; `…` stands for the arms.
CONFIGS = {
    "demo/tokenizer": 32,
    "video64": 64,
    "starter": 64,
    "bair_small": 64,
    "bair": 64,
    "ucf101_small": 128,
    "ucf101": 128,
    "ucf101_gan": 128,
    "video256": 256,
    "timesformer/bair_…": 64,
    "timesformer/ucf101_…": 128,
    "image/vqgan_…_1024x32": 256,
    "image/vqgan_…_8192x3": 256,
    "image/vit_vqgan_…_1024x32": 256,
    "image/vit_vqgan_…_8192x3": 256,
}
# Arms differ in the gradient, or in how latents are compared with codes: their costs are equal.
ARMS = {
    "timesformer": ("rotation_l2", "straight_through_l2", "straight_through_raw"),
    "image": ("cosine", "euclidean"),
}
FLOPS_PER_SECOND = 300e12  # an optimistic share of an H100's 990e12 in bf16
MEMORY = 80e9


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
    """Return the costs of training a tokenizer, most of them per clip.

    The quantizer, whose share is below one percent, and the passes of the perceptual network and
    the discriminator are left out.

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


def names_of(name: str) -> list[str]:
    """Return the names of the configs that a name in the table stands for."""
    return [name.replace("…", arm) for arm in ARMS.get(name.partition("/")[0], ("",))]


def costs_of(name: str, side: int) -> tuple[TokenizerTrainingConfig, TokenizerCosts]:
    """Return the first config that a name in the table stands for, and its costs in bf16."""
    path = find_config(names_of(name)[0], "tokenizer")
    config = load_config(TokenizerTrainingConfig, path)
    return config, tokenizer_costs(config, (config.data.num_frames, side, side), "bf16")


def row(name: str, side: int) -> str:
    """Return a row of the table."""
    config, costs = costs_of(name, side)
    clip = f"{config.data.num_frames}x{side}x{side}"
    grid = config.model.backbone.grid_thw((config.data.num_frames, side, side))
    tokens = f"{'x'.join(map(str, grid))} = {costs.num_tokens:,}"
    fit = int((MEMORY - costs.weight_bytes) / costs.clip_bytes)
    flops = config.optim.steps * config.optim.batch_size * costs.step_flops
    hours = flops / FLOPS_PER_SECOND / 3600
    cells = [
        f"`{name}`",
        clip,
        tokens,
        codes(config.model.quantizer.vocabulary),
        f"{costs.num_parameters / 1e6:.1f} M",
        f"{costs.forward_flops / 1e9:,.3g}",
        f"{costs.weight_bytes / 1e9:.2f}",
        f"{costs.clip_bytes / 1e9:.3g}",
        f"{fit:,}",
        f"{config.optim.steps:,} x {config.optim.batch_size}",
        f"{hours:.1f}" if hours > 0.05 else "< 0.1",
    ]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """Return the whole table."""
    heads = [
        "config",
        "clip",
        "tokens",
        "codes",
        "parameters",
        "GFLOP, forward",
        "GB, weights",
        "GB, each clip",
        "clips in 80 GB",
        "steps x batch",
        "hours at 300 TFLOP/s",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(row(name, side) for name, side in CONFIGS.items())])


def with_table(page: str, text: str) -> str:
    """Return the page with its table replaced."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    page, made = PAGE.read_text(), table()
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(with_table(page, made))
    elif sys.argv[1:] == ["--check"]:
        if with_table(page, made) != page:
            sys.exit("docs/configs.md is stale: run `python scripts/config_table.py --write`")
    else:
        print(made)
