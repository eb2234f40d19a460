"""Chooses clips of videos deterministically from settings and seeds, and reads the chosen clips."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, UInt8

from video_vq.data.clip_config import ClipConfig, ShortVideos
from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore


class Window(NamedTuple):
    """A clip: index of the video in the store, first frame, number of frames and stride.

    `short_videos` determines how the clip continues if the video ends before the clip does.
    """

    video: int
    start: int
    num_frames: int
    stride: int
    short_videos: ShortVideos = "leave_out"

    @property
    def span(self) -> int:
        """Return the number of video frames from the clip's first to last frame, inclusive."""
        return (self.num_frames - 1) * self.stride + 1


def read_window(store: ClipStore, window: Window) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the frames of a clip.

    Raises:
        ValueError: the video ends before the clip does, and `short_videos` is "leave_out".
        InputError: the file that contains the frames is missing or damaged.
    """
    return _cut(store.read, store, window)


def read_window_arrays(store: ClipStore, window: Window) -> dict[str, Float32[np.ndarray, "t ..."]]:
    """Return a clip's per-frame arrays by name; short videos are extended as in `read_window`."""
    return {name: _cut(partial(store.read_array, name), store, window) for name in store.arrays}


def _cut(read: Callable[..., np.ndarray], store: ClipStore, window: Window) -> np.ndarray:
    video, start, num_frames, stride, short_videos = window
    available = store.videos[video].num_frames
    if short_videos == "leave_out" or start + window.span <= available:
        return read(video, start, num_frames, stride)
    return read(video)[frame_numbers(window, available)]


def frame_numbers(window: Window, available: int) -> Int[np.ndarray, " t"]:
    """Return the index of each frame of a clip, in a video with `available` frames."""
    _, start, num_frames, stride, short_videos = window
    wanted = np.arange(start, start + num_frames * stride, stride)
    return wanted % available if short_videos == "loop" else wanted.clip(max=available - 1)


def usable_videos(
    store: ClipStore,
    split: str | None,
    num_frames: int,
    stride: int,
    short_videos: ShortVideos = "leave_out",
) -> list[int]:
    """Return the indices of a split's videos that yield at least one clip.

    Raises:
        InputError: the split has no videos, or none of them yields a clip.
    """
    span = (num_frames - 1) * stride + 1
    indices = store.indices(split)
    if short_videos != "leave_out":
        return indices
    usable = [index for index in indices if store.videos[index].num_frames >= span]
    if not usable:
        longest = max(store.videos[index].num_frames for index in indices)
        raise InputError(
            f"{store.path}: no video of split {split!r} has the {span} frames of a clip "
            f"({num_frames} at stride {stride}); the longest has {longest}; lower data.num_frames "
            "or data.stride, extend short videos (data.short_videos=repeat_last or loop), or "
            "prepare longer ones"
        )
    return usable


