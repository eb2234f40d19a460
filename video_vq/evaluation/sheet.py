"""A sheet of clips: a row for each kind, as an animation and as a picture."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from video_vq.media.encode import tile, write_animation, write_png

SHEET_WIDTH = 96  # pixels of a clip on a sheet, about
DEFAULT_FPS = 8.0  # for playing clips whose rate is unknown


def write_sheet(
    out: Path, rows: dict[str, list[UInt8[np.ndarray, "t h w 3"]]], fps: float | None
) -> None:
    """Write sheet.webp, which plays, and sheet.png, four moments of it one below the other.

    Args:
        rows: name -> clips of one shape.
    """
    columns = min(len(row) for row in rows.values())
    clips = [clip for row in rows.values() for clip in row[:columns]]
    labels = [name if column == 0 else "" for name in rows for column in range(columns)]
    # Small frames are shown larger: their labels would not fit.
    scale = math.ceil(SHEET_WIDTH / clips[0].shape[2])
    sheet = tile(clips, columns, scale=scale, labels=labels)
    write_animation(out / "sheet.webp", sheet, fps=fps or DEFAULT_FPS)
    quarters = list(sheet[:: max(1, len(sheet) // 4)])
    write_png(out / "sheet.png", np.concatenate(quarters, axis=0))
