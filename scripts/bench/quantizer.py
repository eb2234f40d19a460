"""Times one training step of our quantizer and of vector-quantize-pytorch, beside a lower bound.

It measures CPU time on one thread, or GPU time by CUDA events, as medians over interleaved rounds.
The additional peak memory of a step of each contender is measured in a new process. Example:
`OMP_NUM_THREADS=1 python scripts/bench/quantizer.py --rounds 7`
"""

import argparse
import importlib.metadata
import statistics
from collections.abc import Callable

import torch
import vector_quantize_pytorch
from measure import milliseconds, number_from_fresh_process, peak_mebibytes, shown
from torch import nn

from video_vq.quantizers.compat import VectorQuantize

SIZES = [(16384, 256, 1024), (65536, 64, 1024), (16384, 16, 8192), (4096, 256, 16384)]
CONTENDERS = ["ours rotation", "ours straight", "vqp rotation", "vqp straight"]
GOALS = {SIZES[0]: (5, 8), SIZES[1]: (10, 18), SIZES[2]: (27, 60), SIZES[3]: (4, 7)}
MEMORY_GOALS = {SIZES[0]: 5, SIZES[1]: 18, SIZES[2]: 60, SIZES[3]: 25}

WHAT = """One training step, both sides alike: latents 1 x N x D that need a gradient -> nearest of
K codes (exact, float32), codes out, commitment loss x 0.25, moving averages of counts and sums with
decay 0.99, new codes; then backward of a given dL/dq and of the loss, down to the latents.
ours: video_vq.quantizers.compat.VectorQuantize, which also refuses latents that are not finite.
vqp:  vector_quantize_pytorch.VectorQuantize {vqp}, same arguments.
floor: 2 N K D operations at the rate of a 1024^3 float32 product in this run; nothing else."""


def make_step(contender: str, size: tuple[int, int, int], device: str) -> Callable[[], None]:
    """Return a function that does one training step."""
    num_rows, dim, codebook_size = size
    torch.manual_seed(0)
    side, estimator = contender.split()
    rotation = estimator == "rotation"
    shared = {"decay": 0.99, "commitment_weight": 0.25, "rotation_trick": rotation}
    module: nn.Module = (
        VectorQuantize(dim, codebook_size, **shared)
        if side == "ours"
        else vector_quantize_pytorch.VectorQuantize(dim, codebook_size, **shared)
    )
    module = module.to(device).train()
    latents = torch.randn(1, num_rows, dim, device=device, requires_grad=True)
    gradient = torch.randn(1, num_rows, dim, device=device)

    def step() -> None:
        latents.grad = None
        quantized, _, loss = module(latents)
        torch.autograd.backward([quantized, loss], [gradient, None])

    return step


def floor_milliseconds(size: tuple[int, int, int], device: str) -> float:
    """Return the milliseconds to compute the distances at the rate of a large matrix product."""
    side = 1024 if device == "cpu" else 8192
    a, out = torch.randn(side, side, device=device), torch.empty(side, side, device=device)
    torch.mm(a, a, out=out)
    best = min(milliseconds(lambda: torch.mm(a, a, out=out), device) for _ in range(3))
    num_rows, dim, codebook_size = size
    return num_rows * dim * codebook_size / side**3 * best


def compare(size: tuple[int, int, int], rounds: int, device: str) -> dict[str, list[float]]:
    """Return the milliseconds of the floor and of all contenders in interleaved rounds."""
    steps = {name: make_step(name, size, device) for name in CONTENDERS}
    times: dict[str, list[float]] = {name: [] for name in ["floor", *CONTENDERS]}
    for round_number in range(rounds + 1):
        for name in times:
            spent = (
                floor_milliseconds(size, device)
                if name == "floor"
                else milliseconds(steps[name], device)
            )
            if round_number:  # the first one warms up
                times[name].append(spent)
    return times


def peak_of_step(contender: str, size: tuple[int, int, int], device: str) -> float:
    """Return the additional peak memory of a step in MiB; call this function in a new process."""
    make_step(contender, (256, size[1], 64), device)()
    return peak_mebibytes(make_step(contender, size, device), device)


def in_fresh_process(contender: str, size: tuple[int, int, int], device: str) -> float:
    """Return the result of `peak_of_step` in a new process."""
    sizes = [str(number) for number in size]
    return number_from_fresh_process(__file__, ["--device", device, "--peak", contender, *sizes])


def report(size: tuple[int, int, int], times: dict[str, list[float]], peaks: dict[str, float]):
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"\nN, D, K = {size[0]}, {size[1]}, {size[2]}")
    print(f"  {'floor':15} {shown(times['floor']):>24} ms")
    for name in CONTENDERS:
        over = median[name] / median["floor"]
        print(f"  {name:15} {shown(times[name]):>24} ms {over:6.1f} x floor {peaks[name]:7.0f} MiB")
    faster = median["vqp rotation"] / median["ours rotation"]
    smaller = peaks["vqp rotation"] / peaks["ours rotation"]
    dearer = median["ours rotation"] / median["ours straight"] - 1
    least, goal = GOALS[size]
    print(f"  rotation against vqp: {faster:.1f} x faster (at least {least}, goal {goal})")
    print(f"  its memory: 1/{smaller:.0f} of vqp's (at most 1/{MEMORY_GOALS[size]})")
    print(f"  rotation over our own straight-through: {100 * dearer:+.1f} % (at most 15 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[0, 1, 2, 3], help="which of the four sizes"
    )
    parser.add_argument("--peak", nargs=4, metavar=("CONTENDER", "N", "D", "K"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        contender, num_rows, dim, codes = arguments.peak
        size = (int(num_rows), int(dim), int(codes))
        print(peak_of_step(contender, size, arguments.device))
        return
    print(WHAT.format(vqp=importlib.metadata.version("vector-quantize-pytorch")))
    where = "GPU, CUDA events" if arguments.device == "cuda" else "CPU, one thread, CPU time"
    print(f"torch {torch.__version__}, {where}, medians of {arguments.rounds} rounds (min to max)")
    for index in arguments.sizes:
        size = SIZES[index]
        times = compare(size, arguments.rounds, arguments.device)
        peaks = {name: in_fresh_process(name, size, arguments.device) for name in CONTENDERS}
        report(size, times, peaks)


if __name__ == "__main__":
    main()
