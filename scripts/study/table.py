"""Makes the tables and the picture of a study from its file of results.

  python scripts/study/table.py scripts/study/rotation.yaml rotation.jsonl --picture rotation.svg

Differences are between runs with the same seed, an arm minus the reference arm, with the half width
of the 95 % interval of Student's t over seeds. There is no correction for the number of arms.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import plan as plans
from scipy import stats

Result = dict[str, Any]


class Difference(NamedTuple):
    """A mean difference over paired seeds, and half the width of its 95 % interval."""

    mean: float
    half_width: float
    pairs: int


class Measure(NamedTuple):
    """A column of the tables.

    Attributes:
        title: the column's title, with its unit.
        digits: number of digits after the decimal point.
        of: function that returns the number from a result, or None if the result lacks it.
    """

    title: str
    digits: int
    of: Callable[[Result], float | None]


def _in_scores(*keys: str) -> Callable[[Result], float | None]:
    def number(result: Result) -> float | None:
        value: Any = result["scores"]
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return number


def _last(key: str) -> Callable[[Result], float | None]:
    return lambda result: result["curve"][-1].get(key) if result["curve"] else None


MEASURES = (
    Measure("PSNR, dB", 2, _in_scores("reconstruction", "psnr", "mean")),
    Measure("SSIM", 3, _in_scores("reconstruction", "ssim", "mean")),
    Measure("rFVD", 0, _in_scores("reconstruction", "rfvd", "value")),
    Measure("code usage", 3, _in_scores("reconstruction", "codebook", "code_usage")),
    Measure("perplexity", 0, _in_scores("reconstruction", "codebook", "perplexity")),
    Measure("bits per token", 3, _in_scores("prior", "bits_per_token")),
    Measure("bits per clip", 0, _in_scores("prior", "bits_per_clip")),
    Measure("gFVD", 0, _in_scores("generation", "gfvd", "value")),
    Measure("class accuracy", 2, _in_scores("generation", "classes", "accuracy_samples")),
    Measure("angle, median °", 1, _last("quantizer/angle_p50")),
    Measure("latent norm, median", 2, _last("quantizer/latent_norm_p50")),
)


def paired_difference(
    arm: Mapping[int, float], reference: Mapping[int, float]
) -> Difference | None:
    """Return the mean difference over the common seeds; None if there are fewer than two.

    Args:
        arm: a number by seed.
        reference: the same number of the reference arm by seed.
    """
    differences = [arm[seed] - reference[seed] for seed in sorted(arm.keys() & reference.keys())]
    if len(differences) < 2:
        return None
    quantile = float(stats.t.ppf(0.975, len(differences) - 1))
    half_width = quantile * stdev(differences) / math.sqrt(len(differences))
    return Difference(mean(differences), half_width, len(differences))


def numbers(results: Sequence[Result], measure: Measure) -> dict[int, float]:
    """Return the values of a measure by seed, for the runs that have it."""
    found = {result["seed"]: measure.of(result) for result in results}
    return {seed: value for seed, value in found.items() if value is not None}


def cell(arm: Mapping[int, float], reference: Mapping[int, float], measure: Measure) -> str:
    """Return a table cell with the arm's mean and its paired difference from the reference."""
    if not arm:
        return ""
    digits = measure.digits
    text = f"{mean(arm.values()):.{digits}f}"
    difference = paired_difference(arm, reference) if arm is not reference else None
    if difference is not None:
        text += f" ({difference.mean:+.{digits}f} ± {difference.half_width:.{digits}f})"
    return text


