"""Loads training batches by position, identically for any number of ranks and workers."""

import math
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from video_vq.data.clip_config import ClipConfig
from video_vq.data.order import EpochOrder, rank_positions
from video_vq.data.windows import EpochClips, Window, read_window
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenHeader, TokenStore


class ClipBatch(NamedTuple):
    """Clips (uint8), and the index of each clip's video in the store."""

    clips: UInt8[Tensor, "b t h w 3"]
    videos: Int[Tensor, " b"]


class TokenBatch(NamedTuple):
    """Token grids, with classes (−1 for no class) and actions, each None if the store has none."""

    tokens: Int[Tensor, "b t h w *level"]
    classes: Int[Tensor, " b"] | None
    actions: Float[Tensor, "b t a"] | None

    def flat(self, device: torch.device) -> "FlatTokens":
        """Return the batch as inputs for a prior, on a device."""
        return FlatTokens(
            rearrange(self.tokens, "b t h w ... -> b (t h w) ...").to(device, non_blocking=True),
            None if self.classes is None else self.classes.to(device, non_blocking=True),
            None if self.actions is None else self.actions.to(device, non_blocking=True),
        )


class FlatTokens(NamedTuple):
    """A prior's inputs: tokens flattened in the order t h w, classes and actions."""

    tokens: Int[Tensor, "b n *level"]
    classes: Int[Tensor, " b"] | None
    actions: Float[Tensor, "b t a"] | None


def blank_tokens(
    header: TokenHeader, number: int, device: torch.device | None = None
) -> FlatTokens:
    """Return all-zero inputs with a store's shapes, to measure memory use or test compilation."""
    tokens = (number, math.prod(header.grid_thw), *header.token_shape[3:])
    actions = torch.zeros(number, *header.actions_shape, device=device)
    return FlatTokens(
        torch.zeros(tokens, dtype=torch.int64, device=device),
        torch.zeros(number, dtype=torch.int64, device=device) if header.classes else None,
        actions if header.num_action_dims else None,
    )


class ClipSequence(Dataset[tuple[np.ndarray, int]]):
    """Dataset that maps positions in a run's endless sequence of epochs to clips of a split.

    An item is a clip, uint8 t h w 3, with the index of its video in the store, and depends only on
    the arguments and the position.
    """

    def __init__(self, store: ClipStore, split: str, config: ClipConfig, seed: int):
        self.store = store
        self.clips = EpochClips(store, split, config, seed)
        self.order = EpochOrder(len(self.clips), seed)

    def window(self, position: int) -> Window:
        """Return the window of the clip at a position."""
        return self.clips(self.order(position).item, position)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        window = self.window(position)
        return read_window(self.store, window), window.video


class TokenSequence(Dataset[int]):
    """Dataset that maps positions in a run's endless sequence of epochs to rows of a split."""

    def __init__(self, store: TokenStore, split: str, seed: int):
        self.store = store
        self.rows = store.rows(split)
        self.order = EpochOrder(len(self.rows), seed)

    def __getitem__(self, position: int) -> int:
        return int(self.rows[self.order(position).item])


class _RankSampler(Sampler[list[int]]):
    """Yields the positions of each of this rank's micro-batches, over a range of steps."""

    def __init__(self, first_step: int, last_step: int, rank: int, shape: dict[str, int]):
        self.steps, self.rank, self.shape = range(first_step, last_step), rank, shape

    def __len__(self) -> int:
        return len(self.steps) * self.shape["accumulation"]

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for micro_batch in range(self.shape["accumulation"]):
                yield list(rank_positions(step, micro_batch, self.rank, **self.shape))


def _collate_clips(items: list[tuple[np.ndarray, int]]) -> ClipBatch:
    clips, videos = zip(*items, strict=True)
    return ClipBatch(torch.from_numpy(np.stack(clips)), torch.tensor(videos))


def _leave_stopping_to_the_trainer(worker: int) -> None:
    """Ignore SIGINT and one SIGTERM, so that a signal to the process group ends no worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The first SIGTERM is sent to the process group; the second comes from PyTorch's clean-up, and
    # ends the worker.
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def training_batches(
    dataset: ClipSequence | TokenSequence,
    *,
    first_step: int,
    last_step: int,
    rank: int,
    batch_size: int,
    accumulation: int,
    world_size: int,
    num_workers: int,
) -> DataLoader:
    """Return a loader of one rank's micro-batches, which starts at `first_step` in constant time.

    Args:
        first_step, last_step: range of the optimizer steps to load; `last_step` is excluded.
        batch_size: size of the global batch, over all ranks and accumulated micro-batches.
        num_workers: number of processes that read ahead; 0 to read in the training process.
    """
    shape = {"batch_size": batch_size, "accumulation": accumulation, "world_size": world_size}
    clips = isinstance(dataset, ClipSequence)
    return DataLoader(
        dataset,
        batch_sampler=_RankSampler(first_step, last_step, rank, shape),
        collate_fn=_collate_clips if clips else partial(read_grids, dataset.store),
        num_workers=num_workers,
        worker_init_fn=_leave_stopping_to_the_trainer,
        # A loader draws a seed for its workers; drawing it from the global generator would change
        # the dropout of a resumed run.
        generator=torch.Generator().manual_seed(0),
        pin_memory=torch.cuda.is_available(),
    )


def read_grids(store: TokenStore, rows: Sequence[int]) -> TokenBatch:
    """Read rows of a token store into one batch."""
    classes = torch.tensor([store.class_of(row) for row in rows]) if store.header.classes else None
    actions = [found for row in rows if (found := store.read_actions(row)) is not None]
    return TokenBatch(
        torch.from_numpy(store.read_rows(rows)),
        classes,
        torch.from_numpy(np.stack(actions)) if actions else None,
    )


def read_windows(store: ClipStore, windows: list[Window]) -> UInt8[Tensor, "b t h w 3"]:
    """Read clips of a store into one batch."""
    return torch.from_numpy(np.stack([read_window(store, window) for window in windows]))
