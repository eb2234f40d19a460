"""Cuts a video into a clip store: the first two thirds for train, the last third for val.

python scripts/starter/halves.py VIDEO --out clips
"""

import argparse
from pathlib import Path

import numpy as np

from video_vq.media.decode import FrameStream
from video_vq.media.probe import probe
from video_vq.media.resize import resize
from video_vq.stores.clips import ClipStoreWriter, PreparedVideo, Video

SIDE = 64
PIECE = 12  # frames


def main() -> None:
    """Cut the video into pieces, and write them to a clip store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    info = probe(arguments.video)
    frames = np.concatenate(
        [resize(frame[None], (SIDE, SIDE), info.pixel_aspect) for frame in FrameStream(info)]
    )
    writer = ClipStoreWriter(arguments.out, (SIDE, SIDE), {"kind": "halves", "of": info.path.name})
    pieces = [frames[start : start + PIECE] for start in range(0, len(frames) - PIECE + 1, PIECE)]
    split_at = len(pieces) * 2 // 3
    writer.write_shard(
        0,
        (
            PreparedVideo(
                Video(f"{number:04d}", None, "train" if number < split_at else "val", f"{number}"),
                [piece],
                {},
            )
            for number, piece in enumerate(pieces)
        ),
    )
    print(f"{arguments.out}: {len(writer.finish(1, []).videos)} pieces")


if __name__ == "__main__":
    main()
