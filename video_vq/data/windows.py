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


def usable_videos(store: ClipStore, split: str, num_frames: int, stride: int) -> list[int]:
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


def one_window_per_video(
    store: ClipStore, split: str, num_frames: int, stride: int, count: int, seed: int
) -> list[Window]:
    """Return `count` windows for a score, each of another video while there are videos left.

    Videos come in an order drawn by the seed; beyond their number each gives further windows.
    """
    videos = usable_videos(store, split, num_frames, stride)
    order = np.random.default_rng([seed, 0xF7D]).permutation(len(videos))
    return [
        random_window(store, videos[order[number % len(videos)]], num_frames, stride, seed, number)
        for number in range(count)
    ]
