"""FVD of two sets of clips, with all that a reader needs to believe it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from video_vq.errors import InputError
from video_vq.evaluation.features import FeatureSet, features_of
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd import RealFloor, real_floor
from video_vq.metrics.i3d import load_i3d
from video_vq.metrics.protocol import FVDProtocol
from video_vq.metrics.weights import CHECKPOINT

SMALL = 256


class FVDResult(NamedTuple):
    """A Fréchet video distance and what belongs to it.

    Attributes:
        value: the distance.
        num_real, num_fake: clips on either side.
        floor: of real clips against other real clips; None when there is one source video only.
        warnings: what a reader must know before using the number.
    """

    value: float
    num_real: int
    num_fake: int
    floor: RealFloor | None
    warnings: tuple[str, ...]


def compare(real: FeatureSet, fake: FeatureSet, protocol: FVDProtocol) -> FVDResult:
    """Return the FVD of two sets of features under one protocol."""
    warnings = []
    smaller = min(len(real.features), len(fake.features))
    if smaller < 2:
        raise InputError(f"FVD needs at least 2 clips on each side, found {smaller}")
    if smaller < SMALL:
        warnings.append(
            f"N = {smaller} is below {SMALL}: the bias is larger than most differences; compare "
            "only numbers of the same N, and read them against the floor"
        )
    if real.split == "train":
        warnings.append("the reference is a training split: scores against it flatter a model")
    value = frechet_distance(
        Moments.of(np.asarray(real.features)), Moments.of(np.asarray(fake.features)), protocol.ddof
    )
    floor = None
    if len(set(real.groups)) > 1 and len(real.features) >= 4:
        floor = real_floor(np.asarray(real.features), real.groups, protocol.ddof)
    return FVDResult(value, len(real.features), len(fake.features), floor, tuple(warnings))


def fvd_of_paths(
    real_path: Path,
    fake_path: Path,
    protocol: FVDProtocol,
    num_frames: int,
    stride: int,
    split: str | None,
    max_clips: int | None,
) -> dict[str, Any]:
    """Return the FVD of two clip stores or folders of videos, as JSON.

    Args:
        split: of the real set, when it is a clip store.

    Raises:
        InputError: the weights or a side are missing, or nothing can be scored.
    """
    network = load_i3d()
    if torch.cuda.is_available():
        network = network.cuda()
    real = features_of(real_path, network, protocol, num_frames, stride, split, max_clips)
    fake = features_of(fake_path, network, protocol, num_frames, stride, None, max_clips)
    result = compare(real, fake, protocol)
    return {
        "fvd": result.value,
        "floor": None if result.floor is None else result.floor._asdict(),
        "num_real": result.num_real,
        "num_fake": result.num_fake,
        "num_frames": num_frames,
        "frame_stride": stride,
        "protocol": protocol.settings(),
        "network_sha256": CHECKPOINT.sha256,
        "real": {"path": real.name, "data": real.data_hash, "split": real.split},
        "fake": {"path": fake.name, "data": fake.data_hash, "split": fake.split},
        "left_out": {"real": list(real.left_out), "fake": list(fake.left_out)},
        "warnings": list(result.warnings),
    }
