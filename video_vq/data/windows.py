"""Clips cut out of videos: which window of which video, as a pure function."""

from typing import NamedTuple

import numpy as np

from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore


class Window(NamedTuple):
    """A clip: video (its position in the store), first frame, number of frames and stride."""

    video: int
    start: int
    num_frames: int
    stride: int


def usable_videos(store: ClipStore, split: str | None, num_frames: int, stride: int) -> list[int]:
    """Return the videos of a split that are at least one clip long.

    Raises:
        InputError: none is.
    """
    span = (num_frames - 1) * stride + 1
    indices = store.indices(split)
    usable = [index for index in indices if store.videos[index].num_frames >= span]
    if not usable:
        longest = max(store.videos[index].num_frames for index in indices)
        raise InputError(
            f"{store.path}: no video of split {split!r} has the {span} frames of a clip "
            f"({num_frames} at stride {stride}); the longest has {longest}; lower data.num_frames "
            "or data.stride, or prepare longer videos"
        )
    return usable


def random_window(
    store: ClipStore, video: int, num_frames: int, stride: int, seed: int, position: int
) -> Window:
    """Draw a window of a video by (seed, position); every start is equally likely."""
    last = store.videos[video].num_frames - ((num_frames - 1) * stride + 1)
    start = int(np.random.default_rng([seed, position, 0x317D]).integers(last + 1))
    return Window(video, start, num_frames, stride)


def every_window(
    store: ClipStore, split: str, num_frames: int, stride: int, hop: int
) -> list[Window]:
    """Return the windows that start at frames 0, hop, 2·hop, … of each usable video."""
    span = (num_frames - 1) * stride + 1
    return [
        Window(video, start, num_frames, stride)
        for video in usable_videos(store, split, num_frames, stride)
        for start in range(0, store.videos[video].num_frames - span + 1, hop)
    ]


def scoring_windows(
    store: ClipStore,
    split: str | None,
    num_frames: int,
    stride: int,
    count: int | None,
    seed: int,
) -> list[Window]:
    """Return the windows of a score: no two overlap, and each video gives one before any gives two.

    A video of n clips gives n windows in a row, the first at a start drawn by the seed; videos
    come in an order drawn by the seed.

    Args:
        split: None for all splits.
        count: no more than this many; None for all that there are.

    Raises:
        InputError: no video is long enough.
    """
    span = (num_frames - 1) * stride + 1
    videos = usable_videos(store, split, num_frames, stride)
    random = np.random.default_rng([seed, 0xF7D])
    order = [videos[place] for place in random.permutation(len(videos))]
    rounds: list[list[Window]] = []
    for video in order:
        clips, slack = divmod(store.videos[video].num_frames, span)
        first = int(random.integers(slack + 1))
        for number in range(clips):
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(Window(video, first + number * span, num_frames, stride))
    return [window for one_round in rounds for window in one_round][:count]


def first_windows(store: ClipStore, split: str, num_frames: int, stride: int) -> list[Window]:
    """Return the first frames of each video, in the store's order.

    Raises:
        InputError: no video is long enough.
    """
    videos = usable_videos(store, split, num_frames, stride)
    return [Window(video, 0, num_frames, stride) for video in videos]
