"""The table and the picture of the comparison in quality.py."""

import itertools
import math
from collections.abc import Sequence
from html import escape
from statistics import mean
from typing import Any

Result = dict[str, Any]

WIDTH, HEIGHT = 900, 705
LEFT, RIGHT = 52, 470  # of the axes of PSNR and, below it, SSIM
TOP, BELOW = 40, 385
PANEL_HEIGHT = 276
BARS, BARS_END = 690, 840  # of rFVD
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # steps to choose from
COLOURS = (
    *("#b8860b", "#d6601e", "#2a8a57", "#333333", "#1e60be", "#7a4fb5", "#c02a4e", "#0d8f9e"),
    *("#6b4a1f", "#e08bb0", "#7d9b1c", "#5b6f85", "#8a1c1c", "#47b8e0", "#b06fd8", "#1d4d3a"),
)
LABEL_HEIGHT = 15.0


def best(results: Sequence[Result]) -> list[Result]:
    """Return a result for each arm and budget: the mean over seeds at the chosen learning rate.

    That is the learning rate with the most runs and, among those, with the highest mean PSNR on val
    clips. `psnr_of_seeds` and `rfvd_of_seeds` in a result are the values of each seed.
    """
    runs: dict[tuple[str, float], dict[float, list[Result]]] = {}
    for result in results:
        of_arm = runs.setdefault((result["arm"], result["seconds"]), {})
        of_arm.setdefault(result["lr"], []).append(result)
    # A learning rate that lost at the median budget has no run of the other seeds.
    chosen = [max(of_lr.values(), key=_seeds_then_val) for of_lr in runs.values()]
    return sorted(map(_mean, chosen), key=lambda result: (result["arm"], result["seconds"]))


def _seeds_then_val(runs: Sequence[Result]) -> tuple[int, float]:
    return len(runs), mean(run["val_psnr"] for run in runs)


def _mean(runs: Sequence[Result]) -> Result:
    averaged = ("psnr", "val_psnr", "ssim", "rfvd", "code_usage", "clips_per_second")
    found = {
        key: mean(run[key] for run in runs) for key in averaged if all(key in run for run in runs)
    }
    lists = {
        f"{key}_of_seeds": [run[key] for run in runs] for key in found.keys() & {"psnr", "rfvd"}
    }
    times = {goal: _mean_time(runs, goal) for goal in runs[0]["seconds_to"]}
    return {**runs[0], **found, **lists, "seconds_to": times}


def _mean_time(runs: Sequence[Result], goal: str) -> float | None:
    times = [run["seconds_to"][goal] for run in runs]
    return None if None in times else mean(times)


def with_range(values: Sequence[float], digits: int) -> str:
    """Return the mean of values as text, followed by their range if there are several."""
    middle = f"{mean(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def budgets_of(results: Sequence[Result]) -> list[float]:
    """Return the budgets, smallest first."""
    return sorted({result["seconds"] for result in results})


def by_arm(results: Sequence[Result]) -> dict[str, dict[float, Result]]:
    """Return the results of `best` by arm and budget, the arm with the highest final PSNR first."""
    found: dict[str, dict[float, Result]] = {}
    for result in best(results):
        found.setdefault(result["arm"], {})[result["seconds"]] = result
    return dict(sorted(found.items(), key=lambda item: -item[1][max(item[1])]["psnr"]))


def seconds_to(goal: str, runs: dict[float, Result]) -> str:
    """Return, as text, the fewest CPU seconds in which a run reached `goal`, or "not reached"."""
    found = [
        run["seconds_to"][goal] for run in runs.values() if run["seconds_to"][goal] is not None
    ]
    return f"{min(found):.0f}" if found else "not reached"


