"""Measures the card's peak rates, and compares the time of each part with a lower bound."""

import importlib.util
import json
import shutil
import statistics
from collections.abc import Callable
from typing import Any

import torch
from day import (
    Day,
    Figures,
    Results,
    all_milliseconds,
    free,
    median_milliseconds,
    peak_gigabytes,
    tokenizer_config,
)
from noise_store import make_noise_store
from torch import Tensor

from video_vq.metrics.i3d import I3D
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig, TransformerConfig
from video_vq.models.sampling import TokenSampler
from video_vq.nn.blocks import num_parameters
from video_vq.nn.precision import exact_float32
from video_vq.quantizers import gradient
from video_vq.quantizers.lookup import nearest_codes
from video_vq.training.tokenizer import train_tokenizer

SIZES = [(16384, 256, 1024), (65536, 64, 1024), (16384, 16, 8192), (4096, 256, 16384)]  # n, d, k


def ceilings(day: Day) -> Figures:
    """Measure the card's rates of matrix products and copies, and its time per kernel launch."""
    side = day.pick(8192, 128)
    found: Figures = {}
    kinds: dict[str, tuple[torch.dtype, str]] = {
        "bf16": (torch.bfloat16, "highest"),
        "fp16": (torch.float16, "highest"),
        "TF32": (torch.float32, "high"),
        "float32": (torch.float32, "highest"),
    }
    for name, (dtype, precision) in kinds.items():
        torch.set_float32_matmul_precision(precision)
        a, b = (torch.randn(side, side, device=day.device).to(dtype) for _ in range(2))
        time = median_milliseconds(day, lambda a=a, b=b: a @ b)
        found[f"{name} TFLOP/s"] = 2 * side**3 / time / 1e9
        del a, b
    torch.set_float32_matmul_precision("highest")
    source = torch.randn(day.pick(1 << 30, 1 << 20), device=day.device)
    target = torch.empty_like(source)
    time = median_milliseconds(day, lambda: target.copy_(source))
    found["copy GB/s"] = 2 * source.nbytes / time / 1e6
    small = torch.zeros(1, device=day.device)

    def hundred() -> None:
        for _ in range(100):
            small.add_(1)

    found["microseconds a launch"] = 10 * median_milliseconds(day, hundred)
    return found


def known_ceilings(day: Day) -> Figures:
    """Return the ceilings that an earlier part measured.

    Raises:
        RuntimeError: no part has measured them.
    """
    results = Results(day.out / "results.json")
    if not results.is_done("speed/ceilings"):
        raise RuntimeError("speed/ceilings is not done, and all floors come from it")
    return results.parts["speed/ceilings"]


def quantizer(day: Day) -> Figures:
    """Time the lookup, the backward pass and, next to vector-quantize-pytorch's, the whole step."""
    sizes = day.pick(SIZES, [(256, 8, 32)])
    ceiling = known_ceilings(day)
    found = {f"{n}x{d}x{k}": of_size(day, (n, d, k), ceiling) for n, d, k in sizes}
    return {"sizes": found, **({} if has_peer() else {"left_out": "vector-quantize-pytorch"})}


def of_size(day: Day, size: tuple[int, int, int], ceiling: Figures) -> Figures:
    """Return the times of a quantizer's parts, their floors, and the figures of `against_peer`.

    Args:
        size: numbers of latents, dimensions and codes.
        ceiling: the rates from `ceilings`.
    """
    n, d, k = size
    x, codes = torch.randn(n, d, device=day.device), torch.randn(k, d, device=day.device)
    e, q, g = (torch.randn(n, d, device=day.device) for _ in range(3))

    def rotate(way: Callable[..., Tensor]) -> float:
        return median_milliseconds(day, lambda: way(e, q, g, None, gradient.MAX_RATIO))

    row: Figures = {
        # The products at the rate of float32, or reading latents and codes once.
        "floor ms": max(
            2 * n * d * k / ceiling["float32 TFLOP/s"] / 1e9,
            4 * (n + k) * d / ceiling["copy GB/s"] / 1e6,
        ),
        "lookup torch ms": median_milliseconds(day, lambda: nearest_codes(x, codes, "torch")),
        "backward floor ms": 4 * 4 * n * d / ceiling["copy GB/s"] / 1e6,
        "backward as written ms": rotate(gradient.rotate_everywhere),
    }
    if day.device == "cuda":
        row["lookup triton ms"] = median_milliseconds(
            day, lambda: nearest_codes(x, codes, "triton")
        )
        row["backward compiled ms"] = rotate(
            torch.compile(gradient.rotate_everywhere, dynamic=True)
        )
    return row | against_peer(day, size)


def has_peer() -> bool:
    """Return whether vector-quantize-pytorch is installed."""
    return importlib.util.find_spec("vector_quantize_pytorch") is not None


