"""Simulates whether the rotation trick clusters points around codes, as in Fifty et al. (2025).

In appendix A.2 of their paper (ICLR 2025), points descend Himmelblau's function through a quantizer
for 100 updates at learning rate 1e-3; the codes are moving averages with decay 0.8. The two arms,
the straight-through estimator and the rotation trick, start from the same points and codes. The
distortion is the mean squared distance of a point to its code. The details that the appendix leaves
open are chosen here: points uniform in [-5, 5]^2, first codes drawn from them, plain gradient
descent on the sum of the function over points, and no commitment loss. Example:
`python experiments/simulate_clustering.py --out docs/figures/simulate_clustering.png`
"""

import argparse
import statistics
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from video_vq.quantizers import gradient
from video_vq.quantizers.codebook import Codebook
from video_vq.quantizers.lookup import nearest_codes
from video_vq.quantizers.quantizer_config import QuantizerConfig

HALF_WIDTH = 6.0  # of the pictures
PANEL = 360
STRAIGHT_COLOUR, ROTATION_COLOUR = (214, 96, 30), (30, 96, 190)
Arm = Literal["straight_through", "rotation"]
ARMS: tuple[Arm, Arm] = ("straight_through", "rotation")


class Run(NamedTuple):
    """The result of one arm with one seed."""

    points: Tensor
    codes: Tensor
    distortion: list[float]  # before the first and after every update
    height: float  # Himmelblau's function at the codes of the points, at the end
    usage: float


def himmelblau(p: Tensor) -> Tensor:
    x, y = p.unbind(-1)
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def simulate(
    arm: Arm, seed: int, num_points: int, num_codes: int, arguments: argparse.Namespace
) -> Run:
    """Descend Himmelblau's function for `arguments.updates` updates; return the run's results."""
    generator = torch.Generator().manual_seed(seed)
    points = (torch.rand(num_points, 2, generator=generator) * 10 - 5).requires_grad_()
    config = QuantizerConfig(
        codebook_size=num_codes,
        codebook_dim=2,
        decay=arguments.decay,
        decay_warmup=False,
        restart_threshold=0.0,
    )
    book = Codebook(config)
    book.initialize((points,), seed)
    estimator = gradient.rotation if arm == "rotation" else gradient.straight_through

    def distortion(indices: Tensor) -> float:
        return float((points.detach() - book.codes[indices]).square().sum(1).mean())

    indices = nearest_codes(points, book.codes)
    history = [distortion(indices)]
    for _ in range(arguments.updates):
        (slope,) = torch.autograd.grad(
            himmelblau(estimator(points, book.codes[indices])).sum(), points
        )
        book.update(book.statistics(points, indices), seed)
        points.data -= arguments.lr * slope
        indices = nearest_codes(points, book.codes)
        history.append(distortion(indices))
    height = float(himmelblau(book.codes[indices]).mean())
    usage = len(indices.unique()) / num_codes
    return Run(points.detach(), book.codes.clone(), history, height, usage)


def pixel(points: np.ndarray) -> np.ndarray:
    return (points * [1, -1] / (2 * HALF_WIDTH) + 0.5) * PANEL


def draw_panel(title: str, run: Run) -> Image.Image:
    """Draw points (small) and codes (large) over the function."""
    axis = torch.linspace(-HALF_WIDTH, HALF_WIDTH, PANEL)
    grid = torch.stack(torch.meshgrid(axis, -axis, indexing="xy"), -1)
    shade = 255 - 70 * (himmelblau(grid).log1p() / 7).clamp(0, 1)
    picture = Image.fromarray(shade.to(torch.uint8).numpy()).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for points, radius, colour in (
        (run.points, 1, ROTATION_COLOUR),
        (run.codes, 3, STRAIGHT_COLOUR),
    ):
        for x, y in pixel(points.double().numpy()):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    draw.text((6, 4), title, fill=(0, 0, 0))
    return picture


def draw_curves(runs: dict[Arm, list[Run]]) -> Image.Image:
    """Draw the distortion over the updates, with a curve for each seed and a color for each arm."""
    picture = Image.new("RGB", (PANEL, PANEL), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    largest = max(max(run.distortion) for arm in runs.values() for run in arm)
    for name, colour in zip(ARMS, (STRAIGHT_COLOUR, ROTATION_COLOUR), strict=True):
        for run in runs[name]:
            x = np.linspace(10, PANEL - 10, len(run.distortion))
            y = PANEL - 20 - np.array(run.distortion) / largest * (PANEL - 60)
            draw.line([tuple(point) for point in np.stack([x, y], 1).tolist()], fill=colour)
    draw.line((10, PANEL - 20, PANEL - 10, PANEL - 20), fill=(0, 0, 0))
    draw.text((6, 4), f"distortion, 0 to {largest:.3g}, over the updates, every seed", fill=0)
    draw.text((6, 18), "straight-through", fill=STRAIGHT_COLOUR)
    draw.text((120, 18), "rotation", fill=ROTATION_COLOUR)
    return picture


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g}"


def report(num_codes: int, runs: dict[Arm, list[Run]]) -> None:
    straight, rotated = runs["straight_through"], runs["rotation"]
    pairs = list(zip(straight, rotated, strict=True))
    ratios = [b.distortion[-1] / a.distortion[-1] for a, b in pairs]
    lower = sum(ratio < 1 for ratio in ratios)
    cells = [
        f"{num_codes}",
        *(spread([run.distortion[-1] for run in arm]) for arm in (straight, rotated)),
        f"{spread(ratios)}, lower in {lower} of {len(ratios)}",
        *(spread([run.height for run in arm]) for arm in (straight, rotated)),
        *(f"{statistics.mean([run.usage for run in arm]):.2f}" for arm in (straight, rotated)),
    ]
    print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--codes", type=int, nargs="*", default=[8, 32, 128])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--decay", type=float, default=0.8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, help="a picture: one row per number of codes")
    arguments = parser.parse_args()
    print("| K | distortion, STE | distortion, rotation | rotation / STE, paired | f, STE ", end="")
    print("| f, rotation | usage, STE | usage, rotation |\n|---|---|---|---|---|---|---|---|")
    rows = []
    for num_codes in arguments.codes:
        runs: dict[Arm, list[Run]] = {
            arm: [
                simulate(arm, seed, arguments.points, num_codes, arguments)
                for seed in range(arguments.seeds)
            ]
            for arm in ARMS
        }
        report(num_codes, runs)
        panels = [draw_panel(f"{arm}, K = {num_codes}, seed 0", runs[arm][0]) for arm in ARMS]
        rows.append([*panels, draw_curves(runs)])
    if arguments.out:
        picture = Image.new("RGB", (3 * PANEL, len(rows) * PANEL))
        for row, panels in enumerate(rows):
            for column, panel in enumerate(panels):
                picture.paste(panel, (column * PANEL, row * PANEL))
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
