"""Sensitivity of scores to motion: the distance between clips and distorted copies of them.

A motion-sensitive score is as far from 0 for distorted motion as for distorted images. Both sides
contain the same clips, so sampling adds almost nothing to the Fréchet distance. KVD is omitted,
because it assumes that both sides are independent.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.evaluation.features import Extractor, FeatureSet, Rows
from video_vq.evaluation.fvd_comparison import (
    SMALL,
    FVDComparison,
    compare,
    is_saved,
    jedi_of,
    warnings_of_previews,
    warnings_of_side,
)
from video_vq.evaluation.scored_clip import ReadClip
from video_vq.metrics.protocol import FVDProtocol

Frames = Float[Tensor, "t 224 224 3"]
# Maps frames, which are already network input, and the clip's seed to the frames to score instead.
Change = Callable[[Frames, int], Frames]

BLUR = 7  # side of the square over which blurring averages, in pixels of a 224 x 224 frame


def frozen(frames: Frames, seed: int) -> Frames:
    """Replace every frame with the first frame."""
    return frames[:1].expand_as(frames)


def shuffled(frames: Frames, seed: int) -> Frames:
    """Shuffle the frames, using the clip's seed."""
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))
    return frames[order.to(frames.device)]


def backwards(frames: Frames, seed: int) -> Frames:
    """Reverse the order of the frames."""
    return frames.flip(0)


def slowed(frames: Frames, seed: int) -> Frames:
    """Play the first half at half speed, by repeating each frame once."""
    return frames.repeat_interleave(2, 0)[: len(frames)]


def blurred(frames: Frames, seed: int) -> Frames:
    """Blur each frame without changing the motion."""
    pictures = rearrange(frames, "t h w c -> t c h w")
    means = F.avg_pool2d(F.pad(pictures, [BLUR // 2] * 4, "replicate"), BLUR, stride=1)
    return rearrange(means, "t c h w -> t h w c")


CHANGES: dict[str, tuple[str, Change]] = {
    "frozen": ("frozen at the first frame", frozen),
    "shuffled": ("frames shuffled", shuffled),
    "backwards": ("played backwards", backwards),
    "slowed": ("at half speed", slowed),
    "blurred": ("each frame blurred, motion kept", blurred),
}


class ChangedExtractor(Extractor):
    """An extractor that changes clips before use, and caches the features under separate keys.

    Args:
        extractor: extractor for the unchanged clips, whose caches are shared.
        name: name of the change, a key of `CHANGES`.
    """

    def __init__(self, extractor: Extractor, name: str):
        self.__dict__.update(extractor.__dict__)
        self._name = name
        self._change = CHANGES[name][1]

    def missing(self, key: bytes) -> list[FVDProtocol]:
        """Return one protocol per preparation for which the changed clip has no cached features."""
        return super().missing(self._named(key))

    def __call__(self, keys: Sequence[bytes], clips: Sequence[ReadClip | None]) -> Rows:
        """Return the features of the changed clips; see `Extractor`."""
        changed = [
            None if clip is None else self._changed(key, clip)
            for key, clip in zip(keys, clips, strict=True)
        ]
        return super().__call__([self._named(key) for key in keys], changed)

    def _named(self, key: bytes) -> bytes:
        return hashlib.sha256(key + self._name.encode()).digest()

    def _changed(self, key: bytes, clip: ReadClip) -> ReadClip:
        seed, change = int.from_bytes(key[:6], "little"), self._change
        return lambda protocol, device: change(clip(protocol, device), seed)


def sanity(comparison: FVDComparison, path: Path, split: str | None) -> dict[str, Any]:
    """Return the distance between the original and the changed clips for each change, as JSON.

    All ranks must call this function.

    Args:
        comparison: comparison that provides the network, the protocols and the clip settings.
        path: path of a clip store or a folder of videos.
        split: split of the clip store; see `features_of`.

    Raises:
        InputError: there are fewer than 2 clips to score, or the path is a feature file.
    """
    if is_saved(path):
        raise InputError(f"{path}: holds features, whose clips cannot be changed; name the videos")
    real = comparison.read(path, split)
    after = copy.copy(comparison)
    sets = {}
    for name in CHANGES:
        after.extractor = ChangedExtractor(comparison.extractor, name)
        sets[name] = after.read(path, split)
    under = []
    for protocol in comparison.protocols:
        results = {name: compare(real, fake, protocol) for name, fake in sets.items()}
        floor = results["frozen"].floor
        under.append(
            {
                "settings": protocol.settings(),
                "floor": None if floor is None else floor._asdict(),
                "changes": [
                    {
                        "name": name,
                        "title": CHANGES[name][0],
                        "fvd": result.value,
                        **jedi_of(comparison.network, real, sets[name], protocol),
                    }
                    for name, result in results.items()
                ],
            }
        )
    return {
        "real": real.name,
        "num_clips": real.num_clips,
        "num_frames": comparison.cut.num_frames,
        "network": {"name": comparison.network.name, "sha256": comparison.network.sha256},
        "protocols": under,
        "warnings": _warnings(real),
        "left_out": list(real.left_out),
    }


def _warnings(real: FeatureSet) -> list[str]:
    found = [*warnings_of_side(real), *warnings_of_previews(real)]
    if real.num_clips < SMALL:
        found.append(
            f"N = {real.num_clips} is below {SMALL}: these distances depend on N; compare them "
            "with each other, and with those of other videos only at the same N"
        )
    return sorted(found)
