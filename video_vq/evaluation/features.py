"""Features of clip stores and of plain folders of videos, with what was left out and why."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from video_vq.data.loader import read_windows
from video_vq.data.windows import Window, scoring_windows
from video_vq.errors import InputError
from video_vq.media.decode import Decoder, FrameStream
from video_vq.media.probe import probe
from video_vq.metrics.fvd import clip_features
from video_vq.metrics.protocol import FVDProtocol
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import sha256_file, sha256_json
from video_vq.stores.shards import MANIFEST, PARTS

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".gif")


class FeatureSet(NamedTuple):
    """One side of a comparison.

    Attributes:
        name: what was read.
        features: one row per clip.
        groups: each clip's source video (or group of near-duplicates).
        left_out: a line per video that could not be used.
        data_hash: sha256 of the data that was scored.
        split: which split, None for a plain folder.
    """

    name: str
    features: Float32[np.ndarray, "n d"]
    groups: tuple[str, ...]
    left_out: tuple[str, ...]
    data_hash: str
    split: str | None


def features_of(
    path: Path,
    network: nn.Module,
    protocol: FVDProtocol,
    num_frames: int,
    stride: int,
    split: str | None = None,
    max_clips: int | None = None,
    seed: int = 0,
) -> FeatureSet:
    """Return the features of a clip store, or of a folder of videos of anybody's model.

    Of a store, clips are drawn as `scoring_windows` says; of a video file, its first frames.

    Args:
        split: of a store; None for test when there is one, else all.
        max_clips: use no more than this many.

    Raises:
        InputError: there is nothing to score.
    """
    if (path / MANIFEST).exists() or (path / PARTS).exists():
        store = ClipStore(path)
        if split is None and any(video.split == "test" for video in store.videos):
            split = "test"
        windows = scoring_windows(store, split, num_frames, stride, max_clips, seed)
        return store_features(store, windows, network, protocol, str(path), split)
    return _folder_features(path, network, protocol, num_frames, stride, max_clips, seed)


def store_features(
    store: ClipStore,
    windows: Sequence[Window],
    network: nn.Module,
    protocol: FVDProtocol,
    name: str,
    split: str | None,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> FeatureSet:
    """Return the features of clips of a store.

    Args:
        transform: maps a batch of uint8 clips to the clips that are scored instead.
    """
    rows = []
    with progress(f"I3D {name}", len(windows), "clip") as bar:
        for start in range(0, len(windows), BATCH):
            clips = read_windows(store, list(windows[start : start + BATCH]))
            if transform is not None:
                clips = transform(clips)
            rows.append(clip_features(clips, network, protocol).cpu().numpy())
            bar.update(len(clips))
    groups = tuple(store.videos[window.video].group for window in windows)
    data_hash = sha256_json([store.content_hash, [list(window) for window in windows]])
    return FeatureSet(name, np.concatenate(rows), groups, (), data_hash, split)


BATCH = 8


def _folder_features(
    path: Path,
    network: nn.Module,
    protocol: FVDProtocol,
    num_frames: int,
    stride: int,
    max_clips: int | None,
    seed: int,
) -> FeatureSet:
    if not path.is_dir():
        raise InputError(f"{path}: neither a clip store nor a folder of videos")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file() and not file.is_symlink()
    )
    if not files:
        raise InputError(
            f"{path}: holds no videos ({', '.join(VIDEO_SUFFIXES)}) and is no clip store"
        )
    if max_clips is not None:  # sorted by class, the first ones would be one class
        order = np.random.default_rng([seed, 0xF7D]).permutation(len(files))
        files = [files[place] for place in order]
    rows, names, hashes, left_out = [], [], [], []
    with progress(f"I3D {path}", len(files), "video") as bar:
        for file in files:
            if max_clips is not None and len(rows) == max_clips:
                break
            try:
                clip = read_clip(file, num_frames, stride)
                rows.append(clip_features(clip, network, protocol).cpu().numpy())
                names.append(str(file.relative_to(path)))
                hashes.append(sha256_file(file))
            except InputError as error:
                left_out.append(str(error))
            bar.update()
    if not rows:
        listed = "\n  ".join(left_out[:10])
        raise InputError(f"{path}: none of its {len(files)} videos can be scored:\n  {listed}")
    data_hash = sha256_json([hashes, num_frames, stride])
    return FeatureSet(
        str(path), np.concatenate(rows), tuple(names), tuple(left_out), data_hash, None
    )


def read_clip(file: Path, num_frames: int, stride: int, decoder: Decoder = "pyav") -> torch.Tensor:
    """Return the first clip of a video file as uint8 1 t h w 3.

    Raises:
        InputError: it cannot be read, or is shorter than a clip.
    """
    needed = (num_frames - 1) * stride + 1
    frames = []
    for number, frame in enumerate(FrameStream(probe(file), decoder)):
        if number % stride == 0:
            frames.append(frame)
        if len(frames) == num_frames:
            return torch.from_numpy(np.stack(frames)).unsqueeze(0)
    raise InputError(
        f"{file}: is shorter than a clip of {needed} frames "
        f"({num_frames} at stride {stride}); lower --frames or --stride"
    )
