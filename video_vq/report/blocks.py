"""What a report's sections are made of: texts, tables, charts, code and films."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from video_vq.media.encode import encode_mp4, tile

Clip = UInt8[np.ndarray, "t h w 3"]

TILE_PIXELS = 144  # approximate height of a clip on the page
DEFAULT_FPS = 8.0


class Text(NamedTuple):
    """A paragraph; `strong` marks a warning."""

    text: str
    strong: bool = False


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: the cells, one per column.
        note: a small line under the first cell.
        below: whether it belongs to the row before, as what that is compared with.
    """

    cells: tuple[str, ...]
    note: str = ""
    below: bool = False


class Table(NamedTuple):
    """A table; with an empty head it is a list of names and values."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]


class Headline(NamedTuple):
    """A score, large, with a sentence on what it means; `good` is None where nothing is judged."""

    name: str
    value: str
    unit: str
    verdict: str
    good: bool | None


class Headlines(NamedTuple):
    """The scores that are read first."""

    items: tuple[Headline, ...]


class Code(NamedTuple):
    """Commands or a configuration, as they stand."""

    text: str


class Film(NamedTuple):
    """A playing clip: an mp4 as a data address, its size in pixels, and what it shows."""

    address: str
    width: int
    height: int
    caption: str


class FilmStrip(NamedTuple):
    """Films side by side under one heading."""

    heading: str
    items: tuple[Film, ...]


class Charts(NamedTuple):
    """Small line charts, as SVG made by `charts.line_chart`, and what they show."""

    items: tuple[Markup, ...]
    heading: str = ""
    note: str = ""


Block = Text | Table | Headlines | Code | FilmStrip | Charts


class Section(NamedTuple):
    """A part of the page under a heading; `folded` hides it until it is opened."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


class Films:
    """Turns clips into films for the page.

    Args:
        quality: quantizer of H.264, 0..51; lower is better and larger.
    """

    def __init__(self, quality: int):
        self.quality = quality

    def film(
        self, clips: Sequence[Clip], columns: int, caption: str, fps: float | None = None
    ) -> Film:
        """Return clips of one shape, laid out in columns, as one film."""
        # Pixels of small frames are repeated: a browser would blur them, and H.264 stores colour
        # at half the size.
        scale = max(1, round(TILE_PIXELS / clips[0].shape[1]))
        grid = tile(clips, columns, gap=2, scale=scale)
        data = encode_mp4(grid, fps or DEFAULT_FPS, self.quality)
        address = "data:video/mp4;base64," + base64.b64encode(data).decode()
        return Film(address, grid.shape[2], grid.shape[1], caption)


def difference(real: Clip, copy: Clip) -> Clip:
    """Return copy − real around mid-grey, twice enlarged: grey is equal."""
    signed = copy.astype(np.int16) - real.astype(np.int16)
    return (128 + 2 * signed).clip(0, 255).astype(np.uint8)
