"""Plots why latents shrink under the rotation, and how exact the estimators' gradients are.

  python scripts/study/mechanism.py rotation.jsonl --out docs/figures/rotation_mechanism.svg

The runs of the parts "mechanism" and "without_commitment" give four panels: the median length of
the latents over steps; the forces that change it; the median angle between a latent and its code;
and, by this angle, the cosine between each estimator's gradient and the exact one.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

Result = Mapping[str, Any]
FORCES = {
    "radial_wish": "the loss (q·g)",
    "radial_estimator": "estimator (e·∂L/∂e)",
    "radial_commitment": "commitment",
    "radial_decay": "weight decay",
}
BINS = (0, 15, 30, 45)  # few latents lie further from their codes


def curve(result: Result, key: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a number was logged, and the numbers."""
    points = [(line["step"], line[key]) for line in result["curve"] if key in line]
    return [step for step, _ in points], [value for _, value in points]


def by_angle(results: Sequence[Result], estimator: str) -> tuple[list[int], list[float]]:
    """Return the lower edges of bins of angles, and an estimator's mean cosine in each bin."""
    angles, cosines = [], []
    for start in BINS:
        key = f"quantizer/exact_cosine_{estimator}_at_{start}"
        found = [line[key] for result in results for line in result["curve"] if key in line]
        if found:
            angles.append(start)
            cosines.append(mean(found))
    return angles, cosines


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw the four panels into a file."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "rotation"
    measured = [r for r in results if r["part"] == "mechanism" and r["status"] == "finished"]
    without = [r for r in results if r["part"] == "without_commitment" and r["curve"]]
    figure, ((norms, forces), (angles, exact)) = plt.subplots(2, 2, figsize=(11, 10))
    for result in measured:
        norms.plot(*curve(result, "quantizer/latent_norm_p50"), label=result["arm"])
        angles.plot(*curve(result, "quantizer/angle_p50"), label=result["arm"])
    for result in without:
        label = f"{result['arm']}, no commitment"
        norms.plot(*curve(result, "quantizer/latent_norm_p50"), "--", label=label)
        angles.plot(*curve(result, "quantizer/angle_p50"), "--", label=label)
    for result, style in zip(measured, ("-", "--"), strict=False):
        for colour, (key, name) in enumerate(FORCES.items()):
            label = f"{name}, {result['arm']}"
            points = curve(result, f"quantizer/{key}")
            forces.plot(*points, style, color=f"C{colour}", label=label)
    for estimator in ("straight_through", "rotation"):
        exact.plot(*by_angle(measured, estimator), "o-", label=estimator)
    norms.set(title="length of the latents, median", xlabel="step", yscale="log")
    forces.set(title="radial force (positive: inwards)", xlabel="step")
    forces.set_yscale("symlog", linthresh=1e-3)
    angles.set(title="angle between latent and code, median", xlabel="step", ylabel="degrees")
    exact.set(title="cosine to the exact gradient, by angle", xlabel="angle of at least, degrees")
    for axis in (norms, forces, angles, exact):
        axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the results that run.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the picture, an SVG file")
    options = parser.parse_args(arguments)
    draw([json.loads(line) for line in options.results.read_text().splitlines()], options.out)


if __name__ == "__main__":
    main()
