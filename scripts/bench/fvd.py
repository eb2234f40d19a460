"""Measures the overhead of `video-vq fvd` over the forward passes of its network.

`python scripts/bench/fvd.py FOLDER [--clips 24]` prints times relative to those of the forward
passes in the same run: the CPU time and the wall time of computing the features of the folder's
videos, with the network and the decoding on one thread each; the CPU time of reading these features
from the cache; and the CPU time of only decoding the same frames, without conversion to RGB.
"""

import argparse
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import av
import torch
from torch import nn

from video_vq.evaluation.feature_network import load_feature_network
from video_vq.evaluation.features import FeatureSet
from video_vq.evaluation.fvd_comparison import FVDComparison
from video_vq.evaluation.scored_clip import Cut
from video_vq.metrics.protocol import DEFAULT_PROTOCOL

CUT = Cut(16)


class Timed(nn.Module):
    """A network that sums the CPU and wall time of its forward passes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.cpu_seconds, self.wall_seconds = network, 0.0, 0.0

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Run the network; add only this thread's CPU time, since another thread decodes."""
        cpu, wall = time.thread_time(), time.perf_counter()
        features = self.network(video)
        self.cpu_seconds += time.thread_time() - cpu
        self.wall_seconds += time.perf_counter() - wall
        return features


def decode_bare(folder: Path, found: FeatureSet) -> float:
    """Return the CPU time of decoding the frames that were scored, with one thread."""
    started = time.process_time()
    for name in found.groups:
        with av.open(str(folder / name)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for _ in islice(container.decode(stream), CUT.num_frames):
                pass
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    i3d = load_feature_network(None, "cpu")
    shares: dict[str, list[float]] = {}
    scored = ""
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            timed = Timed(i3d.module)
            comparison = FVDComparison(
                i3d._replace(module=timed),
                [DEFAULT_PROTOCOL],
                CUT,
                arguments.clips,
                cache=Path(cache),
            )
            cpu, wall = time.process_time(), time.perf_counter()
            found = comparison.read(arguments.folder)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            started = time.process_time()
            comparison.read(arguments.folder)
            again = time.process_time() - started
        for name, share in (
            ("from an empty cache", cpu / timed.cpu_seconds),
            (
                "  of it decoding by the bare PyAV loop",
                decode_bare(arguments.folder, found) / timed.cpu_seconds,
            ),
            ("from an empty cache, wall time", wall / timed.wall_seconds),
            ("from the cache", again / timed.cpu_seconds),
        ):
            shares.setdefault(name, []).append(share)
        scored = f"{found.num_clips} clips: {', '.join(found.kinds)}"
    print(scored)
    for name, values in shares.items():
        print(
            f"{name}: {statistics.median(values):.3f} of the network's forward "
            f"({min(values):.3f} to {max(values):.3f}, {arguments.rounds} rounds)"
        )


if __name__ == "__main__":
    main()