def tables(plan: plans.Plan, results: Sequence[Result]) -> str:
    """Return all tables in Markdown, followed by the failed runs and the number of runs left.

    There is a table for each world, regime and optimizer, and one of the rates that were tried.
    """
    groups: dict[tuple[str, ...], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result["status"] == "finished" and not result["part"].startswith(plans.TUNING):
            key = tuple(result[name] for name in ("world", "regime", "optimizer"))
            groups[key][result["arm"]].append(result)
    lines: list[str] = []
    for key, arms in groups.items():
        columns = [m for m in MEASURES if any(numbers(runs, m) for runs in arms.values())]
        lines += [f"### {', '.join(key)}", ""]
        lines += ["| arm | rate | seeds | " + " | ".join(m.title for m in columns) + " |"]
        lines += ["|---" * (3 + len(columns)) + "|"]
        for arm in (name for name in plan.arms if name in arms):
            runs = arms[arm]
            rates = ", ".join(sorted({f"{run['rate']:g}" for run in runs}))
            cells = []
            for measure in columns:
                of_arm = numbers(runs, measure)
                of_reference = (
                    of_arm
                    if arm == plan.reference
                    else numbers(arms.get(plan.reference, []), measure)
                )
                cells.append(cell(of_arm, of_reference, measure))
            lines += [f"| {arm} | {rates} | {len(runs)} | " + " | ".join(cells) + " |"]
        lines += [""]
    lines += [rates_table(plan, results), ""]
    failed = [result for result in results if result["status"] == "failed"]
    lines += [f"Failed runs: {len(failed)}", ""]
    lines += [f"* {run['name']}: {run['failed']}" for run in failed]
    left = sum(not any(r["name"] == run.name for r in results) for run in plans.runs_of(plan))
    lines += ["", f"{len(results)} runs of the plan are done, {left} are left."]
    return "\n".join(lines)


def rates_table(plan: plans.Plan, results: Sequence[Result]) -> str:
    """Return a table of the validation PSNR of each arm at each rate that was tried."""
    tuning = [
        r
        for r in results
        if r["part"].startswith(plans.TUNING) and r["validation_psnr"] is not None
    ]
    rates = sorted({result["rate"] for result in tuning})
    lines = ["### tuning: validation PSNR, dB", ""]
    lines += ["| regime, optimizer, arm | " + " | ".join(f"{rate:g}" for rate in rates) + " |"]
    lines += ["|---" * (1 + len(rates)) + "|"]
    found: dict[tuple[str, str, str], dict[float, float]] = defaultdict(dict)
    for r in tuning:
        found[r["regime"], r["optimizer"], r["arm"]][r["rate"]] = r["validation_psnr"]
    for key, psnrs in sorted(found.items()):
        cells = (f"{psnrs[rate]:.2f}" if rate in psnrs else "" for rate in rates)
        lines += [f"| {', '.join(key)} | " + " | ".join(cells) + " |"]
    return "\n".join(lines)


def picture(plan: plans.Plan, results: Sequence[Result], path: Path) -> None:
    """Plot PSNR against bits per clip, with a panel for each world, regime and optimizer."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "rotation"
    psnr, bits = (next(m for m in MEASURES if m.title == t) for t in ("PSNR, dB", "bits per clip"))
    groups: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for result in results:
        if result["status"] == "finished" and not result["part"].startswith(plans.TUNING):
            x, y = bits.of(result), psnr.of(result)
            if x is not None and y is not None:
                key = tuple(result[name] for name in ("world", "regime", "optimizer"))
                groups[key][result["arm"]].append((x, y))
    figure, axes = plt.subplots(
        1, max(1, len(groups)), figsize=(5 * max(1, len(groups)), 4.2), squeeze=False
    )
    colours = dict(zip(plan.arms, mpl.color_sequences["tab20"], strict=False))
    for axis, (key, arms) in zip(axes[0], groups.items(), strict=False):
        for arm, points in arms.items():
            xs, ys = zip(*points, strict=True)
            axis.scatter(xs, ys, s=12, alpha=0.5, color=colours[arm])
            axis.scatter(mean(xs), mean(ys), s=50, marker="D", color=colours[arm], label=arm)
        axis.set(title=", ".join(key), xlabel="bits per clip after the prior", ylabel="PSNR, dB")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path, help="the plan, a YAML file")
    parser.add_argument("results", type=Path, help="the results that run.py wrote")
    parser.add_argument("--picture", type=Path, help="draw rate and distortion into this file")
    options = parser.parse_args(arguments)
    plan = plans.read_plan(options.plan)
    results = [json.loads(line) for line in options.results.read_text().splitlines()]
    print(tables(plan, results))
    if options.picture is not None:
        picture(plan, results, options.picture)


if __name__ == "__main__":
    main()
