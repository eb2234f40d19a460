"""A clip store of noise: what its videos show costs a reader and a training step nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video


def make_noise_store(path: Path, size: int, num_videos: int, num_frames: int) -> ClipStore:
    """Write videos of noise, a quarter of them for val.

    Args:
        path: of the store; one that is there is taken.
        size: height and width.
        num_videos: number of videos.
        num_frames: frames of each.
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
