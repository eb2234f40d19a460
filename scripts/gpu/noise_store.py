"""A clip store of noise, for checks and timings in which the content of videos does not matter."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video


def make_noise_store(path: Path, size: int, num_videos: int, num_frames: int) -> ClipStore:
    """Return a clip store of noise videos, one in four for val, which is written if it is missing.

    Args:
        path: path of the store; an existing one is reused.
        size: height and width of the frames.
        num_videos: number of videos.
        num_frames: number of frames of each video.
    """
    if (path / "manifest.json").exists():
        return ClipStore(path)
    random = np.random.default_rng(0)
    writer = ClipStoreWriter(path, (size, size), {"kind": "noise"})

    def videos() -> Iterator[PreparedVideo]:
        for number in range(num_videos):
            frames = random.integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8)
            name, split = f"video-{number}", "val" if number % 4 == 0 else "train"
            yield PreparedVideo(Video(name, "noise", split, name, fps=10.0), [frames], {})

    writer.write_shard(0, videos())
    return writer.finish(1, ["noise"])
