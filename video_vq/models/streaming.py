"""Processing of long and large videos in chunks along time and tiles in space."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from video_vq.nn.conv3d import Past

PIECE_FRAMES = 16  # number of frames that a causal network processes at once, if frames are small
PIECE_PIXELS = 1 << 20  # largest number of pixels per chunk of more than one latent frame
TILE_PIXELS = 512  # approximate height and width of a tile's output


class Tile(NamedTuple):
    """A tile along one axis: input start:end and output first:last, as slices in latents."""

    start: int
    end: int
    first: int
    last: int


def tiles_of_axis(size: int, core: int, margin: int) -> list[Tile]:
    """Cover an axis with tiles of equal input length.

    Inputs extend at least `margin` beyond the outputs, except at the ends of the axis. The outputs
    join without gaps or overlaps. If the margin covers the network's receptive field, the outputs
    equal the network output for the whole axis, so there are no seams to blend.

    Args:
        size: length of the axis, in latents.
        core: largest output length of a tile, to which a margin is added at each end of the axis;
            an axis of up to core + 2·margin is a single tile.
        margin: distance by which the receptive field extends beyond the output, in latents.
    """
    length = core + 2 * margin
    if size <= length:
        return [Tile(0, size, 0, size)]
    number = -(-(size - 2 * margin) // core)
    starts = [place * (size - length) // (number - 1) for place in range(number)]
    # Adjacent tiles overlap by at least two margins; outputs end in the middle of the overlap.
    edges = [0, *((start + before + length) // 2 for before, start in pairwise(starts))]
    edges.append(size)
    return [
        Tile(start, start + length, first, last)
        for start, (first, last) in zip(starts, pairwise(edges), strict=True)
    ]


class TiledStream:
    """A network that runs over one video, chunk by chunk in time and tile by tile in space.

    Args:
        network: encoder or decoder.
        grid_hw: numbers of rows and columns of latents per frame.
        margin_hw: distances by which the receptive field extends beyond a tile, in rows and columns
            of latents; None for a network that needs whole frames.
        stride_hw: height and width of a latent in pixels.
        reads_pixels: whether the network maps pixels to latents, rather than latents to pixels.
        causal: whether the network is causal and takes a `Past`, so that chunks can follow each
            other.
    """

    def __init__(
        self,
        network: nn.Module,
        grid_hw: tuple[int, int],
        margin_hw: tuple[int, int] | None,
        stride_hw: tuple[int, int],
        reads_pixels: bool,
        causal: bool,
    ):
        self.network = network
        self.out_hw = grid_hw if reads_pixels else _times(grid_hw, stride_hw)
        self.scale_in, self.scale_out = (stride_hw, (1, 1)) if reads_pixels else ((1, 1), stride_hw)
        rows, columns = (
            [Tile(0, size, 0, size)]
            if margin_hw is None
            else tiles_of_axis(size, max(1, TILE_PIXELS // stride_hw[axis]), margin_hw[axis])
            for axis, size in enumerate(grid_hw)
        )
        self.tiles = [(row, column) for row in rows for column in columns]
        self.pasts = [Past() if causal else None for _ in self.tiles]

    def __call__(self, piece: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """Run the network on the next chunk."""
        if len(self.tiles) == 1:
            return self._run(piece, self.pasts[0])
        whole: Tensor | None = None
        for tile, past in zip(self.tiles, self.pasts, strict=True):
            read = _box([(window.start, window.end) for window in tile], self.scale_in)
            part = self._run(piece[..., *read], past)
            if whole is None:
                whole = part.new_empty(*part.shape[:3], *self.out_hw)
            kept = [(window.first - window.start, window.last - window.start) for window in tile]
            place = _box([(window.first, window.last) for window in tile], self.scale_out)
            whole[..., *place] = part[..., *_box(kept, self.scale_out)]
        assert whole is not None
        return whole

    def _run(self, piece: Tensor, past: Past | None) -> Tensor:
        return self.network(piece) if past is None else self.network(piece, past)


def piece_latents(stride_t: int, size_hw: tuple[int, int]) -> int:
    """Return the number of latent frames per chunk for a causal network and a frame size."""
    pixels = stride_t * min(size_hw[0] * size_hw[1], PIECE_PIXELS)
    return max(1, min(PIECE_FRAMES // stride_t, PIECE_PIXELS // pixels))


def recut(
    chunks: Iterable[Shaped[Tensor, "..."]], axis: int, first: int, size: int
) -> Iterator[Shaped[Tensor, "..."]]:
    """Regroup a stream into one chunk of `first` frames, followed by chunks of `size` frames.

    The last chunk may be shorter. Buffered frames are copied, so callers may reuse their own
    buffers.
    """
    held: list[Tensor] = []
    missing = first
    for chunk in chunks:
        rest = chunk
        while rest.shape[axis]:
            part = rest.narrow(axis, 0, min(missing, rest.shape[axis]))
            rest = rest.narrow(axis, part.shape[axis], rest.shape[axis] - part.shape[axis])
            missing -= part.shape[axis]
            if missing:
                held.append(part.clone())
            else:
                yield torch.cat([*held, part], axis) if held else part
                held, missing = [], size
    if held:
        yield torch.cat(held, axis)


def _times(size: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    return size[0] * scale[0], size[1] * scale[1]


def _box(ranges: Sequence[tuple[int, int]], scale: tuple[int, int]) -> list[slice]:
    return [slice(start * by, end * by) for (start, end), by in zip(ranges, scale, strict=True)]