def against_peer(day: Day, size: tuple[int, int, int]) -> Figures:
    """Return median times and peak memory of our and the peer's steps; {} without the peer."""
    if not has_peer():
        return {}
    from quantizer import CONTENDERS, make_step  # scripts/bench/quantizer.py imports the peer

    steps = {name: make_step(name, size, day.device) for name in CONTENDERS}
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(day.pick(5, 1)):
        for name, step in steps.items():
            times[name] += all_milliseconds(day, step, rounds=5)
    found: Figures = {f"{name} ms": statistics.median(spent) for name, spent in times.items()}
    for name in CONTENDERS:
        steps.pop(name)
        free(day)
        before = peak_gigabytes(day)
        make_step(name, size, day.device)()
        peak = peak_gigabytes(day)
        if peak is not None and before is not None:
            found[f"{name} MB"] = 1000 * (peak - before)
    return found


def sampling(day: Day) -> Figures:
    """Time sampling at several batch sizes, with and without CUDA graphs, and compute its floor."""
    ceiling = known_ceilings(day)
    sizes = day.pick(
        TransformerConfig(width=576, depth=8, heads=9),
        TransformerConfig(width=32, depth=1, heads=2),
    )
    grid = day.pick((4, 16, 16), (1, 2, 2))
    prior = Prior(PriorConfig(1024, grid, 0, 0, sizes)).to(day.device)
    rows: Figures = {}
    for batch in day.pick((1, 16, 64), (1, 2)):
        for dtype in (torch.float32, torch.bfloat16):
            row: Figures = {"floor ms": sampling_floor(day, prior, batch, dtype, ceiling)}
            for graphs in day.pick((False, True), (False,)):
                sampler = TokenSampler(prior, batch_size=batch, dtype=dtype, graphs=graphs)
                seeds = list(range(batch))
                spent = all_milliseconds(
                    day, lambda sampler=sampler, seeds=seeds: sampler.draw(seeds), rounds=3
                )
                row["graphs ms" if graphs else "as written ms"] = statistics.median(spent)
            rows[f"batch {batch}, {str(dtype).removeprefix('torch.')}"] = row
    return {"num_tokens": prior.config.num_tokens, "batches": rows}


def sampling_floor(
    day: Day, prior: Prior, batch: int, dtype: torch.dtype, ceiling: Figures
) -> float:
    """Return a lower bound on the time in which a batch of clips can be sampled, in milliseconds.

    Each step reads the weights and the cache once and computes its products; only the slower of
    reading and computing counts.
    """
    config, num_tokens = prior.config.transformer, prior.config.num_tokens
    width = torch.empty(0, dtype=dtype).element_size()
    weights = num_parameters(prior.blocks) + num_parameters(prior.head)
    cache = 2 * config.depth * config.width * batch * (num_tokens + 1) / 2
    read = num_tokens * width * (weights + cache) / ceiling["copy GB/s"] / 1e6
    rate = ceiling["bf16 TFLOP/s" if dtype == torch.bfloat16 else "float32 TFLOP/s"]
    return max(read, num_tokens * 2 * batch * weights / rate / 1e9)


def fvd(day: Day) -> Figures:
    """Time I3D, which dominates the cost of FVD, with random weights."""
    from torch.utils.flop_counter import FlopCounterMode

    ceiling = known_ceilings(day)
    network = I3D().eval().to(day.device)
    batch, frames = day.pick(16, 1), day.pick(16, 9)
    clips = torch.rand(batch, 3, frames, 224, 224, device=day.device) * 2 - 1
    with torch.no_grad(), exact_float32(torch.device(day.device)):
        with FlopCounterMode(display=False) as counter:
            network(clips)
        time = median_milliseconds(day, lambda: network(clips), rounds=5)
    floor = counter.get_total_flops() / ceiling["float32 TFLOP/s"] / 1e9
    return {"clips/s": 1000 * batch / time, "floor ms": floor, "ms": time, "batch": batch}


def loading(day: Day) -> Figures:
    """Train on noise with 0, 2 and 8 data-loading workers.

    Returns:
        For each number of workers, the share of the step spent on loading data, and clips per
        second.
    """
    folder = day.out / "loading"
    make_noise_store(
        folder / "clips", size=day.pick(64, 16), num_videos=day.pick(256, 8), num_frames=30
    )
    steps = day.pick(120, 2)
    found: Figures = {}
    for workers in day.pick((0, 2, 8), (0,)):
        config = tokenizer_config(
            *(day, "bair_small", f"optim.steps={steps}", f"run.num_workers={workers}"),
            *(f"run.log_every={max(1, steps // 4)}", f"run.checkpoint_every={steps}"),
            *(f"run.validate_every={steps}", f"run.validation_clips={day.pick(16, 2)}"),
            *(f"optim.batch_size={day.pick(64, 2)}", "optim.warmup_steps=1"),
        )
        run = folder / str(workers)
        with precision(day):
            train_tokenizer(config, folder / "clips", run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        timed: list[dict[str, Any]] = [line for line in lines if "time/data" in line]
        last = timed[-2:]  # the first ones warm up
        found[f"{workers} workers"] = {
            "share of the step": statistics.median(line["time/data"] for line in last),
            "clips/s": statistics.median(line["time/clips_per_second"] for line in last),
        }
        shutil.rmtree(run)
    shutil.rmtree(folder)
    return {"loaders": found}


def precision(day: Day) -> Any:
    """Return a context in which training runs use bf16, except in a rehearsal."""
    from unittest import mock

    name = day.pick("bf16", "no")
    return mock.patch.dict("os.environ", {"ACCELERATE_MIXED_PRECISION": name})
