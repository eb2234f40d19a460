"""Checks error estimates of FVD, KVD and FVD at infinite N on features of known distribution.

The real features are Gaussian, with 400 dimensions and a covariance of trace 2500; those of the
models are independent of them or paired with them. Every draw is stored as a line of draws.jsonl in
the output folder. If the script is started again, it makes only the missing draws; with `--table`,
it only prints the results.

Example: `OMP_NUM_THREADS=1 python experiments/simulate_fvd_statistics.py --out runs/fvd`
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

from video_vq.metrics.grouped import GroupedFeatures
from video_vq.metrics.kernel import kernel_distance
from video_vq.metrics.uncertainty import (
    fvd_at_infinity,
    half_sample_distances,
    interval_at_n,
    population_interval,
    resampled_distances,
    split_half_error,
)
from video_vq.progress import progress

NUM_FEATURES, TRACE, DDOF = 400, 2500.0, 0
INFINITY_MODELS = ("perfect", "scale")
KERNEL_MODELS = ("perfect", "mean")
PAIRS = {
    "unpaired": (
        ("perfect", "perfect twin"),
        ("mean", "perfect"),
        ("scale", "perfect"),
        ("rank", "perfect"),
        ("mean", "scale"),
        ("scale", "rank"),
    ),
    "paired": (("noisy", "clean"),),
}
Kind = Literal["unpaired", "paired"]


class Model(NamedTuple):
    """A model whose features are the real ones times `copied`, plus Gaussian noise.

    Attributes:
        mean: mean of the noise.
        copied: factor of the real features.
        deviation: standard deviations of the noise, along the same axes as the real features.
    """

    mean: np.ndarray
    copied: float
    deviation: np.ndarray

    def fvd(self, real: np.ndarray) -> float:
        """Return the exact FVD to the real distribution, whose standard deviations are `real`."""
        spread = np.sqrt(np.square(self.copied * real) + np.square(self.deviation))
        return float(np.square(self.mean).sum() + np.square(spread - real).sum())


def real_deviations(exponent: float) -> np.ndarray:
    eigenvalues = np.arange(1, NUM_FEATURES + 1) ** -exponent
    return np.sqrt(eigenvalues * TRACE / eigenvalues.sum())


def models(kind: Kind, exponent: float) -> dict[str, Model]:
    real = real_deviations(exponent)
    zero = np.zeros(NUM_FEATURES)
    if kind == "paired":
        clean = Model(zero, 0.85, 0.3 * real)
        noisy = Model(zero, 0.85, np.sqrt(np.square(0.3 * real) + 0.1))
        return {"clean": clean, "noisy": noisy}
    tail = np.cumsum(np.square(real)[::-1])[::-1]
    perfect = Model(zero, 0.0, real)
    return {
        "perfect": perfect,
        "perfect twin": perfect,
        "mean": Model(np.sqrt(150.0) * real / np.linalg.norm(real), 0.0, real),
        "scale": Model(zero, 0.0, 0.8 * real),
        "rank": Model(zero, 0.0, np.where(tail > 100.0, real, 0.0)),
    }


def draw_sets(
    kind: Kind, exponent: float, num_clips: int, random: np.random.Generator
) -> dict[str, GroupedFeatures]:
    """Return the real features and those of each model, with every clip as its own video."""
    shape = (num_clips, NUM_FEATURES)
    real = random.standard_normal(shape) * real_deviations(exponent)
    sets = {"real": GroupedFeatures(real, [f"real {i}" for i in range(num_clips)])}
    for name, model in models(kind, exponent).items():
        own = random.standard_normal(shape) * model.deviation
        source = "real" if kind == "paired" else name
        features = model.mean + model.copied * real + own
        sets[name] = GroupedFeatures(features, [f"{source} {i}" for i in range(num_clips)])
    return sets


class Cell(NamedTuple):
    """The settings of one draw."""

    part: Literal["unpaired", "paired", "infinity"]
    exponent: float
    num_clips: int
    draw: int

    def sets(self) -> dict[str, GroupedFeatures]:
        """Return the real features and those of each model for this draw."""
        kind = "paired" if self.part == "paired" else "unpaired"
        key = [self.draw, self.num_clips, int(10 * self.exponent), len(self.part)]
        return draw_sets(kind, self.exponent, self.num_clips, np.random.default_rng(key))


def measure(cell: Cell, num_splits: int, num_bootstraps: int) -> dict[str, Any]:
    """Return the scores of one draw."""
    sets = cell.sets()
    real = sets.pop("real")
    if cell.part == "infinity":
        return {
            name: fvd_at_infinity(real, sets[name], DDOF, cell.draw)._asdict()
            for name in INFINITY_MODELS
        }
    candidates = [one.features for one in sets.values()]
    values: dict[str, Any] = {"names": list(sets)}
    values["full"] = resampled_distances(real.features, candidates, DDOF).tolist()
    halves = half_sample_distances(real, tuple(sets.values()), DDOF, cell.draw, num_splits)
    values["halves"] = np.round(halves, 6).tolist()
    if cell.part == "unpaired" and (num_bootstraps > 0 or cell.num_clips <= NUM_FEATURES):
        values["kernel"] = {
            name: kernel_distance(real.features, sets[name].features) for name in KERNEL_MODELS
        }
    if num_bootstraps == 0:
        return values
    random = np.random.default_rng([cell.draw, 0xB007])
    rounds = []
    for _ in range(num_bootstraps):
        rows = [random.integers(cell.num_clips, size=cell.num_clips) for _ in range(len(sets) + 1)]
        if cell.part == "paired":
            rows = [rows[0]] * len(rows)
        drawn = [one[row] for one, row in zip(candidates, rows[1:], strict=True)]
        rounds.append(resampled_distances(real.features[rows[0]], drawn, DDOF))
    values["bootstrap"] = np.round(rounds, 6).tolist()
    return values


def cells(arguments: argparse.Namespace) -> Iterable[tuple[Cell, int]]:
    """Yield each draw with its number of bootstrap samples; for each N, the slow ones come last."""
    for num_clips in sorted(arguments.clips):
        if num_clips > NUM_FEATURES:
            for draw in range(arguments.slow_draws):
                for exponent in arguments.exponents:
                    yield Cell("infinity", exponent, num_clips, draw), 0
        for draw in reversed(range(arguments.draws)):
            num_bootstraps = arguments.bootstraps if draw < arguments.slow_draws else 0
            for exponent in arguments.exponents:
                for part in arguments.parts:
                    yield Cell(part, exponent, num_clips, draw), num_bootstraps


def read(path: Path) -> dict[Cell, dict[str, Any]]:
    """Return the existing results, without lines that were not written completely."""
    found = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for line in filter(None, lines):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            print(f"{path}: one broken line, it is drawn again")
            continue
        found[Cell(*entry["cell"])] = entry["values"]
    return found


# A rule for intervals: maps scores of all clips, halves and bootstrap samples to (low, high).
Rule = Callable[[float, np.ndarray, np.ndarray], tuple[float, float]]


def percentile(full: float, halves: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(samples, (0.025, 0.975))
    return low, high


def basic(full: float, halves: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    low, high = percentile(full, halves, samples)
    return 2 * full - high, 2 * full - low


def normal(full: float, halves: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    reach = stdtrit(len(samples) - 1, 0.975) * samples.std(ddof=1)
    return full - reach, full + reach


def half_sample(full: float, halves: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    return normal(full, halves, halves.ravel())


def split_half(full: float, halves: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    reach = stdtrit(len(halves), 0.975) * split_half_error(halves)
    return full - reach, full + reach


def stretched(full: float, halves: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    return interval_at_n(full, halves)[2:]


def without_bias(full: float, halves: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    return population_interval(full, halves)[2:]


RULES: dict[str, Rule] = {
    "percentile": percentile,
    "basic": basic,
    "normal": normal,
    "half-sample": half_sample,
    "split half": split_half,
    "split half, stretched": stretched,
    "the same, bias out": without_bias,
}
AT_N = tuple(RULES)[:-1]
OF_POPULATION = ("percentile", "basic", "split half, stretched", "the same, bias out")
NEEDS_BOOTSTRAP = ("percentile", "basic", "normal")


class Draw(NamedTuple):
    """A score (or difference) in one draw: for all clips, for halves, and for bootstrap samples."""

    full: float
    halves: np.ndarray
    samples: np.ndarray


def scores(values: dict[str, Any], first: str, second: str | None) -> Draw:
    """Return the scores of the model `first`, minus those of `second` unless it is None."""
    weights = np.array(
        [(name == first) - (name == second) for name in values["names"]], dtype=np.float64
    )
    samples = np.array(values.get("bootstrap", np.zeros((0, len(weights)))))
    return Draw(
        float(np.array(values["full"]) @ weights),
        np.array(values["halves"]) @ weights,
        samples @ weights,
    )


def coverage(draws: list[Draw], rule: str, truth: float) -> str:
    """Return, as text, the percentage of draws whose interval contains `truth`.

    Only draws with bootstrap samples count if the rule needs them; the text is "–" without draws.
    """
    used = [one for one in draws if rule not in NEEDS_BOOTSTRAP or len(one.samples)]
    if not used:
        return "–"
    intervals = [RULES[rule](*one) for one in used]
    return f"{100 * np.mean([low <= truth <= high for low, high in intervals]):.1f}"


def print_header(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * len(columns))


def print_scores(found: dict[Cell, dict[str, Any]], differences: bool) -> None:
    """Print a table of the intervals' coverage, for differences of scores or for single scores."""
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for cell, values in sorted(found.items()):
        if cell.part != "infinity":
            grouped[cell.num_clips, cell.part, cell.exponent].append(values)
    print_header(
        "N, spectrum",
        "score",
        "draws (with bootstrap)",
        "population",
        "E[FVD at N]",
        "sd",
        "split-half error",
        *(f"E: {rule}" for rule in AT_N),
        *(f"population: {rule}" for rule in OF_POPULATION),
    )
    for (num_clips, part, exponent), entries in sorted(grouped.items(), key=lambda item: item[0]):
        truths = {n: m.fvd(real_deviations(exponent)) for n, m in models(part, exponent).items()}
        for pair in PAIRS[part] if differences else [(name, None) for name in truths]:
            first, second = pair
            draws = [scores(values, first, second) for values in entries]
            full = np.array([one.full for one in draws])
            population = truths[first] - (truths[second] if second else 0.0)
            error = np.sqrt(np.mean([interval_at_n(*one[:2])[1] ** 2 for one in draws]))
            columns = [
                f"{num_clips}, i^-{exponent:g}",
                f"{first} − {second}" if second else first,
                f"{len(draws)} ({sum(len(one.samples) > 0 for one in draws)})",
                *(f"{x:.1f}" for x in (population, full.mean(), full.std(ddof=1), error)),
            ]
            columns += [coverage(draws, rule, full.mean()) for rule in AT_N]
            columns += [coverage(draws, rule, population) for rule in OF_POPULATION]
            print(f"| {' | '.join(columns)} |")


