"""Compares quantizers in one model, followed by a prior, at equal bits per token and CPU time.

    ACCELERATE_MIXED_PRECISION=bf16 OMP_NUM_THREADS=1 python scripts/bench/quantizers.py \
        --data clips --out bench --seconds 1200 --prior-seconds 600 --bits 9 12 15 18 --seeds 0 1

Each run covers the whole pipeline: train-tokenizer, encode, train-prior, evaluate. The CPU time of
a step of each arm is first measured in a new process, relative to that of a reference arm, and
stored in steps.json; it determines the number of steps within the budget. If the script is started
again, it continues where it stopped. The results are in results.json, table.md and
rate_distortion.svg.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from curve import Axis, Point, curve_picture
from measure import milliseconds, number_from_fresh_process, peak_mebibytes

from video_vq.cli import main as video_vq
from video_vq.config import find_config, load_config
from video_vq.machine import asked_precision
from video_vq.models.prior import Prior, prior_loss
from video_vq.models.prior_config import PriorConfig, TransformerConfig, factorise
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.quantizers.quantizer_config import (
    BinaryConfig,
    FiniteConfig,
    QuantizerConfig,
    ResidualConfig,
    SimVQConfig,
)
from video_vq.stores.clips import ClipStore
from video_vq.training.optimizer import make_optimizer
from video_vq.training.training_config import PriorTrainingConfig, TokenizerTrainingConfig

AnyConfig = QuantizerConfig | SimVQConfig | FiniteConfig | BinaryConfig | ResidualConfig
ARMS = (
    *("vq_rotation", "vq_straight_through", "vq_cosine", "simvq", "fsq", "ifsq"),
    *("bsq", "lfq", "residual", "grouped", "ibq"),
)
WARM, ROUNDS = 3, 13  # steps: not timed, and in all
REFERENCE = ("vq_straight_through", 9)  # its steps are timed beside those of each arm
DIM = 32  # of codes that are looked up


def quantizer_of(arm: str, bits: int) -> AnyConfig | None:
    """Return an arm's quantizer config for a number of bits per token, or None if it has none.

    Args:
        arm: one of `ARMS`.
        bits: log2 of the number of codes of a position.

    Raises:
        ValueError: the arm is unknown.
    """
    size = 1 << bits
    match arm:
        case "vq_rotation":
            return QuantizerConfig(codebook_size=size, codebook_dim=DIM)
        case "vq_straight_through":
            return QuantizerConfig(
                codebook_size=size, codebook_dim=DIM, estimator="straight_through"
            )
        case "vq_cosine":
            return QuantizerConfig(codebook_size=size, codebook_dim=DIM, normalize=True)
        case "ibq":
            if bits > 15:  # each latent is compared with every code in a differentiable way
                return None
            return QuantizerConfig(
                codebook_size=size,
                codebook_dim=DIM,
                estimator="index_backpropagation",
                learning="gradient",
            )
        case "simvq":
            return SimVQConfig(codebook_size=size, codebook_dim=DIM)
        case "fsq" | "ifsq":
            if bits % 3:
                return None
            bound = "tanh" if arm == "fsq" else "sigmoid"
            return FiniteConfig(levels=(8,) * (bits // 3), activation=bound)
        case "bsq" | "lfq":
            return BinaryConfig(num_bits=bits, spherical=arm == "bsq")
        case "residual":
            coarse = -(-bits // 2)
            return ResidualConfig(codebook_sizes=(1 << coarse, size >> coarse), codebook_dim=DIM)
        case "grouped":
            if bits % 2:
                return None
            return ResidualConfig(codebook_sizes=(1 << bits // 2,), groups=2, codebook_dim=DIM // 2)
    raise ValueError(f"{arm}: is not an arm; the arms are {', '.join(ARMS)}")


def setting(name: str, quantizer: AnyConfig) -> str:
    """Return a quantizer's config as a setting for the command line."""
    values = {field: getattr(quantizer, field) for field in quantizer.__dataclass_fields__}
    shown = {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }
    return f"{name}={json.dumps(shown)}"


