"""Draws one or more curves with labeled points, on linear or logarithmic axes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from quality_report import COLOURS, line, text

HEIGHT, NAMES = 420, 180  # in pixels; NAMES is the width of the column of names
LEFT, RIGHT, TOP, BOTTOM = 70, 610, 50, 360


class Point(NamedTuple):
    """A position on both axes, and its label."""

    x: float
    y: float
    label: str = ""


class Axis(NamedTuple):
    """The title and the scale of an axis, and lines at marked values.

    Attributes:
        marks: values to mark, with their meanings.
    """

    title: str
    is_log: bool = False
    marks: tuple[tuple[float, str], ...] = ()

    def place(self, value: float) -> float:
        """Return a value, or its logarithm to base 10 on a logarithmic axis."""
        return math.log10(value) if self.is_log else value


def curve_picture(curves: Mapping[str, Sequence[Point]], x: Axis, y: Axis, title: str) -> str:
    """Return an SVG of curves.

    Args:
        curves: points of each curve by its name, in the order in which they are joined.
        x: the horizontal axis.
        y: the vertical axis.
        title: title of the picture.
    """
    points = [point for curve in curves.values() for point in curve]
    width = RIGHT + (NAMES if len(curves) > 1 else 30)
    across = _scaled(x, [point.x for point in points], LEFT + 20, RIGHT - 30)
    down = _scaled(y, [point.y for point in points], BOTTOM - 20, TOP + 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 22, title),
        text((LEFT + RIGHT) / 2, HEIGHT - 12, x.title, "middle"),
        text(LEFT, TOP - 8, y.title),
        line(LEFT, BOTTOM, RIGHT, BOTTOM, "#999"),
        line(LEFT, TOP, LEFT, BOTTOM, "#999"),
    ]
    for value in _ticks(x, [point.x for point in points]):
        parts += [line(across(value), BOTTOM, across(value), BOTTOM + 4, "#999")]
        parts += [text(across(value), BOTTOM + 18, f"{value:g}", "middle")]
    for value in _ticks(y, [point.y for point in points]):
        parts += [line(LEFT, down(value), RIGHT, down(value), "#eee")]
        parts += [text(LEFT - 8, down(value) + 4, f"{value:g}", "end")]
    for value, meaning in x.marks:
        parts += [line(across(value), TOP, across(value), BOTTOM, "#888", "4 3")]
        parts += [text(across(value) + 4, BOTTOM - 6, meaning, colour="#888")]
    for value, meaning in y.marks:
        parts += [line(LEFT, down(value), RIGHT, down(value), "#888", "4 3")]
        parts += [text(RIGHT, down(value) - 4, meaning, "end", "#888")]
    for row, ((name, curve), colour) in enumerate(zip(curves.items(), COLOURS, strict=False)):
        if len(curves) > 1:
            parts.append(text(RIGHT + 12, TOP + 10 + 18 * row, name, colour=colour))
        path = " ".join(f"{across(point.x):.1f},{down(point.y):.1f}" for point in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in curve:
            place = across(point.x), down(point.y)
            parts.append(f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="3" fill="{colour}"/>')
            parts.append(text(place[0] + 5, place[1] - 7, point.label, colour=colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _values(axis: Axis, values: Sequence[float]) -> list[float]:
    return [axis.place(value) for value in (*values, *(mark for mark, _ in axis.marks))]


def _scaled(
    axis: Axis, values: Sequence[float], start: float, end: float
) -> Callable[[float], float]:
    """Return the function from a value to its position between the pixels `start` and `end`."""
    places = _values(axis, values)
    low, span = min(places), (max(places) - min(places)) or 1.0
    return lambda value: start + (end - start) * (axis.place(value) - low) / span


def _ticks(axis: Axis, values: Sequence[float]) -> list[float]:
    """Return round values within the range: at most 7, or 1, 2, 5 in each decade on a log axis."""
    places = _values(axis, values)
    low, high = min(places), max(places)
    if axis.is_log:
        exact = range(math.floor(low), math.ceil(high) + 1)
        found = [digit * 10.0**power for power in exact for digit in (1, 2, 5)]
        return [value for value in found if low <= math.log10(value) <= high]
    rough = (high - low) / 6 or 1.0
    step = 10.0 ** math.floor(math.log10(rough))
    step = next(size for size in (step, 2 * step, 5 * step, 10 * step) if size >= rough)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
