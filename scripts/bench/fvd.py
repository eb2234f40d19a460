"""Share of `video-vq fvd` that is not the network: decoding, resizing, hashing, statistics.

python scripts/bench/fvd.py FOLDER [--clips 24]: CPU time of one thread, features of the folder's
videos from an empty cache, against the network's own forwards in the same run; then once more from
the cache.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from video_vq.evaluation.compare import Comparison
from video_vq.evaluation.feature_network import load_feature_network
from video_vq.evaluation.source_clip import Cut
from video_vq.metrics.protocol import DEFAULT_PROTOCOL


class Timed(nn.Module):
    """A network that adds up the CPU time of its forwards."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Run the network on the clock."""
        started = time.process_time()
        features = self.network(video)
        self.seconds += time.process_time() - started
        return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    i3d = load_feature_network(None, "cpu")
    ratios, cached, scored = [], [], ""
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            timed = Timed(i3d.module)
            network = i3d._replace(module=timed)
            comparison = Comparison(
                network, [DEFAULT_PROTOCOL], Cut(16), arguments.clips, cache=Path(cache)
            )
            started = time.process_time()
            found = comparison.read(arguments.folder)
            ratios.append((time.process_time() - started) / timed.seconds)
            scored = f"{found.num_clips} clips: {', '.join(found.kinds)}"
            started = time.process_time()
            comparison.read(arguments.folder)
            cached.append((time.process_time() - started) / timed.seconds)
    print(scored)
    for name, values in (("from an empty cache", ratios), ("from the cache", cached)):
        low, high = min(values), max(values)
        print(
            f"{name}: {statistics.median(values):.3f} of the network's forward "
            f"({low:.3f} to {high:.3f}, {arguments.rounds} rounds)"
        )


if __name__ == "__main__":
    main()