def tokenizer_step(config: TokenizerTrainingConfig, size_hw: tuple[int, int]) -> Any:
    """Return a function that does one training step of a tokenizer on noise."""
    torch.manual_seed(0)
    model = VideoTokenizer(config.model).train()
    optimizer = make_optimizer(model, config.optim)
    video = torch.rand(config.optim.batch_size, 3, config.data.num_frames, *size_hw) * 2 - 1
    if not model.quantizer.codebook.is_initialized:
        model.quantizer.codebook.initialize((model.latents(video).detach(),), 0)

    def step() -> None:
        optimizer.zero_grad()
        output = model(video)
        losses = [(output.video - video).square().mean(), *output.quantized.losses.values()]
        torch.stack(losses).sum().backward()
        optimizer.step()
        model.quantizer.codebook.update(output.quantized.statistics, 0)

    return step


def prior_step(
    config: PriorTrainingConfig, vocabulary: Sequence[int], grid_thw: tuple[int, int, int]
) -> Any:
    """Return a function that does one training step of a prior on random tokens."""
    torch.manual_seed(0)
    model = Prior(prior_config(config.model, vocabulary, grid_thw)).train()
    optimizer = make_optimizer(model, config.optim)
    shape = (config.optim.batch_size, math.prod(grid_thw))
    levels = [torch.randint(size, shape) for size in vocabulary]
    tokens = torch.stack(levels, -1) if len(levels) > 1 else levels[0]

    def step() -> None:
        optimizer.zero_grad()
        prior_loss(model(tokens), tokens, model.sub_codes).nats.backward()
        optimizer.step()

    return step


def prior_config(
    sizes: TransformerConfig, vocabulary: Sequence[int], grid_thw: tuple[int, int, int]
) -> PriorConfig:
    """Return the config of an unconditional prior over a grid of tokens with a given vocabulary."""
    split = tuple(factorise(size, sizes.sub_code_size) for size in vocabulary)
    return PriorConfig(
        codebook_size=math.prod(vocabulary),
        grid_thw=grid_thw,
        transformer=sizes,
        levels=tuple(vocabulary) if len(vocabulary) > 1 else (),
        sub_codes=split if any(len(parts) > 1 for parts in split) else (),
    )


def configs(
    arguments: argparse.Namespace, arm: str, bits: int
) -> tuple[TokenizerTrainingConfig, PriorTrainingConfig]:
    """Return the training configs of an arm's tokenizer and prior; steps and seed are set later."""
    quantizer = quantizer_of(arm, bits)
    assert quantizer is not None
    tokenizer = load_config(
        TokenizerTrainingConfig,
        find_config(arguments.config, "tokenizer"),
        [setting("model.quantizer", quantizer), *arguments.set],
    )
    prior = load_config(
        PriorTrainingConfig, find_config(arguments.prior_config, "prior"), arguments.set_prior
    )
    return tokenizer, prior


def make_step(arguments: argparse.Namespace, kind: str, arm: str, bits: int) -> Any:
    """Return a function that does one training step of an arm's tokenizer or prior."""
    tokenizer, prior = configs(arguments, arm, bits)
    size_hw = ClipStore(arguments.data).frame_size_hw
    if kind == "tokenizer":
        return tokenizer_step(tokenizer, size_hw)
    grid_thw = tokenizer.model.backbone.grid_thw((tokenizer.data.num_frames, *size_hw))
    return prior_step(prior, tokenizer.model.quantizer.vocabulary, grid_thw)


