"""Shows codes as images: a color for each token, and a map of code usage."""

import base64
import io
import math

import numpy as np
from jaxtyping import Float, Integer, UInt8

from video_vq.report.blocks import Picture

GOLDEN = 0.618033988749895  # fraction of the color wheel from one code to the next
MAX_CELLS = 1 << 16  # of a map; for larger codebooks, each cell stands for several codes
MAP_PIXELS = 320  # approximate width of a map on the page
DEVIATIONS = 2.0  # standard deviations of a principal component from mid-gray to full color
FEW, MANY, UNUSED = (214, 228, 243), (16, 58, 122), (196, 72, 48)


def colours_of_codes(codes: Integer[np.ndarray, "*grid"]) -> UInt8[np.ndarray, "*grid 3"]:
    """Return a color for each code; similar colors do not mean similar codes."""
    hue = (codes.astype(np.float64) * GOLDEN % 1.0)[..., None]
    # The three channels are the same wave a third of a turn apart; brightness varies slowly.
    wave = 0.5 + 0.5 * np.cos(2 * math.pi * (hue + np.array([0.0, 1 / 3, 2 / 3])))
    light = 0.65 + 0.35 * ((codes * 7 % 11) / 10.0)[..., None]
    return (255 * wave * light).round().astype(np.uint8)


def colours_of_vectors(vectors: Float[np.ndarray, "*grid d"]) -> UInt8[np.ndarray, "*grid 3"]:
    """Return a color for each vector; similar vectors get similar colors.

    Red, green and blue show the first three principal components of all vectors.
    """
    rows = vectors.reshape(-1, vectors.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(0)
    spread, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    first = axes[:, ::-1][:, :3]  # eigenvalues ascend
    first = first * np.sign(first[np.abs(first).argmax(0), np.arange(first.shape[1])])
    deviation = np.sqrt(np.clip(spread[::-1][:3], 1e-12, None))
    shares = rows @ first / (2 * DEVIATIONS * deviation) + 0.5
    colours = np.full((len(rows), 3), 128, np.uint8)
    colours[:, : shares.shape[1]] = (255 * shares.clip(0, 1)).round()
    return colours.reshape(*vectors.shape[:-1], 3)


def as_clip(
    colours: UInt8[np.ndarray, "lt lh lw 3"], size_thw: tuple[int, int, int], causal: bool
) -> UInt8[np.ndarray, "t h w 3"]:
    """Enlarge a grid of token colors to a clip of a given size.

    Args:
        colours: color of each token of a grid.
        size_thw: number of frames, height and width of the clip.
        causal: whether the first latent frame covers a single frame.
    """
    num_frames, height, width = size_thw
    count = len(colours)
    frame = np.arange(num_frames)
    if causal and count > 1:
        stride = max(1, (num_frames - 1) // (count - 1))
        latent = np.minimum(-(-frame // stride), count - 1)
    else:
        latent = frame * count // num_frames
    rows = np.arange(height) * colours.shape[1] // height
    columns = np.arange(width) * colours.shape[2] // width
    return colours[latent][:, rows][:, :, columns]


def usage_map(counts: Integer[np.ndarray, " k"], name: str) -> Picture:
    """Return an image of code frequencies in row-major order; a cell may stand for several codes.

    Args:
        counts: number of tokens with each code.
        name: name of the codebook, for the caption; "" if there is only one codebook.
    """
    per_cell = math.ceil(len(counts) / MAX_CELLS)
    cells = np.pad(counts, (0, -len(counts) % per_cell)).reshape(-1, per_cell).sum(1)
    columns = math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    share = (np.log1p(cells) / max(math.log1p(cells.max()), 1e-9))[:, None]
    colours = (1 - share) * np.array(FEW) + share * np.array(MANY)
    colours[cells == 0] = UNUSED
    picture = np.zeros((rows * columns, 4), np.uint8)  # cells without a code are transparent
    picture[: len(cells), :3] = colours.round()
    picture[: len(cells), 3] = 255
    scale = max(1, MAP_PIXELS // columns)
    used = int((counts > 0).sum())
    each = f", {per_cell} codes a cell" if per_cell > 1 else ""
    caption = f"{name + ': ' if name else ''}{used:,} of {len(counts):,} codes are used{each}"
    address = _png(picture.reshape(rows, columns, 4))
    return Picture(address, columns * scale, rows * scale, caption)


def _png(picture: UInt8[np.ndarray, "h w 4"]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