def kernel_truth(model: Model, real: np.ndarray) -> float:
    """Return the exact KVD, the squared MMD with the cubic kernel, of an unpaired model."""

    def expectation(m: np.ndarray, a: np.ndarray, n: np.ndarray, b: np.ndarray) -> float:
        d, dot, trace = NUM_FEATURES, m @ n, a @ b
        square = trace + m @ (b * m) + n @ (a * n) + dot**2
        cube = dot**3 + 3 * dot * (m @ (b * m) + n @ (a * n) + trace) + 6 * (m @ (a * b * n))
        return float(1 + 3 * dot / d + 3 * square / d**2 + cube / d**3)

    zero, a, b = np.zeros(NUM_FEATURES), np.square(real), np.square(model.deviation)
    within = expectation(zero, a, zero, a) + expectation(model.mean, b, model.mean, b)
    return within - 2 * expectation(zero, a, model.mean, b)


def print_estimates(found: dict[Cell, dict[str, Any]]) -> None:
    """Print a table of KVD and FVD at infinite N: means over draws, truths and standard errors."""
    grouped: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    truths = {}
    for cell, values in found.items():
        known = models("unpaired", cell.exponent)
        real = real_deviations(cell.exponent)
        if cell.part == "infinity":
            for name, one in values.items():
                key = ("FVD, N → ∞", cell.num_clips, cell.exponent, name)
                truths[key] = known[name].fvd(real)
                grouped[key].append((one["value"], one["standard_error"]))
        for name, one in values.get("kernel", {}).items():
            key = ("KVD", cell.num_clips, cell.exponent, name)
            truths[key] = kernel_truth(known[name], real)
            grouped[key].append((one[0], one[1]))
    print_header(
        "score",
        "N, spectrum",
        "model",
        "draws",
        "truth",
        "mean ± its error",
        "sd",
        "error given",
        "± 1.96 errors hold the truth",
    )
    for key, pairs in sorted(grouped.items()):
        values, errors = np.array(pairs).T
        spread = values.std(ddof=1) if len(values) > 1 else np.nan
        mean = f"{values.mean():.4g} ± {spread / np.sqrt(len(values)):.2g}"
        held = 100 * np.mean(np.abs(values - truths[key]) <= 1.96 * errors)
        print(
            f"| {key[0]} | {key[1]}, i^-{key[2]:g} | {key[3]} | {len(values)} | "
            f"{truths[key]:.4g} | {mean} | {spread:.3g} | "
            f"{np.sqrt(np.mean(errors**2)):.3g} | {held:.0f} % |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for draws.jsonl")
    parser.add_argument("--clips", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--exponents", type=float, nargs="+", default=[1.0, 1.5])
    parser.add_argument(
        "--parts", nargs="+", choices=("unpaired", "paired"), default=["unpaired", "paired"]
    )
    parser.add_argument("--splits", type=int, default=20, help="cuts into halves per draw")
    parser.add_argument("--bootstraps", type=int, default=60, help="bootstrap samples per draw")
    parser.add_argument(
        "--slow-draws",
        type=int,
        default=30,
        help="only so many draws get bootstraps and, where N > 400, KVD and FVD at infinite N",
    )
    parser.add_argument("--table", action="store_true", help="print what there is, draw nothing")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "draws.jsonl"
    found = read(path)
    if not arguments.table:
        wanted = list(cells(arguments))
        missing = [(cell, number) for cell, number in wanted if cell not in found]
        bar = progress("draws", len(wanted), "draw", initial=len(wanted) - len(missing))
        with bar, path.open("a") as file:
            file.write("\n")  # ends a line that was not written completely
            for cell, num_bootstraps in missing:
                found[cell] = measure(cell, arguments.splits, num_bootstraps)
                file.write(json.dumps({"cell": cell, "values": found[cell]}) + "\n")
                file.flush()
                bar.update()
    print_scores(found, differences=True)
    print()
    print_scores(found, differences=False)
    print()
    print_estimates(found)


if __name__ == "__main__":
    main()
