"""Times our tokenizer and a VideoGPT-like VQ-VAE with about as many operations per clip.

It measures CPU time on one thread, or GPU time by CUDA events, as medians over interleaved rounds.
The additional peak memory of a training step of each contender is measured in a new process.
Example: `OMP_NUM_THREADS=1 python scripts/bench/tokenizer.py --rounds 5`
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from measure import (
    DTYPES,
    Precision,
    convolution_rate,
    counted_operations,
    milliseconds,
    number_from_fresh_process,
    peak_mebibytes,
    product_rate,
    shown,
)
from torch import Tensor, nn
from videogpt import VideoGPTTokenizer

from video_vq.models.tokenizer import TokenizerOutput, VideoTokenizer
from video_vq.models.tokenizer_config import ConvBackboneConfig, TokenizerConfig
from video_vq.nn.blocks import num_parameters
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.training.losses import reconstruction_loss
from video_vq.training.optimizer import make_optimizer
from video_vq.training.training_config import OptimizerConfig

CLIP = (16, 64, 64)
# About as many operations per clip, parameters, tokens and codes as the VideoGPT-like VQ-VAE.
OURS = TokenizerConfig(
    ConvBackboneConfig(
        patch_thw=(2, 4, 4),
        strides_thw=((2, 1, 1),),
        multipliers=(1, 4),
        channels=96,
        num_blocks=1,
    ),
    QuantizerConfig(codebook_size=2048, codebook_dim=64),
)
# As many operations, but more of them at a high resolution, as in configs/tokenizer/ucf101.yaml.
OURS_FINER = TokenizerConfig(
    ConvBackboneConfig(
        patch_thw=(1, 2, 2),
        strides_thw=((2, 2, 2), (2, 1, 1)),
        multipliers=(1, 1, 2),
        channels=64,
        num_blocks=2,
    ),
    QuantizerConfig(codebook_size=2048, codebook_dim=64),
)
OUR_MODELS = {"ours": OURS, "ours, finer": OURS_FINER}
BASELINES = {"VideoGPT-like": False, "VideoGPT-like, padding first": True}
CONTENDERS = [*OUR_MODELS, *BASELINES]
PRECISIONS: list[Precision] = ["fp32", "bf16"]
WORKS = ["forward", "training step", "encode", "decode"]
FASTER_ALIKE, FASTER_IN_BF16 = 1.2, 2.2
SHARES: dict[Precision, float] = {"fp32": 0.65, "bf16": 0.55}

WHAT = """Clips of 16 x 64 x 64 -> 4 x 16 x 16 tokens of 2048 codes, {batch} at a time; bf16 is
autocast.
ours: {ours}
ours, finer: {finer}
VideoGPT-like: 240 channels, 4 + 4 residual blocks with axial attention, codes of 256 dimensions;
  "padding first" pads by a copy before each strided convolution, as the released code does.
training step: forward, reconstruction and commitment loss, backward, clipping of the gradient's
  norm, AdamW, codebook. forward, encode and decode: without gradients.
operations: of products and convolutions, by torch.utils.flop_counter.
rates: GFLOP/s of a 1024^3 product, and of the fastest of four 3D convolutions of size 3."""


class Times(NamedTuple):
    """The measurements of each round: milliseconds per function, and the machine's GFLOP/s."""

    works: dict[tuple[Precision, str, str], list[float]]
    products: dict[Precision, list[float]]
    convolutions: dict[Precision, list[float]]


def make_model(contender: str) -> VideoTokenizer | VideoGPTTokenizer:
    """Return a contender's model with new weights."""
    torch.manual_seed(0)
    if contender in OUR_MODELS:
        return VideoTokenizer(OUR_MODELS[contender])
    return VideoGPTTokenizer(pad_first=BASELINES[contender])


def training_step(
    model: VideoTokenizer | VideoGPTTokenizer, optimizer: torch.optim.Optimizer, video: Tensor
) -> None:
    """Do one optimizer step as in training, inside the caller's autocast."""
    output = model(video)
    is_ours = isinstance(output, TokenizerOutput)
    commitment = output.quantized.losses["commitment"] if is_ours else output.commitment
    loss = 4 * reconstruction_loss(output.video, video, "mse") + 0.25 * commitment
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if isinstance(model, VideoTokenizer):
        model.quantizer.codebook.update(output.quantized.statistics, seed=0)


def make_works(contender: str, batch: int, device: str) -> dict[str, Callable[[], object]]:
    """Return the functions to time for a contender, by name."""
    model = make_model(contender).to(device)
    optimizer = make_optimizer(model, OptimizerConfig())
    video = torch.rand(batch, 3, *CLIP, device=device) * 2 - 1
    if isinstance(model, VideoTokenizer):
        with torch.no_grad():
            model.quantizer.codebook.initialize((model.latents(video),), seed=0)
    else:
        with torch.no_grad():
            model.train()(video)
    codes = model.encode(video)

    def forward() -> None:
        with torch.no_grad():
            model.eval()(video)

    return {
        "forward": forward,
        "training step": lambda: training_step(model.train(), optimizer, video),
        "encode": lambda: model.eval().encode(video),
        "decode": lambda: model.eval().decode(codes),
    }


