"""Small line charts as SVG, with colors from the page's style for both light and dark mode."""

import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 26, 24
MAX_POINTS = 400
LOG_RATIO = 30  # values that span a larger factor are drawn on a logarithmic axis
NUM_COLOURS = 6  # number of line colors in the page's style
MAX_NAMED = 4  # maximum number of lines in a chart with a legend

Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """A chart line: a name, and finite points (x, y) with ascending x."""

    name: str
    points: Points


def line_chart(
    title: str, lines: Sequence[Line], x_name: str = "step", zero: bool = False
) -> Markup:
    """Return an SVG chart of one quantity; the page shows the values on hover.

    Args:
        title: name of the quantity.
        lines: at least one line, each with at least one point; long lines are subsampled.
        x_name: quantity on the x-axis.
        zero: whether the y-axis starts at 0.
    """
    lines = [Line(name, _thinned(points)) for name, points in lines]
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    left, right = min(xs), max(xs)
    across = _scale(left, right, LEFT, WIDTH - RIGHT)
    down, ticks = _axis(min(ys), max(ys), zero)
    grid = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
            LEFT, WIDTH - RIGHT, y=f"{down(tick):.1f}"
        )
        + Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
            LEFT - 5, f"{down(tick) + 3.5:.1f}", short(tick)
        )
        for tick in ticks
    ]
    drawn = [
        Markup('<polyline class="line c{}" points="{}"/>').format(
            number % NUM_COLOURS, " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points)
        )
        for number, line in enumerate(lines)
    ]
    told = [f"{name} {_course(points)}" for name, points in lines[:NUM_COLOURS]]
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" tabindex="0" aria-label="{summary}" '
        'data-chart="{data}"><text class="title" x="0" y="14">{title}</text>'
        '<text class="now" x="{w}" y="14" text-anchor="end">{now}</text>{grid}{lines}{legend}'
        '<text class="tick" x="{left}" y="{base}">{first}</text>'
        '<text class="tick" x="{end}" y="{base}" text-anchor="end">{x_name} {last}</text></svg>'
    ).format(
        w=WIDTH, h=HEIGHT, title=title, left=LEFT, end=WIDTH - RIGHT, base=HEIGHT - 6,
        now=short(lines[0].points[-1][1]) if len(lines) == 1 else "", legend=_legend(lines),
        summary=f"{title}: {'; '.join(told).strip()}", grid=Markup("").join(grid),
        lines=Markup("").join(drawn), first=short(left), x_name=x_name, last=short(right),
        data=json.dumps({"x": x_name, "lines": [_values(line) for line in lines]}),
    )  # fmt: skip


def short(value: float) -> str:
    """Return a number as short text, such as 0.0123, 26.8, 1,461 or 4.1e+06."""
    size = abs(value)
    if (value == round(value) and size < 1e5) or 1000 <= size < 1e5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _legend(lines: Sequence[Line]) -> Markup:
    """Return a legend: colored names, the number of lines if there are many, or "" for one line."""
    if len(lines) == 1:
        return Markup("")
    names = [
        Markup('<tspan class="name c{}">{}</tspan>').format(number, line.name)
        for number, line in enumerate(lines)
    ]
    return Markup('<text class="legend" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (LEFT + WIDTH - RIGHT) // 2,
        HEIGHT - 6,
        Markup(" ").join(names) if len(lines) <= MAX_NAMED else f"{len(lines)} lines",
    )


def _course(points: Points) -> str:
    (first_x, first), (last_x, last) = points[0], points[-1]
    return f"{short(first)} at {short(first_x)}, {short(last)} at {short(last_x)}"


def _values(line: Line) -> dict[str, object]:
    """Return a line's name and point coordinates as text, which the page shows on hover."""
    return {
        "name": line.name,
        "x": [short(x) if x != round(x) else f"{x:,.0f}" for x, _ in line.points],
        "y": [short(y) for _, y in line.points],
    }


def _scale(low: float, high: float, start: int, end: int) -> Callable[[float], float]:
    """Return a linear map from [low, high] to [start, end], or to the middle if low equals high."""
    span = high - low

    def place(value: float) -> float:
        return start + (0.5 if span == 0 else (value - low) / span) * (end - start)

    return place


def _axis(low: float, high: float, zero: bool) -> tuple[Callable[[float], float], list[float]]:
    """Return the map from values to y-coordinates in the chart, and the tick values."""
    logarithmic = low > 0 and high / low > LOG_RATIO and not zero
    ticks = _log_ticks(low, high) if logarithmic else _ticks(0.0 if zero else low, high)
    bend = math.log if logarithmic else float
    bottom, top = bend(min(ticks[0], low)), bend(max(ticks[-1], high))
    scale = _scale(bottom, top, HEIGHT - BOTTOM, TOP)
    return (lambda value: scale(bend(value))), ticks


def _thinned(points: Points) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return list(points)
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(place * step)] for place in range(MAX_POINTS)]


def _ticks(low: float, high: float) -> list[float]:
    """Return two to six round values that enclose a range."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 4))
    exponents = list(range(first, last + 1, every))
    return [10.0**exponent for exponent in exponents]
