"""Compares the loader with plain memory-mapped reads, and measures its share of a training step.

`python scripts/bench/loader.py [--size 64] [--steps 60]` measures the CPU time that the loader
needs for batches of random windows in one process, without workers, and, in alternation, that of a
loop that knows the windows and copies the same rows of the same files into one array. Then it
trains the demo's tokenizer; the timers of the training loop give the share of a step that is spent
on `data`: reading, stacking and scaling to [-1, 1].
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from video_vq.config import find_config, load_config
from video_vq.data.clip_config import ClipConfig
from video_vq.data.loader import ClipSequence, training_batches
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

SHARDS, VIDEOS_PER_SHARD, LENGTH = 8, 32, 60
BATCH, BATCHES = 16, 100
DEMO_SIZE = 32
WANTED = 0.02


def make_store(path: Path, size: int) -> ClipStore:
    """Write and return a store of noise, since the content does not affect the time of reading."""
    random = np.random.default_rng(0)
    writer = ClipStoreWriter(path, (size, size), {"kind": "noise"})
    for shard in range(SHARDS):
        videos = []
        for number in range(VIDEOS_PER_SHARD):
            name = f"video-{shard}-{number}"
            frames = random.integers(0, 256, (LENGTH, size, size, 3), dtype=np.uint8)
            split = "val" if number % 8 == 0 else "train"
            videos.append(PreparedVideo(Video(name, "noise", split, name, fps=10.0), [frames], {}))
        writer.write_shard(shard, videos)
    return writer.finish(SHARDS, ["noise"])


def clips_per_second(store: ClipStore, rounds: int) -> dict[str, list[float]]:
    """Return the clips per CPU second of the loader and of the plain loop, for each round."""
    config = ClipConfig()
    dataset = ClipSequence(store, "train", config, seed=0)
    windows = [dataset.window(position) for position in range(BATCH * BATCHES)]
    rows = [
        (video.shard, video.offset + window.start)
        for window in windows
        for video in (store.videos[window.video],)
    ]
    maps = [np.load(store.path / f"frames-{n:05d}.npy", mmap_mode="r") for n in range(SHARDS)]

    def ours() -> int:
        loader = training_batches(
            dataset,
            first_step=0,
            last_step=BATCHES,
            rank=0,
            batch_size=BATCH,
            accumulation=1,
            world_size=1,
            num_workers=0,
        )
        return sum(int(batch.clips[:, 0, 0, 0, 0].sum()) for batch in loader)

    def bare() -> int:
        total = 0
        for first in range(0, len(rows), BATCH):
            chosen = rows[first : first + BATCH]
            clips = [maps[shard][row : row + config.num_frames] for shard, row in chosen]
            total += int(torch.from_numpy(np.stack(clips))[:, 0, 0, 0, 0].sum())
        return total

    ways: dict[str, Callable[[], int]] = {"ours": ours, "bare": bare}
    assert ours() == bare()  # the same clips; warms up, too
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            found[name].append(BATCH * BATCHES / (time.process_time() - started))
    return found


def shares_of_steps(folder: Path, steps: int) -> list[float]:
    """Train on noise; return the share of time spent on `data`, for each log line but the first."""
    make_store(folder / "clips", DEMO_SIZE)
    settings = [
        *(f"optim.steps={steps}", f"optim.warmup_steps={steps // 10}"),
        *(f"run.log_every={max(1, steps // 6)}", f"run.validate_every={steps}"),
        f"run.checkpoint_every={steps}",
    ]
    config = load_config(
        TokenizerTrainingConfig, find_config("demo/tokenizer", "tokenizer"), settings
    )
    train_tokenizer(config, folder / "clips", folder / "run")
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [line["time/data"] for line in lines if "time/data" in line][1:]  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "clips", arguments.size)
        found = clips_per_second(store, arguments.rounds)
        shares = shares_of_steps(Path(folder) / "demo", arguments.steps)
    for name, rates in found.items():
        print(
            f"{name}: {statistics.median(rates):,.0f} clips of 16x{arguments.size}x"
            f"{arguments.size} per CPU second ({min(rates):,.0f} to {max(rates):,.0f})"
        )
    ratios = [ours / bare for ours, bare in zip(found["ours"], found["bare"], strict=True)]
    print(
        f"the loader reaches {statistics.median(ratios):.3f} of the bare read "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )
    print(
        f"share of a training step at the demo's size: {statistics.median(shares):.3%} "
        f"({min(shares):.3%} to {max(shares):.3%}; wanted: at most {WANTED:.0%})"
    )


if __name__ == "__main__":
    main()
