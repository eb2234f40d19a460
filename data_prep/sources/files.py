"""Opener of items that are video files, with per-frame actions if there are any."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.sources import Item, Notes
from video_vq.media.prepared import FrameRecipe, OpenedFile, Watch, open_file
from video_vq.stores.clips import PreparedVideo, UnusableVideoError
from video_vq.stores.number_rows import read_rows
from video_vq.stores.videos import REPEATED


def open_video_file(item: Item, recipe: FrameRecipe, watch: Watch, notes: Notes) -> PreparedVideo:
    """Return an opened video file; see `OpenItem`."""
    opened = open_file(item.path, item.num_bytes, recipe, watch)
    actions, its_hash = _actions(item)
    packets = opened.info.num_packets
    origin = {"name": item.name, "sha256": opened.sha256, "packets": packets, **its_hash}
    return PreparedVideo(
        item.video(origin, opened.fps),
        _finished(item, opened, actions, notes, origin),
        {} if actions is None else {"actions": _rows(actions, opened.chosen, recipe.stride)},
    )


def _actions(item: Item) -> tuple[Float32[np.ndarray, "t n"] | None, dict[str, str]]:
    """Return a video's actions and an origin entry with their hash; None and {} without actions."""
    if item.actions is None:
        return None, {}
    try:
        rows = read_rows(Path(item.actions))
    except ValueError as error:
        raise UnusableVideoError(f"its actions {Path(item.actions).name}: {error}") from None
    return rows, {"actions_sha256": hashlib.sha256(rows.tobytes()).hexdigest()}


def _rows(
    actions: Float32[np.ndarray, "t n"], chosen: Sequence[int] | None, stride: int
) -> Float32[np.ndarray, "s n"]:
    """Return the rows for the frames that are kept; a repeated frame repeats its row.

    Args:
        actions: one row per decoded frame.
        chosen: indices of the frames to keep, if a fixed rate is requested; None to use `stride`.
        stride: interval between the frames to keep.
    """
    if chosen is None:
        return actions[::stride]
    return actions[[index for index in chosen if index < len(actions)]]


def _finished(
    item: Item,
    opened: OpenedFile,
    actions: Float32[np.ndarray, "t n"] | None,
    notes: Notes,
    origin: dict[str, Any],
) -> Iterator[UInt8[np.ndarray, "1 h w 3"]]:
    """Yield all frames, then check the number of actions, and note irregularities and repeats.

    Raises:
        UnusableVideoError: the number of actions differs from the number of frames.
    """
    yield from opened.frames
    num_frames = opened.stream.num_frames
    if actions is not None and len(actions) != num_frames:
        raise UnusableVideoError(
            f"its actions have {len(actions):,} rows, its file {num_frames:,} frames"
        )
    notes += [{"id": item.id, "note": note} for note in opened.oddities()]
    repeated = opened.num_repeated()
    if repeated is not None:
        origin[REPEATED] = repeated
