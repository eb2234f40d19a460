"""Map-style datasets for any DataLoader: clips of a clip store, and grids of a token store."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from video_vq.config import check_config
from video_vq.data.clip_config import ClipConfig, ShortVideos, Windows
from video_vq.data.windows import EpochClips, Window, read_window, read_window_arrays
from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore


class ClipItem(NamedTuple):
    """A clip; a batch of clips has the same fields, with tensors that have a leading axis b.

    Attributes:
        clip: RGB frames, uint8 t h w 3; or the transform's result.
        label: index into the dataset's `classes`; −1 if the clip has no class.
        video: index into the store's `videos`.
        first_frame: index of the clip's first frame in the video.
        arrays: the clip's rows of the store's per-frame arrays, float32 t ..., by name (such as
            `actions` and `poses`); empty if the store has none.
    """

    clip: Any
    label: int
    video: int
    first_frame: int
    arrays: dict[str, Tensor]


class TokenItem(NamedTuple):
    """The tokens of a clip; a batch has the same fields, with tensors that have a leading axis b.

    Attributes:
        tokens: codes, int64 t h w, or t h w level if a position has several codes; or the
            transform's result.
        label: index into the dataset's `classes`; −1 if the clip has no class.
        video: index into the store's `videos`.
        first_frame: index of the clip's first frame in the video.
        actions: actions that lead to each latent frame, t a; a = 0 if the store has no actions.
    """

    tokens: Any
    label: int
    video: int
    first_frame: int
    actions: Float[Tensor, "t a"]


Item = TypeVar("Item", ClipItem, TokenItem)


def collate(items: Sequence[Item]) -> Item:
    """Return a batch of dataset items; serves as a DataLoader's `collate_fn`.

    Raises:
        InputError: the items cannot be batched, because the transform returned tensors of different
            shapes, or values that are not tensors.
    """
    try:
        return default_collate(list(items))
    except (RuntimeError, TypeError, ValueError) as error:
        found = ", ".join(dict.fromkeys(_kind(item[0]) for item in items))
        raise InputError(
            f"items of a batch must be tensors of one shape, the transform returned {found}"
        ) from error


def _kind(value: object) -> str:
    return (
        f"{type(value).__name__} of {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else type(value).__name__
    )


class ClipDataset(Dataset[ClipItem]):
    """The clips of a clip store, as a map-style dataset for a DataLoader.

    Each item is read from the memory-mapped shards on access. An item depends only on the
    arguments, the epoch and the item's index, not on ranks or on workers, forked or spawned.

    Args:
        store: clip store, or the path of a clip store.
        split: "train", "val" or "test"; None for all videos.
        num_frames: number of frames in a clip.
        stride: number of video frames from one frame of a clip to the next; 2 uses every other
            frame.
        windows: rule that chooses a video's clips: "all" for a clip every `hop` frames; "uniform"
            for `clips_per_video` evenly spaced clips; "random" for `clips_per_video` clips with
            random starts, redrawn for each epoch (`set_epoch`).
        clips_per_video: number of clips per video, for "uniform" and "random".
        hop: number of frames from one clip's start to the next, for "all"; None for clips without
            overlap.
        short_videos: treatment of a video that is shorter than a clip: "leave_out", "repeat_last"
            (the last frame is repeated) or "loop" (the whole video is repeated).
        seed: seed of the random windows.
        transform: function that is applied to each clip, uint8 t h w 3; None for no change.

    Attributes:
        store: the clip store.
        classes: names of the classes, which `label` indexes.

    Raises:
        InputError: the store cannot be used, the split has no videos, no video is long enough, or
            the arguments are invalid or inconsistent.
    """

    def __init__(
        self,
        store: ClipStore | str | Path,
        split: str | None = "train",
        *,
        num_frames: int = 16,
        stride: int = 1,
        windows: Windows = "all",
        clips_per_video: int = 1,
        hop: int | None = None,
        short_videos: ShortVideos = "leave_out",
        seed: int = 0,
        transform: Callable[[Tensor], Any] | None = None,
    ):
        settings = {
            "num_frames": num_frames,
            "stride": stride,
            "windows": windows,
            "clips_per_video": clips_per_video,
            "hop": hop,
            "short_videos": short_videos,
        }
        self.store = store if isinstance(store, ClipStore) else ClipStore(store)
        config = check_config(ClipConfig, settings, "ClipDataset")
        self.classes = self.store.classes
        self.transform = transform
        self._clips = EpochClips(self.store, split, config, seed)
        # In shared memory, so that persistent workers see the epoch that set_epoch stores.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._clips)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the random windows; call this method before each epoch.

        All workers use the new epoch. With windows "all" and "uniform", every epoch has the same
        clips.
        """
        self._epoch.fill_(epoch)

    def window(self, index: int) -> Window:
        """Return the window (video and frames) of an item in the current epoch.

        Raises:
            IndexError: the index is out of range.
        """
        item = _checked_index(index, len(self))
        return self._clips(item, int(self._epoch) * len(self) + item)

    def __getitem__(self, index: int) -> ClipItem:
        window = self.window(index)
        clip = torch.from_numpy(read_window(self.store, window))
        label = self.store.videos[window.video].label
        arrays = read_window_arrays(self.store, window)
        return ClipItem(
            clip if self.transform is None else self.transform(clip),
            -1 if label is None else self.classes.index(label),
            window.video,
            window.start,
            {name: torch.from_numpy(values) for name, values in arrays.items()},
        )

    collate = staticmethod(collate)


class TokenDataset(Dataset[TokenItem]):
    """The token grids of a token store, as a map-style dataset for a DataLoader.

    `tokens.flatten()` turns a grid into a sequence for a transformer, in the order t h w.

    Args:
        store: token store, or the path of a token store.
        split: "train", "val" or "test"; None for all grids.
        transform: function that is applied to each grid, int64 t h w *level; None for no change.

    Attributes:
        store: the token store.
        classes: names of the classes, which `label` indexes.
        codebook_size: number of codes; if a position has several codes, number of combinations of
            codes.
        vocabulary: codebook size for each code at a position.
        grid_thw: number of latent frames, rows and columns of a grid.

    Raises:
        InputError: the store cannot be used, or the split has no tokens.
    """

    def __init__(
        self,
        store: TokenStore | str | Path,
        split: str | None = "train",
        *,
        transform: Callable[[Tensor], Any] | None = None,
    ):
        self.store = store if isinstance(store, TokenStore) else TokenStore(store)
        header = self.store.header
        self.classes = header.classes
        self.codebook_size = header.codebook_size
        self.vocabulary = header.vocabulary
        self.grid_thw = header.grid_thw
        self.transform = transform
        self._rows = self.store.rows(split)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenItem:
        row = int(self._rows[_checked_index(index, len(self))])
        tokens = torch.from_numpy(self.store.read_rows([row])[0])
        actions = self.store.read_actions(row)
        video, first_frame, _ = self.store.window_of(row)
        return TokenItem(
            tokens if self.transform is None else self.transform(tokens),
            self.store.class_of(row),
            video,
            first_frame,
            torch.zeros(self.grid_thw[0], 0) if actions is None else torch.from_numpy(actions),
        )

    collate = staticmethod(collate)


def _checked_index(index: int, length: int) -> int:
    """Return an index counted from the start; a negative index counts from the end, as in lists."""
    if not -length <= index < length:
        raise IndexError(f"item {index} of a dataset of {length}")
    return index % length