class EpochClips:
    """The numbered clips of an epoch, each of which is computed on request.

    Args:
        store: store that contains the videos.
        split: split of the store; None for all videos.
        config: settings that determine the clips.
        seed: seed of the random windows.

    Attributes:
        videos: indices of the videos that yield clips, in the store's order.

    Raises:
        InputError: the split has no videos, or none of them yields a clip.
    """

    def __init__(self, store: ClipStore, split: str | None, config: ClipConfig, seed: int):
        self.store, self.config, self.seed = store, config, seed
        self.videos = usable_videos(
            store, split, config.num_frames, config.stride, config.short_videos
        )
        # Number of frames at which a clip can start; 1 for a short video that is extended.
        lengths = np.array([store.videos[video].num_frames for video in self.videos])
        self._starts = (lengths - config.span + 1).clip(min=1)
        self._hop = config.hop or config.num_frames * config.stride
        if config.windows == "all":
            counts = -(-self._starts // self._hop)
        elif config.windows == "uniform":
            counts = self._starts.clip(max=config.clips_per_video)
        else:
            counts = np.full(len(self.videos), config.clips_per_video)
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __call__(self, item: int, position: int) -> Window:
        """Return the window of an item; a random window depends on (seed, position).

        Args:
            item: index of the item, 0 … len − 1; a video's clips have consecutive indices.
            position: position in the endless sequence of epochs.
        """
        place = int(np.searchsorted(self._first, item, side="right")) - 1
        number, starts = item - int(self._first[place]), int(self._starts[place])
        match self.config.windows:
            case "random":
                start = int(np.random.default_rng([self.seed, position, 0x317D]).integers(starts))
            case "uniform":
                start = _evenly_spaced(number, min(self.config.clips_per_video, starts), starts)
            case "all":
                start = number * self._hop
        return Window(
            self.videos[place],
            start,
            self.config.num_frames,
            self.config.stride,
            self.config.short_videos,
        )

    def all(self) -> list[Window]:
        """Return the windows of all items in order, as in an unshuffled first epoch."""
        return [self(item, item) for item in range(len(self))]


def _evenly_spaced(number: int, count: int, starts: int) -> int:
    """Return the integer at index `number` of `count` evenly spaced integers in [0, starts)."""
    if count == 1:
        return (starts - 1) // 2
    return (2 * number * (starts - 1) + count - 1) // (2 * (count - 1))


def windows_of_video(config: ClipConfig, video: int, name: str, num_frames: int) -> list[Window]:
    """Return the windows of one video, which do not depend on the store's other videos.

    Args:
        config: settings that determine the clips; duplicates among random windows are dropped.
        video: index of the video in the store.
        name: id of the video, which determines the random windows.
        num_frames: number of frames in the video.
    """
    starts = num_frames - config.span + 1
    if starts < 1 and config.short_videos == "leave_out":
        return []
    starts = max(starts, 1)
    match config.windows:
        case "random":
            digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
            random = np.random.default_rng([int.from_bytes(digest[:8], "big"), 0x0E7C0DE])
            chosen = random.integers(starts, size=config.clips_per_video).tolist()
        case "uniform":
            count = min(config.clips_per_video, starts)
            chosen = [_evenly_spaced(number, count, starts) for number in range(count)]
        case "all":
            chosen = list(range(0, starts, config.hop or config.num_frames * config.stride))
    rest = (config.num_frames, config.stride, config.short_videos)
    # Drop a start that was drawn twice, since a token grid is named after its window.
    return [Window(video, start, *rest) for start in dict.fromkeys(chosen)]


def scoring_windows(
    store: ClipStore,
    split: str | None,
    num_frames: int,
    stride: int,
    count: int | None,
    seed: int,
    short_videos: ShortVideos = "leave_out",
) -> list[Window]:
    """Return disjoint windows for a metric, with one window per video before any second window.

    A video long enough for n clips yields n consecutive windows. The start of a video's first
    window and the order of the videos are random and depend on the seed.

    Args:
        split: split of the store; None for all videos.
        count: maximum number of windows; None for all windows.
        short_videos: treatment of videos shorter than a clip; an extended video yields one window.

    Raises:
        InputError: the split has no videos, or none of them is long enough.
    """
    span = (num_frames - 1) * stride + 1
    videos = usable_videos(store, split, num_frames, stride, short_videos)
    random = np.random.default_rng([seed, 0xF7D])
    order = [videos[place] for place in random.permutation(len(videos))]
    rounds: list[list[Window]] = []
    for video in order:
        clips, slack = divmod(max(store.videos[video].num_frames, span), span)
        first = int(random.integers(slack + 1))
        for number in range(clips):
            if number == len(rounds):
                rounds.append([])
            start = first + number * span
            rounds[number].append(Window(video, start, num_frames, stride, short_videos))
    return [window for one_round in rounds for window in one_round][:count]


def first_windows(
    store: ClipStore,
    split: str | None,
    num_frames: int,
    stride: int,
    short_videos: ShortVideos = "leave_out",
) -> list[Window]:
    """Return the window at the start of each video, in the store's order.

    Raises:
        InputError: the split has no videos, or none of them is long enough.
    """
    videos = usable_videos(store, split, num_frames, stride, short_videos)
    return [Window(video, 0, num_frames, stride, short_videos) for video in videos]
