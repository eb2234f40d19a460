"""The page for a token store: decoded clips, images of codes, and code usage."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8

from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.report.blocks import (
    Block,
    Clip,
    Film,
    Films,
    FilmStrip,
    Pictures,
    Section,
    Text,
    named,
    spread,
)
from video_vq.report.code_pictures import as_clip, colours_of_codes, colours_of_vectors, usage_map
from video_vq.report.code_usage import usage_blocks
from video_vq.stages.model_pair import require_same_tokenizer
from video_vq.stores.clips import SPLITS
from video_vq.stores.tokens import TokenHeader, TokenStore, codes_of_levels

SHOWN = 8  # maximum number of clips shown per split
MAX_COUNTED = 4096  # maximum number of clips whose codes are counted
MAX_LEVELS = 4  # maximum number of levels shown without a tokenizer

Grids = Integer[np.ndarray, "n lt lh lw *level"]


class CodePainter:
    """A tokenizer, with methods that turn tokens into clips and colors.

    Args:
        tokenizer: loaded tokenizer.
    """

    def __init__(self, tokenizer: VideoTokenizer):
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path) -> "CodePainter":
        """Return a painter with a tokenizer from a folder, on a GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(VideoTokenizer.from_pretrained(path, device=device))

    def encode(self, clip: Clip) -> tuple[Grids, Clip]:
        """Return the tokens and the reconstruction of one clip."""
        video = torch.from_numpy(clip)[None]
        copy = to_uint8(self.tokenizer.reconstruct(video))[0].cpu().numpy()
        return self.tokenizer.encode(video).cpu().numpy(), copy

    def decode(self, grids: Grids) -> list[Clip]:
        """Decode each grid to a clip, one grid at a time."""
        codes = torch.from_numpy(grids.astype(np.int64))
        return [to_uint8(self.tokenizer.decode(each))[0].cpu().numpy() for each in codes.split(1)]

    @torch.no_grad()
    def paint(self, grids: Grids) -> UInt8[np.ndarray, "n lt lh lw 3"]:
        """Return a color for each token; similar code vectors get similar colors in all grids."""
        codes = torch.from_numpy(grids.astype(np.int64)).to(self.tokenizer.device)
        vectors = self.tokenizer.quantizer.decode(codes)
        return colours_of_vectors(vectors.float().movedim(1, -1).cpu().numpy())

    @property
    def is_causal(self) -> bool:
        """Return whether the first latent frame covers a single frame."""
        return self.tokenizer.config.backbone.causal


def token_sections(store: TokenStore, painter: CodePainter | None, films: Films) -> list[Section]:
    """Return the sections of a token store's page.

    Args:
        store: the token store.
        painter: painter with the tokenizer that made the token store; None to show only the codes.
        films: film encoder.

    Raises:
        InputError: another tokenizer made the token store.
    """
    if painter is not None:
        hash_of_store = store.header.tokenizer_hash
        require_same_tokenizer(painter.tokenizer, hash_of_store, str(store.path))
    counts, counted = _counts(store)
    several = len(counts) > 1
    maps = [
        usage_map(level, f"level {number}" if several else "")
        for number, level in enumerate(counts, 1)
    ]
    text, *blocks = usage_blocks([level.tolist() for level in counts])
    if counted < len(store):
        text = text._replace(text=f"{text.text} Counted on {counted:,} clips, evenly spaced.")
    told = (
        "A cell for each code, the first at the top left, row by row. The darker the cell, the "
        "more often its code occurs, on a logarithmic scale; red: never."
    )
    return [
        Section("Clips and codes", (Text(_explained(painter)), *_strips(store, painter, films))),
        Section("Code usage", (text, *blocks, Text(told), Pictures("Code usage map", (*maps,)))),
    ]


def _explained(painter: CodePainter | None) -> str:
    if painter is None:
        return (
            "Each square is a token, and each code has its own colour; similar colours "
            "have no meaning. With --tokenizer, the tokens are decoded to clips, and "
            "similar codes get similar colours. Loops shorter than a second are slowed to "
            "one second."
        )
    return (
        "On the left the decoded clip, on the right a square for each token. The colours "
        "of codes are the first three principal components of their vectors, so similar "
        "codes look similar. Loops shorter than a second are slowed to one second."
    )


def _strips(store: TokenStore, painter: CodePainter | None, films: Films) -> list[Block]:
    rows_of = {split: store.rows(split).tolist() for split in SPLITS if split in store.splits}
    chosen = {split: spread(rows, SHOWN) for split, rows in rows_of.items()}
    rows = [row for found in chosen.values() for row in found]
    pictures = _pictures(store.header, painter, store.read_rows(rows))
    shown = {row: _film(store, films, row, each) for row, each in zip(rows, pictures, strict=True)}
    return [
        FilmStrip(f"{split}: {len(rows_of[split]):,} clips", tuple(shown[row] for row in found))
        for split, found in chosen.items()
    ]


def _pictures(
    header: TokenHeader, painter: CodePainter | None, grids: Grids
) -> list[dict[str, Clip]]:
    """Return the clips to show for each grid, by name."""
    size_thw = (header.num_frames, *header.frame_size_hw)
    if painter is None:
        levels = codes_of_levels(grids, header)[:MAX_LEVELS]
        painted = {
            f"level {number}": colours_of_codes(each) for number, each in enumerate(levels, 1)
        }
        if len(levels) == 1:
            painted = {"codes": painted["level 1"]}
        return [
            {name: as_clip(each[row], size_thw, False) for name, each in painted.items()}
            for row in range(len(grids))
        ]
    return [
        {"decoded": clip, "codes": as_clip(colours, size_thw, painter.is_causal)}
        for clip, colours in zip(painter.decode(grids), painter.paint(grids), strict=True)
    ]


def _film(store: TokenStore, films: Films, row: int, pictures: dict[str, Clip]) -> Film:
    video = store.video_of(row)
    _, start, stride = store.window_of(row)
    caption = f"{named(video.id, video.label)}, from frame {start}"
    fps = store.header.fps if video.fps is None else video.fps / stride
    return films.film([*pictures.values()], len(pictures), caption, fps, tuple(pictures))


def _counts(store: TokenStore) -> tuple[list[Integer[np.ndarray, " k"]], int]:
    """Return the code counts of each level, and the number of clips that were counted."""
    vocabulary = store.header.vocabulary
    counts = [np.zeros(size, np.int64) for size in vocabulary]
    every = max(1, -(-len(store) // MAX_COUNTED))
    rows: Sequence[int] = range(0, len(store), every)
    for row in rows:
        for level, codes in enumerate(codes_of_levels(store.read(row), store.header)):
            counts[level] += np.bincount(codes.ravel(), minlength=vocabulary[level])
    return counts, len(rows)