def markdown(results: Sequence[Result], controls: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table with a row for each arm and each untrained control.

    The columns are the PSNR at every budget, the scores at the largest budget, and the CPU time
    needed to reach each PSNR goal: means over seeds, PSNR and rFVD with their range. A goal counts
    as reached within a budget if all seeds reach it.
    """
    budgets = budgets_of(results)
    heads = [f"PSNR, dB, {seconds:g} s" for seconds in budgets]
    goals = list(results[0]["seconds_to"])
    times = [f"CPU-s to {goal} dB" for goal in goals]
    size = ["clips/CPU-s", "GFLOP a clip", "parameters"]
    rest = ["SSIM", "rFVD", *times, "code usage", "lr", *size]
    rows = [f"| arm | {' | '.join(heads + rest)} |", "|---" * (1 + len(heads) + len(rest)) + "|"]
    for arm, runs in by_arm(results).items():
        last = runs[max(runs)]
        psnr = [
            with_range(runs[each]["psnr_of_seeds"], 2) if each in runs else "" for each in budgets
        ]
        cells = [
            f"{last['ssim']:.3f}",
            with_range(last["rfvd_of_seeds"], 0) if "rfvd_of_seeds" in last else "",
            *(seconds_to(goal, runs) for goal in goals),
            f"{last['code_usage']:.2f}" if "code_usage" in last else "",
            f"{last['lr']:g}",
            f"{last['clips_per_second']:.1f}",
            f"{last['gflop_forward']:.1f}",
            f"{last['parameters'] / 1e6:.1f}M",
        ]
        rows.append(f"| {arm} | {' | '.join(psnr + cells)} |")
    for name, scores in controls.items():
        blank = [""] * (len(budgets) - 1)
        cells = [*blank, f"{scores['psnr']:.2f}", f"{scores['ssim']:.3f}", *[""] * (len(rest) - 1)]
        rows.append(f"| {name} (no training) | {' | '.join(cells)} |")
    return "\n".join(rows)


def spread(places: Sequence[float], distance: float, end: float = math.inf) -> list[float]:
    """Return positions in the given order, moved so that they are at least `distance` apart.

    They move down; those that would pass `end` move up again, together with others in their way.
    """
    moved = list(places)
    order = sorted(range(len(places)), key=lambda index: places[index])
    for above, below in itertools.pairwise(order):
        moved[below] = max(moved[below], moved[above] + distance)
    for index in reversed(order):
        moved[index] = min(moved[index], end)
        end = moved[index] - distance
    return moved


def text(x: float, y: float, content: str, anchor: str = "start", colour: str = "#333") -> str:
    """Return an SVG element with text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(content)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    """Return an SVG element with a line."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-dasharray="{dashes}"/>'
    )


def picture(results: Sequence[Result], controls: dict[str, dict[str, float]]) -> str:
    """Return an SVG of PSNR and SSIM over CPU time of training, and rFVD at the largest budget."""
    arms = by_arm(results)
    colours: dict[str, str] = dict(zip(sorted(arms), COLOURS, strict=False))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *score_panel("psnr", "PSNR of held-out clips, dB", TOP, arms, controls, colours),
        *score_panel("ssim", "SSIM of held-out clips", BELOW, arms, controls, colours),
        *rfvd_bars(arms, colours),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def score_panel(
    score: str,
    title: str,
    top: float,
    arms: dict[str, dict[float, Result]],
    controls: dict[str, dict[str, float]],
    colours: dict[str, str],
) -> list[str]:
    """Return the SVG elements of a panel on the left: a score over the CPU time of training."""
    values = [run[score] for runs in arms.values() for run in runs.values()]
    dashed = {name: scores[score] for name, scores in controls.items()}
    extent = max([*values, *dashed.values()]) - min([*values, *dashed.values()])
    step = next((step for step in TICKS if extent / step <= 7), TICKS[-1])
    low = math.floor(min([*values, *dashed.values()]) / step)
    high = math.ceil(max([*values, *dashed.values()]) / step)
    budgets = budgets_of([run for runs in arms.values() for run in runs.values()])
    span = math.log(budgets[-1] / budgets[0]) or 1.0
    bottom = top + PANEL_HEIGHT

    def across(seconds: float) -> float:
        return LEFT + 20 + (RIGHT - LEFT - 40) * math.log(seconds / budgets[0]) / span

    def down(value: float) -> float:
        return bottom - PANEL_HEIGHT * (value / step - low) / max(1, high - low)

    parts = [text(LEFT, top - 20, f"{title}, over CPU seconds of training")]
    for tick in (index * step for index in range(low, high + 1)):
        parts += [line(LEFT, down(tick), RIGHT, down(tick), "#e5e5e5")]
        parts += [text(LEFT - 8, down(tick) + 4, f"{tick:g}", "end")]
    parts += [text(across(each), bottom + 18, f"{each:g} s", "middle") for each in budgets]
    labels = [(name, down(runs[max(runs)][score]), colours[name]) for name, runs in arms.items()]
    for name, value in dashed.items():
        parts.append(line(LEFT, down(value), RIGHT, down(value), "#888", "4 3"))
        labels.append((name, down(value), "#888"))
    for name, runs in arms.items():
        points = [(across(each), down(run[score])) for each, run in sorted(runs.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in points
        ]
    places = spread([place for _, place, _ in labels], LABEL_HEIGHT, bottom + LABEL_HEIGHT)
    for (name, _, colour), place in zip(labels, places, strict=True):
        parts.append(text(RIGHT + 6, place + 4, name, colour=colour))
    return parts


def rfvd_bars(arms: dict[str, dict[float, Result]], colours: dict[str, str]) -> list[str]:
    """Return the SVG elements of the rFVD bars on the right; empty if no rFVD was computed."""
    last = {name: runs[max(runs)] for name, runs in arms.items()}
    found = {name: run for name, run in last.items() if "rfvd_of_seeds" in run}
    if not found:
        return []
    seconds = max(run["seconds"] for run in found.values())
    parts = [text(BARS, 20, f"rFVD after {seconds:g} s")]
    longest = max(run["rfvd"] for run in found.values())
    ordered = sorted(found.items(), key=lambda item: item[1]["rfvd"])
    for row, (name, run) in enumerate(ordered):
        top = TOP + 36 * row
        length = max(1.0, (BARS_END - BARS) * run["rfvd"] / longest)
        parts += [
            text(BARS, top + 10, name, colour=colours[name]),
            f'<rect x="{BARS}" y="{top + 14}" width="{length:.1f}" height="10" '
            f'fill="{colours[name]}"/>',
            text(BARS + length + 6, top + 24, f"{run['rfvd']:,.0f}"),
        ]
    return parts
