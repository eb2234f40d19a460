"""The blocks of a report's sections: paragraphs, tables, charts, code and films."""

import base64
import math
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from video_vq.media.encode import encode_mp4, tile

Clip = UInt8[np.ndarray, "t h w 3"]
Item = TypeVar("Item")

TILE_PIXELS = 144  # approximate height of a clip on the page
GAP, GREY = 2, 140  # gap between clips in pixels; gray level visible on both white and black
DEFAULT_FPS = 8.0


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` items, evenly spaced from the first to the last."""
    last, count = len(items) - 1, min(len(items), most)
    return [items[number * last // max(1, count - 1)] for number in range(count)]


class Text(NamedTuple):
    """A paragraph; `strong` marks a warning."""

    text: str
    strong: bool = False


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: the cells, one per column.
        note: explanation of the row, shown in a wide last column.
        below: whether the row is a baseline for the nearest score above it.
    """

    cells: tuple[str, ...]
    note: str = ""
    below: bool = False


class Table(NamedTuple):
    """A table; an empty `head` makes the table a list of names and values."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def has_notes(self) -> bool:
        """Return whether any row has a note, which requires an extra column."""
        return any(row.note for row in self.rows)


class Headline(NamedTuple):
    """A prominent score with a verdict in words; `good` is None if the score is not judged."""

    name: str
    value: str
    unit: str
    verdict: str
    good: bool | None


class Headlines(NamedTuple):
    """A block of headlines, which are the scores to read first."""

    items: tuple[Headline, ...]


class Code(NamedTuple):
    """A configuration or commands, shown verbatim without line breaks inside words."""

    text: str
    is_command: bool = False

    @property
    def words(self) -> list[str]:
        """Return the words and the white space between words alternately, starting with a word."""
        return re.split(r"(\s+)", self.text)


class Film(NamedTuple):
    """An animated clip.

    Attributes:
        address: MP4 file as a data URL.
        width, height: frame size in pixels.
        caption: description of the film.
        heads: column headings, from left to right.
    """

    address: str
    width: int
    height: int
    caption: str
    heads: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A PNG image as a data URL, with a size in pixels and a caption."""

    address: str
    width: int
    height: int
    caption: str


class FilmStrip(NamedTuple):
    """Films side by side under one heading."""

    heading: str
    items: tuple[Film, ...]


class Pictures(NamedTuple):
    """Images side by side under one heading."""

    heading: str
    items: tuple[Picture, ...]


class Charts(NamedTuple):
    """Small SVG charts from `line_chart`, with a heading, a note, and a text on omitted curves."""

    items: tuple[Markup, ...]
    heading: str = ""
    note: str = ""
    left_out: str = ""


Block = Text | Table | Headlines | Code | FilmStrip | Pictures | Charts


class Section(NamedTuple):
    """A part of the page under a heading; if `folded`, only the heading is shown at first."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


class Films:
    """An encoder that turns clips into films for the page.

    Args:
        quality: H.264 quantizer, 0..51; lower values give better and larger films.
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
        """Return a single film that shows clips of equal shape in a grid.

        Args:
            clips: clips in row-major order.
            columns: number of clips side by side.
            caption: description of the film.
            fps: frames per second; None for the default frame rate.
            heads: headings above the film, evenly spaced over the width.
        """
        # Pixels of small frames are repeated, because a browser would blur small frames, and H.264
        # stores color at half the resolution.
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
    """Return a video id, preceded by the class name unless the id starts with this name."""
    return video if label is None or video.startswith(f"{label}/") else f"{label} · {video}"


def difference(real: Clip, copy: Clip) -> Clip:
    """Return copy − real, amplified by 2 and centered on mid-gray, which means no difference."""
    signed = copy.astype(np.int16) - real.astype(np.int16)
    return (128 + 2 * signed).clip(0, 255).astype(np.uint8)
