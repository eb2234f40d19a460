"""Measures the overhead of a training step, and the time for which a save blocks training.

It trains the demo's tokenizer on a generated clip store, and reads the timers of the training loop.
Then it saves a checkpoint of a given size, and compares this with writing and fsyncing as many
bytes. Example: `python scripts/bench/training.py --steps 100 --gigabytes 1`
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from video_vq.config import find_config, load_config
from video_vq.stores.clips import ClipStoreWriter, PreparedVideo, Video
from video_vq.training.checkpoint import CheckpointFolder
from video_vq.training.state import Snapshot
from video_vq.training.tokenizer import train_tokenizer
from video_vq.training.training_config import TokenizerTrainingConfig

SIZE, FRAMES, VIDEOS = 32, 30, 60
WORK = ("forward", "backward", "step")
GB = 10**9


def make_store(path: Path) -> None:
    """Write a clip store of noise, since the content does not affect the time of a step."""
    random = np.random.default_rng(0)
    writer = ClipStoreWriter(path, (SIZE, SIZE), {"kind": "noise"})

    def videos():
        for index in range(VIDEOS):
            frames = random.integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
            split = "val" if index % 6 == 0 else "train"
            name = f"video-{index}"
            video = Video(name, "noise", split, name, fps=10.0, origin={"made": "by a benchmark"})
            yield PreparedVideo(video, [frames], {})

    writer.write_shard(0, videos())
    writer.finish(1, ["noise"])


def step_shares(folder: Path, steps: int, mixed_precision: str) -> dict[str, float]:
    """Train; return each phase's share of the time, as a median over log lines after the first."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = mixed_precision
    make_store(folder / "clips")
    every = max(1, steps // 5)
    settings = [
        *(f"optim.steps={steps}", f"optim.warmup_steps={steps // 10}", f"run.log_every={every}"),
        *(f"run.checkpoint_every={steps}", f"run.validate_every={steps}"),
    ]
    config = load_config(
        TokenizerTrainingConfig, find_config("demo/tokenizer", "tokenizer"), settings
    )
    train_tokenizer(config, folder / "clips", folder / "run")
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "time/forward" in line][1:]  # the first one warms up
    phases = [name for name in lines[0] if name.startswith("time/")]
    phases = [name for name in phases if name not in ("time/clips_per_second", "time/left_minutes")]
    return {
        name.removeprefix("time/"): statistics.median(line[name] for line in lines)
        for name in phases
    }


def save_seconds(folder: Path, gigabytes: float, rounds: int) -> dict[str, list[float]]:
    """Return the seconds per GB of the blocking copies, of saving them, and of a plain write."""
    part = torch.zeros(int(gigabytes * GB / 4 / 8)).uniform_()
    tensors = {"model": {f"tensor-{index}": part.clone() for index in range(8)}}
    checkpoints, snapshot = CheckpointFolder(folder / "state"), Snapshot()
    found: dict[str, list[float]] = {
        "copies, which block training": [],
        "the writing behind it": [],
        "a plain write and fsync": [],
    }

    def clock(name: str, started: float) -> None:
        found[name].append((time.perf_counter() - started) / gigabytes)

    for step in range(1, rounds + 1):
        started = time.perf_counter()
        copies = snapshot.take(tensors)
        clock("copies, which block training", started)
        started = time.perf_counter()
        checkpoints.save(step, copies, {"step": step})
        clock("the writing behind it", started)
        started = time.perf_counter()
        with open(folder / "plain", "wb") as file:
            for tensor in tensors["model"].values():
                file.write(tensor.numpy().data)
            file.flush()
            os.fsync(file.fileno())
        clock("a plain write and fsync", started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shares = step_shares(Path(folder), arguments.steps, arguments.mixed_precision)
        for name, share in shares.items():
            print(f"{name:10} {share:7.2%}")
        rest = 1 - sum(shares[name] for name in WORK)
        print(f"all but forward, backward and step: {rest:.2%} (at most 5 %)")
        for name, values in save_seconds(
            Path(folder), arguments.gigabytes, arguments.rounds
        ).items():
            print(
                f"{name}: {statistics.median(values):.2f} s per GB "
                f"({min(values):.2f} to {max(values):.2f})"
            )


if __name__ == "__main__":
    main()
