"""Times training steps with our Muon and with AdamW, and updates of our Muon and of torch's.

It measures CPU time on one thread, in interleaved rounds; ratios are those of medians. Example:

  OMP_NUM_THREADS=1 python scripts/bench/optimizer.py --config demo/tokenizer --batches 4 16 64
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from measure import DTYPES, milliseconds
from tokenizer import training_step
from torch import nn

from video_vq.config import find_config, load_config
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.training.optimizer import make_optimizer, parameter_groups
from video_vq.training.training_config import OptimizerConfig, TokenizerTrainingConfig

Kind = Literal["adamw", "muon"]


def make_step(
    config: TokenizerTrainingConfig, kind: Kind, batch: int, size: int
) -> Callable[[], None]:
    """Return a function that does a training step on random clips, after one step to warm up."""
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config.model).train()
    optimizer = make_optimizer(tokenizer, OptimizerConfig(kind=kind, lr=1e-6))
    video = torch.rand(batch, 3, config.data.num_frames, size, size) * 2 - 1
    with torch.no_grad():
        tokenizer.quantizer.codebook.initialize((tokenizer.latents(video),), seed=0)
    step = partial(training_step, tokenizer, optimizer, video)
    step()
    return step


def make_updates(config: TokenizerTrainingConfig) -> dict[str, Callable[[], object]]:
    """Return functions that only update the hidden matrices, with our Muon and with torch's."""
    torch.manual_seed(0)
    ours, muon = VideoTokenizer(config.model), OptimizerConfig(kind="muon")
    hidden = parameter_groups(ours, muon)[-1]["params"]
    layers = [nn.Parameter(value.detach().clone()) for value in hidden]
    matrices = [nn.Parameter(value.detach().flatten(1).clone()) for value in hidden]
    for layer, matrix in zip(layers, matrices, strict=True):
        layer.grad = torch.randn_like(layer)
        matrix.grad = layer.grad.flatten(1)
    module = nn.Module()
    for index, layer in enumerate(layers):
        module.register_parameter(f"layer{index}_weight", layer)
    return {
        "float32 Gram matrices (ours)": make_optimizer(module, muon).step,
        "bf16 matrices (torch.optim.Muon)": torch.optim.Muon(matrices).step,
    }


def medians(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the CPU time of each function in milliseconds, as the median of interleaved rounds."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(milliseconds(work, "cpu"))
    return {name: statistics.median(times) for name, times in found.items()}


def report(config: TokenizerTrainingConfig, batches: Sequence[int], size: int, rounds: int) -> str:
    """Time training steps and updates; return a Markdown table of each."""
    rows = ["| clips a step | AdamW, ms | Muon, ms | Muon / AdamW |", "|---|---|---|---|"]
    for batch in batches:
        steps = {kind: make_step(config, kind, batch, size) for kind in get_args(Kind)}
        took = medians(steps, rounds)
        ratio = took["muon"] / took["adamw"]
        rows.append(f"| {batch} | {took['adamw']:.0f} | {took['muon']:.0f} | {ratio:.2f} |")
    rows += ["", "| update of the hidden matrices by | ms |", "|---|---|"]
    updates = medians(make_updates(config), rounds)
    return "\n".join([*rows, *(f"| {name} | {took:.1f} |" for name, took in updates.items())])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="demo/tokenizer", help="a tokenizer's config")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16, 64], help="clips a step")
    parser.add_argument("--size", type=int, default=32, help="height and width of the clips")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(TokenizerTrainingConfig, find_config(arguments.config, "tokenizer"))
    autocast = torch.autocast("cpu", DTYPES[arguments.precision], arguments.precision != "fp32")
    with autocast:
        print(report(config, arguments.batches, arguments.size, arguments.rounds))


if __name__ == "__main__":
    main()