def measure(batch: int, rounds: int, device: str) -> Times:
    """Return the times of all contenders, which take turns, and the machine's rates."""
    works = {contender: make_works(contender, batch, device) for contender in CONTENDERS}
    products = {name: product_rate(name, device) for name in PRECISIONS}
    convolutions = {name: convolution_rate(name, device) for name in PRECISIONS}
    times = Times({}, {name: [] for name in PRECISIONS}, {name: [] for name in PRECISIONS})
    for round_number in range(rounds + 1):
        for precision in PRECISIONS:
            rates = [
                statistics.median(rate() for _ in range(3)) for rate in convolutions[precision]
            ]
            product = statistics.median(products[precision]() for _ in range(3))
            if round_number:  # the first one warms up
                times.products[precision].append(product)
                times.convolutions[precision].append(max(rates))
            for work in WORKS:
                for contender in CONTENDERS:
                    with torch.autocast(device, DTYPES[precision], precision != "fp32"):
                        spent = milliseconds(works[contender][work], device)
                    if round_number:
                        times.works.setdefault((precision, contender, work), []).append(spent)
    return times


def operations(contender: str, device: str) -> dict[str, int]:
    """Return the number of operations per clip of each function to time."""
    works = make_works(contender, 1, device)
    return {work: counted_operations(works[work]) for work in WORKS}


def peak_of_step(contender: str, precision: Precision, batch: int, device: str) -> float:
    """Return the additional peak memory of a training step in MiB; call this in a new process."""
    step = make_works(contender, batch, device)["training step"]
    with torch.autocast(device, DTYPES[precision], precision != "fp32"):
        return peak_mebibytes(step, device)


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Return the ratios of the values in `above` to those in `below`, round by round."""
    return [first / second for first, second in zip(above, below, strict=True)]


def report_contender(
    contender: str, times: Times, counts: dict[str, int], batch: int, device: str
) -> None:
    """Measure the peak memory of a contender, and print it with speeds and operations."""
    parameters = num_parameters(make_model(contender)) / 1e6
    print(
        f"\n{contender}: {parameters:.1f}M parameters; GFLOP per clip: "
        + ", ".join(f"{work} {counts[work] / 1e9:.1f}" for work in WORKS)
    )
    for precision in PRECISIONS:
        arguments = ["--device", device, "--batch-size", str(batch)]
        peak = number_from_fresh_process(__file__, [*arguments, "--peak", contender, precision])
        print(f"  {precision}: peak of a training step {peak:.0f} MiB")
        for work in WORKS:
            spent = times.works[precision, contender, work]
            if work in ("encode", "decode"):
                speeds = [1000 * batch * CLIP[0] / one for one in spent]
                print(f"    {work:14} {shown(speeds, 1):>22} frames/s")
                continue
            speeds = [1000 * batch / one for one in spent]
            rate = [counts[work] * speed / 1e9 for speed in speeds]
            of_conv = 100 * statistics.median(ratios(rate, times.convolutions[precision]))
            of_product = 100 * statistics.median(ratios(rate, times.products[precision]))
            print(
                f"    {work:14} {shown(speeds, 2):>22} clips/s, "
                f"{of_conv:.0f} % of the convolutions' rate, {of_product:.0f} % of the products'"
            )


def report_goals(times: Times, counts: dict[str, int], batch: int) -> None:
    """Print our results in training beside the goals."""
    step = {key[:2]: spent for key, spent in times.works.items() if key[2] == "training step"}
    print("\nours in training, how many times as fast (wanted):")
    for baseline in BASELINES:
        for precision in PRECISIONS:
            found = shown(ratios(step[precision, baseline], step[precision, "ours"]), 2)
            print(f"  as {baseline}, both {precision}: {found} ({FASTER_ALIKE})")
        found = shown(ratios(step["fp32", baseline], step["bf16", "ours"]), 2)
        print(f"  in bf16 as {baseline} in fp32: {found} ({FASTER_IN_BF16})")
    for precision in PRECISIONS:
        rate = [counts["training step"] * batch / spent / 1e6 for spent in step[precision, "ours"]]
        shares = [100 * share for share in ratios(rate, times.convolutions[precision])]
        print(
            f"  share of the convolutions' rate, {precision}: {shown(shares)} % "
            f"({100 * SHARES[precision]:.0f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak", nargs=2, metavar=("CONTENDER", "PRECISION"))
    arguments = parser.parse_args()
    batch, device = arguments.batch_size, arguments.device
    torch.set_num_threads(1)
    if arguments.peak:
        contender, precision = arguments.peak
        print(peak_of_step(contender, precision, batch, device))
        return
    print(WHAT.format(batch=batch, ours=OURS.backbone, finer=OURS_FINER.backbone))
    where = "GPU, CUDA events" if device == "cuda" else "CPU, one thread, CPU time"
    print(f"torch {torch.__version__}, {where}, medians of {arguments.rounds} rounds (min to max)")
    counts = {contender: operations(contender, device) for contender in CONTENDERS}
    times = measure(batch, arguments.rounds, device)
    for precision in PRECISIONS:
        print(
            f"{precision}: products {shown(times.products[precision])} GFLOP/s, convolutions "
            f"{shown(times.convolutions[precision])} GFLOP/s"
        )
    for contender in CONTENDERS:
        report_contender(contender, times, counts[contender], batch, device)
    report_goals(times, counts["ours"], batch)


if __name__ == "__main__":
    main()