def measured(arguments: argparse.Namespace, what: str, kind: str, arm: str, bits: int) -> float:
    """Return one cost of a training step of a tokenizer or prior, in Accelerate's mixed precision.

    Call this function in a new process.

    Args:
        what: "mebibytes" for the additional peak memory, "milliseconds" for the CPU time, or
            "ratio" for the median ratio to the CPU time of `REFERENCE`, whose steps alternate with
            those of the arm, so that the load of the machine cancels out.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=asked_precision() == "bf16"):
        if what == "mebibytes":
            return peak_mebibytes(lambda: make_step(arguments, kind, arm, bits)(), "cpu")
        step = make_step(arguments, kind, arm, bits)
        other = make_step(arguments, kind, *REFERENCE) if what == "ratio" else lambda: None
        rounds = [[milliseconds(work, "cpu") for work in (step, other)] for _ in range(ROUNDS)]
    if what == "ratio":
        return median(ours / theirs for ours, theirs in rounds[WARM:])
    return median(ours for ours, _ in rounds[WARM:])


def all_measured(arguments: argparse.Namespace, arm: str, bits: int) -> dict[str, float]:
    """Return all costs of an arm, measured in new processes and stored in the output folder."""
    path = arguments.out / "steps.json"
    known = json.loads(path.read_text()) if path.exists() else {}

    def number(what: str, kind: str, arm: str, bits: int) -> float:
        words = ["--measure", what, kind, arm, str(bits)]
        return number_from_fresh_process(__file__, [*sys.argv[1:], *words])

    kinds = ("tokenizer", "prior")
    if "reference" not in known:
        known["reference"] = {kind: number("milliseconds", kind, *REFERENCE) for kind in kinds}
    key = f"{arm}_{bits}"
    if key not in known:
        known[key] = {}
        for kind in kinds:
            ratio = number("ratio", kind, arm, bits)
            known[key][f"{kind}_milliseconds"] = ratio * known["reference"][kind]
            known[key][f"{kind}_mebibytes"] = number("mebibytes", kind, arm, bits)
        path.write_text(json.dumps(known, indent=1))
    return known[key]


def run_arm(arguments: argparse.Namespace, arm: str, bits: int, seed: int) -> dict[str, Any]:
    """Run the pipeline for one arm, skipping finished stages; return its costs and scores."""
    costs = all_measured(arguments, arm, bits)
    folder = arguments.out / f"{arm}_{bits}_{seed}"
    quantizer = quantizer_of(arm, bits)
    assert quantizer is not None
    steps = max(2, int(1000 * arguments.seconds / costs["tokenizer_milliseconds"]))
    prior_steps = max(2, int(1000 * arguments.prior_seconds / costs["prior_milliseconds"]))
    common = (f"run.seed={seed}", "run.num_workers=0")

    def verb(*command: object) -> None:
        if video_vq([str(part) for part in command]):
            raise SystemExit(f"{folder.name}: {command[0]} failed")

    tokenizer, prior, tokens = folder / "tokenizer", folder / "prior", folder / "tokens"
    verb(
        *("train-tokenizer", "--config", arguments.config, "--data", arguments.data),
        *("--out", tokenizer, "--tracker", "none", setting("model.quantizer", quantizer)),
        *(*arguments.set, f"optim.steps={steps}", f"optim.warmup_steps={steps // 10}", *common),
    )
    verb("encode", arguments.data, "--tokenizer", tokenizer, "--out", tokens)
    verb(
        *("train-prior", "--config", arguments.prior_config, "--tokens", tokens, "--out", prior),
        *("--tracker", "none", *arguments.set_prior, f"optim.steps={prior_steps}"),
        *(f"optim.warmup_steps={prior_steps // 10}", *common),
    )
    scores = folder / "scores"
    verb(
        *("evaluate", "--data", arguments.data, "--tokenizer", tokenizer, "--out", scores),
        *("--tokens", tokens, "--prior", prior, "--num", arguments.num),
    )
    found = json.loads((scores / "scores.json").read_text())
    use = found["reconstruction"]["codebook"]
    return {
        "arm": arm,
        "bits": bits,
        "seed": seed,
        "steps": steps,
        "prior_steps": prior_steps,
        **costs,
        "psnr": found["reconstruction"]["psnr"]["mean"],
        "rfvd": found["reconstruction"]["rfvd"]["value"],
        "usage": use["code_usage"],
        "relative_perplexity": use["relative_perplexity"],
        "bits_per_clip": found["reconstruction"]["bits_per_clip"],
        "bits_per_clip_after_prior": found["prior"]["bits_per_clip"],
    }


COLUMNS = {
    "psnr": ("PSNR, dB", 2),
    "rfvd": ("rFVD", 1),
    "usage": ("code usage", 3),
    "bits_per_clip": ("bits a clip", 0),
    "bits_per_clip_after_prior": ("after the prior", 0),
    "tokenizer_milliseconds": ("ms a step", 0),
    "tokenizer_mebibytes": ("MiB a step", 0),
    "prior_milliseconds": ("ms a prior's step", 0),
    "prior_mebibytes": ("MiB a prior's step", 0),
}


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with a row per arm and size, and the mean and range over seeds."""
    rows = [
        f"| quantizer | bits | {' | '.join(name for name, _ in COLUMNS.values())} |",
        f"|{'---|' * (len(COLUMNS) + 2)}",
    ]
    for bits in sorted({result["bits"] for result in results}):
        for arm in ARMS:
            some = [one for one in results if (one["arm"], one["bits"]) == (arm, bits)]
            if some:
                cells = [
                    _cell([one[key] for one in some], digits)
                    for key, (_, digits) in COLUMNS.items()
                ]
                rows.append(f"| {arm} | {bits} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _cell(values: Sequence[float], digits: int) -> str:
    middle = f"{sum(values) / len(values):,.{digits}f}"
    low, high = (f"{value:,.{digits}f}" for value in (min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def picture(results: Sequence[dict[str, Any]]) -> str:
    """Return an SVG of PSNR over bits per clip after the prior.

    Each quantizer has a curve, and each size a point labeled with its bits: the mean over seeds.
    """
    curves = {}
    for arm in ARMS:
        sizes = sorted({one["bits"] for one in results if one["arm"] == arm})
        if sizes:
            curves[arm] = [_point(results, arm, bits) for bits in sizes]
    x, y = Axis("bits per clip after the prior"), Axis("PSNR, dB")
    return curve_picture(curves, x, y, "Quantizers by bits per token, at equal CPU time")


def _point(results: Sequence[dict[str, Any]], arm: str, bits: int) -> Point:
    some = [one for one in results if (one["arm"], one["bits"]) == (arm, bits)]
    x, y = (mean(one[key] for one in some) for key in ("bits_per_clip_after_prior", "psnr"))
    return Point(x, y, str(bits))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description="Compare quantizers at equal bits and time.")
    parser.add_argument("--data", type=Path, required=True, help="a clip store")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", default="demo/tokenizer")
    parser.add_argument("--prior-config", default="demo/prior")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all tokenizers")
    parser.add_argument("--set-prior", nargs="*", default=[], help="settings of all priors")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--bits", nargs="+", type=int, default=[9, 12, 15, 18])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds for each tokenizer")
    parser.add_argument("--prior-seconds", type=float, default=300)
    parser.add_argument("--num", type=int, default=256, help="clips that are scored")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every arm at every size and seed; return the results, which are stored after each run."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in arguments.seeds:
        for bits in arguments.bits:
            for arm in arguments.arms:
                if quantizer_of(arm, bits) is None:
                    continue
                results.append(run_arm(arguments, arm, bits, seed))
                (arguments.out / "results.json").write_text(json.dumps(results, indent=1))
                (arguments.out / "table.md").write_text(markdown(results))
                (arguments.out / "rate_distortion.svg").write_text(picture(results))
    return results


if __name__ == "__main__":
    given = parse()
    if given.measure:
        what, kind, arm, bits = given.measure
        print(measured(given, what, kind, arm, int(bits)))
    else:
        print(markdown(compare(given)))
