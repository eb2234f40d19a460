"""Features of clips by a frozen network, and the FVD between halves of the real clips."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.protocol import DEFAULT_PROTOCOL, FVDProtocol
from video_vq.metrics.resize import checked_clips, resized
from video_vq.nn.inputs import Clips, as_tensor
from video_vq.nn.precision import exact_float32

# A 16 x 224 x 224 clip takes about 130 MB; on a CPU, larger batches do not fit into the caches.
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 2, 16


def clip_features(
    clips: Clips,
    network: nn.Module,
    protocol: FVDProtocol = DEFAULT_PROTOCOL,
    batch_size: int | None = None,
) -> Float[Tensor, "n d"]:
    """Return one float32 feature vector per clip, on the network's device.

    Features are computed in plain float32 and without gradients, regardless of autocast and TF32
    settings. The network is set to eval mode and stays in that mode.

    Args:
        clips: RGB in 0..255; see `network_input`. The range is checked over all clips together.
        network: module that maps b 3 t 224 224 in [-1, 1] to b d; `load_i3d()` for FVD.
        protocol: FVD protocol, which determines how clips are resized and scaled.
        batch_size: number of clips per forward pass; None for the device's default. The batch size
            affects memory and time, but not the result (up to 1e-6).

    Raises:
        InputError: there are no clips, the protocol or the network does not support the clips, or
            the network does not return one finite vector per clip.
    """
    given = as_tensor(clips, "clips")
    if given.shape[:1] == (0,):
        raise InputError("FVD needs at least one clip, found none")
    checked = checked_clips(given, protocol)
    device = device_of(network)
    step = batch_size or usual_batch_size(device)
    return input_features(
        (
            resized(checked[start : start + step].to(device), protocol)
            for start in range(0, len(checked), step)
        ),
        network,
    )


def input_features(
    batches: Iterable[Float[Tensor, "b c t 224 224"]], network: nn.Module
) -> Float[Tensor, "n d"]:
    """Return the features of clips that were converted to network input; see `clip_features`.

    Args:
        batches: batches of clips as returned by `network_input`, requested one at a time.
        network: feature network, as for `clip_features`.

    Raises:
        InputError: there are no batches, the network does not support the clips, or the network
            does not return one finite vector per clip.
    """
    network.eval()
    found = []
    with torch.no_grad(), exact_float32(device_of(network)):
        for batch in batches:
            features = network(batch)
            _check_features(features, len(batch), network)
            found.append(features.to(torch.float32))
    if not found:
        raise InputError("FVD needs at least one clip, found none")
    return torch.cat(found)


def usual_batch_size(device: torch.device) -> int:
    """Return the default number of clips per forward pass on a device."""
    return CPU_BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE


def device_of(network: nn.Module) -> torch.device:
    """Return a network's device, or the CPU if the network has no tensors."""
    tensors = (*network.parameters(), *network.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _check_features(features: Tensor, num_clips: int, network: nn.Module) -> None:
    if features.ndim != 2 or len(features) != num_clips:
        raise InputError(
            f"the feature network {type(network).__name__} must return {num_clips} x d features "
            f"for {num_clips} clips, found {tuple(features.shape)}"
        )
    if not bool(torch.isfinite(features).all()):
        raise InputError(
            f"the feature network {type(network).__name__} returned NaN or infinity for some clip"
        )


class RealFloor(NamedTuple):
    """FVD between two disjoint halves of the real set, and the number of clips in each half."""

    distance: float
    num_clips: int


def real_floor(features: Float[np.ndarray, "n d"], groups: Sequence[str], ddof: int) -> RealFloor:
    """Return the FVD between two disjoint halves of the real clips, and the size of each half.

    A perfect model would reach this score with as many clips as one half, so compare the scores of
    models with this floor.

    Args:
        features: features of all real clips.
        groups: source video (or group of near-duplicates) of each clip; clips of one group go into
            the same half. The halves depend on the names and sizes of the groups, not on the order
            of the clips.
        ddof: 0 or 1; see `FVDProtocol`.

    Raises:
        InputError: there are fewer than two groups, or too few clips for ddof.
        ValueError: the numbers of groups and features differ.
    """
    if len(groups) != len(features):
        raise ValueError(f"{len(groups)} groups for {len(features)} clips")
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        raise InputError(
            f"the real-against-real floor needs clips of at least two source videos, "
            f"found {len(members)}"
        )
    halves: tuple[list[int], list[int]] = ([], [])
    hashes = {name: hashlib.sha256(name.encode()).digest() for name in members}
    for group in sorted(members, key=lambda name: (-len(members[name]), hashes[name])):
        min(halves, key=len).extend(members[group])
    size = min(len(half) for half in halves)
    first, second = (Moments.of(features[half[:size]]) for half in halves)
    return RealFloor(frechet_distance(first, second, ddof), size)
