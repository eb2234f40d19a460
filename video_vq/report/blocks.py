"""The blocks of a report's sections: texts, tables, charts, code and films."""

import base64
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from video_vq.media.encode import encode_mp4, tile

Clip = UInt8[np.ndarray, "t h w 3"]

TILE_PIXELS = 144  # approximate height of a clip on the page
GAP, GREY = 2, 140  # pixels between clips, in a grey that shows on white and on black
DEFAULT_FPS = 8.0


class Text(NamedTuple):
    """A paragraph; `strong` marks a warning."""

    text: str
    strong: bool = False


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: the cells, one per column.
        note: meaning of the row, in a last, wide column.
        below: whether it is a baseline of the previous row.
    """

    cells: tuple[str, ...]
    note: str = ""
    below: bool = False


class Table(NamedTuple):
    """A table; with an empty head it is a list of names and values."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def has_notes(self) -> bool:
        """Whether a row has a note, which needs a column of its own."""
        return any(row.note for row in self.rows)


class Headline(NamedTuple):
    """A prominent score with a sentence on its meaning; `good` is None without a judgement."""

    name: str
    value: str
    unit: str
    verdict: str
    good: bool | None


class Headlines(NamedTuple):
    """The scores to read first."""

    items: tuple[Headline, ...]


class Code(NamedTuple):
    """A verbatim configuration or commands, whose words are never broken."""

    text: str
    is_command: bool = False

    @property
    def words(self) -> list[str]:
        """Return words and the white space between them alternately, beginning with a word."""
        return re.split(r"(\s+)", self.text)


class Film(NamedTuple):
    """An animated clip.

    Attributes:
        address: the mp4 as a data URL.
        width, height: size of the picture in pixels.
        caption: description of the film.
        heads: names of its columns, from left to right.
    """

    address: str
    width: int
    height: int
    caption: str
    heads: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A PNG as a data URL, its size in pixels, and its caption."""

    address: str
    width: int
    height: int
    caption: str


class FilmStrip(NamedTuple):
    """Films side by side under one heading."""

    heading: str
    items: tuple[Film, ...]


class Pictures(NamedTuple):
    """Pictures side by side under one heading."""

    heading: str
    items: tuple[Picture, ...]


class Charts(NamedTuple):
    """Small line charts, as SVG made by `charts.line_chart`, their description, and omissions."""

    items: tuple[Markup, ...]
    heading: str = ""
    note: str = ""
    left_out: str = ""


Block = Text | Table | Headlines | Code | FilmStrip | Pictures | Charts


class Section(NamedTuple):
    """A part of the page under a heading; with `folded`, it is hidden until it is opened."""

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
        self,
        clips: Sequence[Clip],
        columns: int,
        caption: str,
        fps: float | None = None,
        heads: tuple[str, ...] = (),
    ) -> Film:
        """Return clips of one shape, laid out in columns, as one film.

        Args:
            clips: the clips, row by row.
            columns: number of clips side by side.
            caption: description of the film.
            fps: frames per second; None for the usual rate.
            heads: names above the film, each over its share of the width.
        """
        # Pixels of small frames are repeated: a browser would blur them, and H.264 stores colour
        # at half the size.
        scale = max(1, round(TILE_PIXELS / clips[0].shape[1]))
        grid = tile(clips, columns, gap=GAP, scale=scale, background=GREY)
        inner = [
            number * (side * scale + GAP)
            for number, side in zip(
                (math.ceil(len(clips) / columns), min(columns, len(clips))),
                clips[0].shape[1:3],
                strict=True,
            )
        ]
        grid = grid[:, GAP : inner[0], GAP : inner[1]]  # without the outer gap
        data = encode_mp4(grid, fps or DEFAULT_FPS, self.quality)
        address = "data:video/mp4;base64," + base64.b64encode(data).decode()
        return Film(address, grid.shape[2], grid.shape[1], caption, heads)


def named(video: str, label: str | None) -> str:
    """Return the id of a video, preceded by its class unless the id begins with it."""
    return video if label is None or video.startswith(f"{label}/") else f"{label} · {video}"


def difference(real: Clip, copy: Clip) -> Clip:
    """Return copy − real, amplified twice, around mid-grey, which means equal."""
    signed = copy.astype(np.int16) - real.astype(np.int16)
    return (128 + 2 * signed).clip(0, 255).astype(np.uint8)
