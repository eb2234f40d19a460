"""Small line charts as SVG; colours come from the page's style, so they follow light and dark."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 26, 24
MAX_POINTS = 400
LOG_RATIO = 30  # values that span a larger factor are drawn on a logarithmic axis


def line_chart(
    title: str, points: Sequence[tuple[float, float]], x_name: str = "step", zero: bool = False
) -> Markup:
    """Return a chart of one quantity.

    Args:
        title: the quantity's name.
        points: finite pairs (x, y), x ascending; of many, only some are drawn.
        x_name: what x counts.
        zero: whether the axis begins at 0, as for shares.
    """
    points = _thinned(points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    logarithmic = low > 0 and high / low > LOG_RATIO and not zero
    ticks = _log_ticks(low, high) if logarithmic else _ticks(0.0 if zero else low, high)
    bottom, top = min(ticks[0], low), max(ticks[-1], high)
    left, right = points[0][0], points[-1][0]

    def across(x: float) -> float:
        share = 0.5 if right == left else (x - left) / (right - left)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        bend = math.log if logarithmic else float
        span = bend(top) - bend(bottom)
        share = 0.5 if span == 0 else (bend(y) - bend(bottom)) / span
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    lines = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            LEFT, WIDTH - RIGHT, *[f"{down(tick):.1f}"] * 2
        )
        + Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
            LEFT - 5, f"{down(tick) + 3.5:.1f}", short(tick)
        )
        for tick in ticks
    ]
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
    last_x, last_y = points[-1]
    summary = f"{title}: {short(points[0][1])} at {short(left)}, {short(last_y)} at {short(right)}"
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{summary}">'
        '<text class="title" x="0" y="14">{title}</text>'
        '<text class="now" x="{w}" y="14" text-anchor="end">{now}</text>{lines}'
        '<polyline class="line" points="{path}"/>'
        '<circle class="dot" cx="{x}" cy="{y}" r="3"/>'
        '<text class="tick" x="{left}" y="{base}">{first}</text>'
        '<text class="tick" x="{end}" y="{base}" text-anchor="end">{x_name} {last}</text></svg>'
    ).format(
        w=WIDTH, h=HEIGHT, summary=summary, title=title, now=short(last_y),
        lines=Markup("").join(lines), path=path, x=f"{across(last_x):.1f}",
        y=f"{down(last_y):.1f}", left=LEFT, end=WIDTH - RIGHT, base=HEIGHT - 6,
        first=short(left), x_name=escape(x_name), last=short(right),
    )  # fmt: skip


def short(value: float) -> str:
    """Return a number in at most a few characters: 0.0123, 26.8, 1,461, 4.1e+06."""
    size = abs(value)
    if (value == round(value) and size < 1e5) or 1000 <= size < 1e5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return list(points)
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(place * step)] for place in range(MAX_POINTS)]


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round values that enclose a range."""
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
