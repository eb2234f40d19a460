"""Measures time, peak memory, operation counts and the machine's rates for the benchmarks."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Channels and (t, h, w) of convolutions of size 3, chosen to include a backbone's fastest.
CONVOLUTIONS = [(64, (8, 32, 32)), (128, (8, 16, 16)), (256, (8, 16, 16)), (384, (4, 16, 16))]


def milliseconds(work: Callable[[], object], device: str) -> float:
    """Return the milliseconds of CPU time, or of GPU time on a GPU, that `work` takes."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def peak_mebibytes(work: Callable[[], object], device: str) -> float:
    """Return the additional peak memory of `work` in MiB; call this function in a new process."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 2**10


def number_from_fresh_process(file: str, arguments: Sequence[str]) -> float:
    """Return the number that a script prints when it is run in a new process."""
    command = [sys.executable, file, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def product_rate(precision: Precision, device: str) -> Callable[[], float]:
    """Return a function that measures the GFLOP/s of a large square matrix product."""
    side = 1024 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    out = torch.empty_like(a)

    def rate() -> float:
        return 2 * side**3 / milliseconds(lambda: torch.mm(a, a, out=out), device) / 1e6

    return rate


def convolution_rate(precision: Precision, device: str) -> list[Callable[[], float]]:
    """Return a function for each of `CONVOLUTIONS` that measures its GFLOP/s."""
    dtype = DTYPES[precision]
    batch = 2 if device == "cpu" else 64

    def measurement(channels: int, size: tuple[int, int, int]) -> Callable[[], float]:
        x = torch.randn(batch, channels, *size, device=device, dtype=dtype)
        weight = torch.randn(channels, channels, 3, 3, 3, device=device, dtype=dtype)

        def work() -> torch.Tensor:
            return F.conv3d(x, weight, padding=1)

        operations = counted_operations(work)
        return lambda: operations / milliseconds(work, device) / 1e6

    return [measurement(*convolution) for convolution in CONVOLUTIONS]


def counted_operations(work: Callable[[], object]) -> int:
    """Return the number of operations in the matrix products and convolutions of `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def shown(values: Sequence[float], digits: int = 0) -> str:
    """Return the median and the range as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
