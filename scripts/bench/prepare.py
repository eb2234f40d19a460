"""Compares data preparation with a plain loop, in frames per CPU second.

`python scripts/bench/prepare.py [FOLDER] [--size 64]` divides the frames per CPU second of the
function that a worker runs (hash the file and count its packets, decode, turn upright, scale,
write, hash and fsync the shard) by those of a loop that only decodes and scales with the same
filter into memory. Without FOLDER, the script generates videos of 320x240 pixels: moving textures
with noise, as MPEG-4 in AVI like UCF-101.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import decord
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from data_prep.shard import prepare_shard
from data_prep.sources import Item
from data_prep.sources.folder import list_folder
from video_vq.media.decode import Decoder
from video_vq.media.encode import write_video
from video_vq.media.folder import FolderSettings
from video_vq.media.kinds import VIDEO_SUFFIXES
from video_vq.media.prepared import FrameRecipe
from video_vq.media.resize import REDUCING_GAP, crop_box
from video_vq.stores.clips import ClipStoreWriter

HEIGHT, WIDTH = 240, 320
WANTED = 0.9


def make_videos(folder: Path, videos: int, frames: int) -> None:
    """Write AVI files of moving textures of several scales, with some noise."""
    random = np.random.default_rng(0)
    for number in range(videos):
        texture = np.full((2 * HEIGHT, 2 * WIDTH, 3), 128.0)
        for cell, contrast in ((2, 6.0), (8, 20.0), (32, 40.0)):
            cells = random.normal(size=(2 * HEIGHT // cell + 1, 2 * WIDTH // cell + 1, 3))
            texture += contrast * cells.repeat(cell, 0).repeat(cell, 1)[: 2 * HEIGHT, : 2 * WIDTH]
        step_y, step_x = random.integers(-2, 3, 2)
        shown = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
        for time_step in range(frames):
            top, left = (step_y * time_step) % HEIGHT, (step_x * time_step) % WIDTH
            window = texture[top : top + HEIGHT, left : left + WIDTH]
            shown[time_step] = (window + random.normal(0, 2, window.shape)).clip(0, 255)
        write_video(folder / f"video-{number}.avi", shown, 25, quality=5)


def plain_pyav(path: Path) -> Iterator[np.ndarray]:
    """Yield RGB frames in PyAV's fastest way on one thread: one reformatter for all frames."""
    reformatter = VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield reformatter.reformat(frame, format="rgb24").to_ndarray()


def plain_decord(path: Path) -> Iterator[np.ndarray]:
    """Yield RGB frames in decord's fastest way on one thread: frame by frame, without seeking."""
    reader = decord.VideoReader(str(path), num_threads=1)
    for _ in range(len(reader)):
        yield reader.next().asnumpy()


PLAIN: dict[Decoder, Callable[[Path], Iterator[np.ndarray]]] = {
    "pyav": plain_pyav,
    "decord": plain_decord,
}


def plain_loop(items: tuple[Item, ...], decoder: Decoder, size: int) -> int:
    """Decode and scale all videos into memory; return the number of frames."""
    count = 0
    for item in items:
        scaled = []
        for frame in PLAIN[decoder](Path(item.path)):
            if frame.shape[:2] == (size, size):
                scaled.append(frame)
                continue
            box = crop_box((frame.shape[0], frame.shape[1]), (size, size))
            image = Image.fromarray(frame)
            image = image.resize((size, size), Image.Resampling.BICUBIC, box, REDUCING_GAP)
            scaled.append(np.asarray(image))
        count += len(np.stack(scaled))
    return count


def loop_that_scales_inside(items: tuple[Item, ...], size: int) -> int:
    """Decode and scale all videos with FFmpeg alone; return the number of frames.

    Compared with the other loops, this shows the cost of scaling outside FFmpeg, which makes pixels
    reproducible.
    """
    count, reformatter = 0, VideoReformatter()
    for item in items:
        with av.open(item.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                reformatter.reformat(frame, width=size, height=size, format="rgb24").to_ndarray()
                count += 1
    return count


def our_shard(items: tuple[Item, ...], decoder: Decoder, size: int) -> int:
    """Prepare all videos as one shard; return the number of frames."""
    recipe = FrameRecipe((size, size), decoder=decoder)
    with tempfile.TemporaryDirectory() as folder:
        writer = ClipStoreWriter(Path(folder) / "store", (size, size), recipe.plan())
        prepare_shard(writer, recipe, 0, items, (), {}, lambda video, stage, seconds: None)
        return int(writer.record(0)["frames"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--videos", type=int, default=6, help="number of videos to make")
    parser.add_argument("--frames", type=int, default=180, help="number of frames in each of them")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None:
            make_videos(Path(made), arguments.videos, arguments.frames)
        folder = arguments.folder or Path(made)
        settings = FolderSettings(val=0, test=0, extensions=VIDEO_SUFFIXES)
        items = list_folder(folder, settings).items
        contenders: dict[str, Callable[[], int]] = {
            "plain pyav": lambda: plain_loop(items, "pyav", arguments.size),
            "ours pyav": lambda: our_shard(items, "pyav", arguments.size),
            "plain decord": lambda: plain_loop(items, "decord", arguments.size),
            "ours decord": lambda: our_shard(items, "decord", arguments.size),
            "scaled inside pyav": lambda: loop_that_scales_inside(items, arguments.size),
        }
        frames = {name: contender() for name, contender in contenders.items()}  # warms up, too
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            for name, contender in contenders.items():
                started = time.process_time()
                contender()
                rates[name].append(frames[name] / (time.process_time() - started))
    print(f"{len(items)} videos, to {arguments.size} px, {arguments.rounds} rounds, one thread")
    for name, found in rates.items():
        print(
            f"{name:19} {statistics.median(found):7,.0f} frames per CPU second "
            f"({min(found):,.0f} to {max(found):,.0f}; {frames[name]:,} frames)"
        )
    for decoder in PLAIN:
        pairs = zip(rates[f"ours {decoder}"], rates[f"plain {decoder}"], strict=True)
        shares = [ours / plain for ours, plain in pairs]
        print(
            f"{decoder}: ours is {statistics.median(shares):.3f} of the plain loop "
            f"({min(shares):.3f} to {max(shares):.3f}; wanted: at least {WANTED})"
        )


if __name__ == "__main__":
    main()
