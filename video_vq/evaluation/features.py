"""Features of clip stores and plain video folders, with a record of the skipped videos.

Each clip passes through the network only once: features are cached under a hash of the clip's
content. A killed run therefore resumes where it stopped, and scoring a second model requires only
the features of that model's clips.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Float32

from video_vq.data.windows import Window, read_window, scoring_windows
from video_vq.errors import InputError
from video_vq.evaluation.feature_cache import FeatureCache
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.evaluation.scored_clip import (
    Clip,
    Cut,
    ReadClip,
    ScoredClip,
    clip_at_hand,
    clip_of_video,
)
from video_vq.media.folder import FolderSettings, VideoFolder, list_videos
from video_vq.media.reading import USUAL, Reading
from video_vq.metrics.fvd import device_of, input_features, usual_batch_size
from video_vq.metrics.protocol import FVDProtocol
from video_vq.metrics.resize import network_layout
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import sha256_json
from video_vq.stores.shards import MANIFEST, PARTS

BATCH = 8

Rows = dict[str, Float32[np.ndarray, "n d"]]


class FeatureSet(NamedTuple):
    """The features of one side of a comparison.

    Attributes:
        name: path or name of the source.
        rows: one feature vector per clip, for each preparation (`FVDProtocol.preparation`).
        groups: source video (or group of near-duplicates) of each clip.
        left_out: one message for each video that was skipped because it could not be used.
        data_hash: SHA-256 over the contents of the scored clips; see `ScoredClip.data_hash`.
        split: split of the clips; None for a plain folder, or for all splits of a store.
        kinds: number of clips for each frame size and frame rate.
        simulated: simulator that made the videos; None if the videos are not labeled as simulated.
        notes: remarks for the user on how the videos were read.
    """

    name: str
    rows: Rows
    groups: tuple[str, ...]
    left_out: tuple[str, ...]
    data_hash: str
    split: str | None
    kinds: dict[str, int]
    simulated: str | None = None
    notes: tuple[str, ...] = ()

    def of(self, protocol: FVDProtocol) -> Float32[np.ndarray, "n d"]:
        """Return the features under one protocol."""
        return self.rows[protocol.preparation]

    @property
    def num_clips(self) -> int:
        """Return the number of scored clips."""
        return len(self.groups)


class Extractor:
    """A feature extractor for all preparations that the given protocols require.

    Args:
        protocols: FVD protocols; protocols with the same preparation share the features.
        cache: parent folder of all feature caches; None for the default folder.

    Raises:
        InputError: a protocol does not suit the network, or the cache cannot be used.
    """

    def __init__(
        self, network: FeatureNetwork, protocols: Sequence[FVDProtocol], cache: Path | None = None
    ):
        network.require(protocols)
        self.network = network
        self._protocols = {protocol.preparation: protocol for protocol in protocols}
        self._caches = {
            name: FeatureCache(network.cache_settings(protocol), network.num_features, cache)
            for name, protocol in self._protocols.items()
        }
        self.num_computed = 0

    def missing(self, key: bytes) -> list[FVDProtocol]:
        """Return one protocol per preparation for which the clip's features are not cached."""
        return [
            protocol
            for name, protocol in self._protocols.items()
            if self._caches[name].get(key) is None
        ]

    def __call__(self, keys: Sequence[bytes], clips: Sequence[ReadClip | None]) -> Rows:
        """Return the features of clips; features that are not cached are computed and cached.

        Args:
            keys: key of each clip; see `ScoredClip`.
            clips: clips of equal length; None for a clip if all its features are cached.
        """
        if not keys:
            return {}
        at_hand = {key: clip for key, clip in zip(keys, clips, strict=True) if clip is not None}
        rows: Rows = {}
        for name, protocol in self._protocols.items():
            cache = self._caches[name]
            missing = list({key: None for key in keys if cache.get(key) is None})
            if missing:
                found = self._compute([at_hand[key] for key in missing], protocol)
                cache.add(missing, found.cpu().numpy())
                self.num_computed += len(missing)
            rows[name] = np.stack([_known(cache, key) for key in keys])
        return rows

    def _compute(
        self, clips: Sequence[ReadClip], protocol: FVDProtocol
    ) -> Float[torch.Tensor, "n d"]:
        network = self.network.module
        device = device_of(network)
        step = usual_batch_size(device)
        batches = (
            network_layout(
                torch.stack([clip(protocol, device) for clip in clips[start : start + step]]),
                protocol,
            )
            for start in range(0, len(clips), step)
        )
        return input_features(batches, network)


def _known(cache: FeatureCache, key: bytes) -> Float32[np.ndarray, " d"]:
    found = cache.get(key)
    assert found is not None  # the caller has added missing features
    return found


class _Source(NamedTuple):
    """Clips that are opened and read one by one; opening or reading a clip may fail.

    Attributes:
        open: function from a clip's index to the clip.
        left_out: one message for each video that is already known to be unreadable.
        notes: remarks on how the videos were read; see `FeatureSet`.
        order: rank of each clip in file order, the fastest order for reading; None to read the
            clips in the given order.
    """

    name: str
    split: str | None
    groups: tuple[str, ...]
    open: Callable[[int], ScoredClip]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    order: Sequence[int] | None = None


class _Scored(NamedTuple):
    place: int
    data_hash: str
    rows: dict[str, np.ndarray]
    kind: str
    reason: str


def features_of(
    path: Path,
    extractor: Extractor,
    cut: Cut,
    split: str | None = None,
    max_clips: int | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    reading: Reading = USUAL,
) -> FeatureSet:
    """Return the features of the clips in a clip store, a folder of videos or an array file.

    `scoring_windows` chooses the clips of a clip store; other videos contribute their first clip.

    Args:
        split: split of a clip store; None for the test split, or for all videos if there is no test
            split.
        max_clips: maximum number of clips, drawn at random with the seed; None for all clips.
        accelerator: accelerator whose ranks divide the clips among themselves; every rank gets all
            features. None for a single process.
        reading: settings for reading frame folders and arrays.

    Raises:
        InputError: no clip can be scored, or a clip store has a frame rate other than `cut.fps`.
    """
    store = _store(path, cut)
    if store is not None:
        split = _split_of(store, split)
        windows = scoring_windows(store, split, cut.num_frames, cut.stride, max_clips, seed)
        return store_features(store, windows, extractor, str(path), split, accelerator)
    source = _folder_source(path, cut, None if max_clips is None else seed, reading)
    return _score(source, extractor, max_clips, accelerator)


class ClipCount(NamedTuple):
    """The number of clips, and whether any clips come from frame folders or from arrays."""

    num_clips: int
    has_frames: bool = False
    has_arrays: bool = False


def count_clips(path: Path, cut: Cut, split: str | None, reading: Reading = USUAL) -> ClipCount:
    """Return the number of clips that `features_of` would try to score without `max_clips`.

    Raises:
        InputError: the path is neither a folder of videos nor a clip store with the requested frame
            rate, the split is empty, or all videos in the split are too short.
    """
    store = _store(path, cut)
    if store is None:
        found = _listed(path, cut, reading)
        return ClipCount(len(found.videos), found.has_frames, found.has_arrays)
    windows = scoring_windows(
        store, _split_of(store, split), cut.num_frames, cut.stride, None, seed=0
    )
    return ClipCount(len(windows))


def _split_of(store: ClipStore, split: str | None) -> str | None:
    if split is None and any(video.split == "test" for video in store.videos):
        return "test"
    return split


def _store(path: Path, cut: Cut) -> ClipStore | None:
    if not (path / MANIFEST).exists() and not (path / PARTS).exists():
        return None
    store = ClipStore(path)
    if cut.fps is not None and any(video.fps != cut.fps for video in store.videos):
        raise InputError(
            f"{path}: a clip store keeps its frame rate; prepare it with `--fps {cut.fps:g}`, "
            "or score the folder of videos"
        )
    return store


def store_features(
    store: ClipStore,
    windows: Sequence[Window],
    extractor: Extractor,
    name: str,
    split: str | None,
    accelerator: Accelerator | None = None,
    transform: Callable[[Clip], Clip] = lambda clip: clip,
) -> FeatureSet:
    """Return the features of the given windows of a clip store.

    Args:
        name: name of the feature set.
        split: split that is recorded in the feature set.
        transform: function from each clip to the clip that is scored instead.
    """

    def open_clip(place: int) -> ScoredClip:
        window = windows[place]
        clip = read_window(store, window)
        fps = store.videos[window.video].fps
        return clip_at_hand(transform(clip), None if fps is None else fps / window.stride)

    groups = tuple(store.videos[window.video].group for window in windows)
    found = _score(_Source(name, split, groups, open_clip), extractor, None, accelerator)
    return found._replace(simulated=store.simulated)


def clip_features_of(
    name: str, clips: Sequence[Clip], extractor: Extractor, accelerator: Accelerator | None = None
) -> FeatureSet:
    """Return the features of clips in memory, each of which counts as one video."""
    groups = tuple(f"{name} {number}" for number in range(len(clips)))
    source = _Source(name, None, groups, lambda place: clip_at_hand(clips[place], None))
    return _score(source, extractor, None, accelerator)


def _listed(path: Path, cut: Cut, reading: Reading) -> VideoFolder:
    settings = FolderSettings(reading=reading, stand_in_fps=cut.fps, is_only_place=False)
    return list_videos(path, settings)


def _folder_source(path: Path, cut: Cut, seed: int | None, reading: Reading) -> _Source:
    found = _listed(path, cut, reading)
    videos = sorted(found.videos, key=lambda video: Path(video.name.partition("#")[0]))
    order = None
    if seed is not None:  # in sorted order, the first clips may all share a class
        order = np.random.default_rng([seed, 0xF7D]).permutation(len(videos)).tolist()
        videos = [videos[place] for place in order]

    def open_clip(place: int) -> ScoredClip:
        return clip_of_video(found.root / videos[place].name, cut, found.reading)

    names = tuple(video.name for video in videos)
    left_out = tuple(f"{found.root / name}: {reason}" for name, reason in found.left_out)
    return _Source(str(path), None, names, open_clip, left_out, found.notes, order)


def _score(
    source: _Source, extractor: Extractor, max_clips: int | None, accelerator: Accelerator | None
) -> FeatureSet:
    """Return the features of a source's clips, at most `max_clips`.

    Unusable clips are replaced with later clips of the source, as long as any remain.
    """
    scored: list[_Scored] = []
    done, total = 0, len(source.groups)
    wanted = total if max_clips is None else max_clips
    while done < total and (missing := wanted - sum(not one.reason for one in scored)) > 0:
        places = range(done, min(done + missing, total))
        scored += _score_round(source, places, extractor, accelerator)
        done = places.stop
    good = [one for one in scored if not one.reason]
    left_out = (*source.left_out, *(one.reason for one in scored if one.reason))
    if not good:
        listed = "\n  ".join(left_out[:10])
        raise InputError(f"{source.name}: none of its {total} videos can be scored:\n  {listed}")
    names = good[0].rows
    return FeatureSet(
        source.name,
        {name: np.stack([one.rows[name] for one in good]) for name in names},
        tuple(source.groups[one.place] for one in good),
        left_out,
        sha256_json([one.data_hash for one in good]),
        source.split,
        dict(Counter(one.kind for one in good).most_common()),
        notes=source.notes,
    )


def _score_round(
    source: _Source, places: range, extractor: Extractor, accelerator: Accelerator | None
) -> list[_Scored]:
    rank, ranks = (0, 1)
    if accelerator is not None:
        rank, ranks = accelerator.process_index, accelerator.num_processes
    # A packed array is unpacked only once if its clips are read one after another.
    ordered = places if source.order is None else sorted(places, key=source.order.__getitem__)
    mine = ordered[rank::ranks]
    scored: list[_Scored] = []
    with progress(f"features of {source.name}", len(mine), "clip") as bar:
        clips = _read_ahead(source, mine, extractor)
        while batch := list(islice(clips, BATCH)):
            good = [one for one in batch if isinstance(one, _Readable)]
            rows = extractor([one.key for one in good], [one.read for one in good])
            for row, one in enumerate(good):
                own = {name: values[row] for name, values in rows.items()}
                scored.append(_Scored(one.place, one.data_hash, own, one.kind, ""))
            scored += [one for one in batch if isinstance(one, _Scored)]
            bar.update(len(batch))
    if ranks > 1:
        scored = gather_object(scored)
    return sorted(scored, key=lambda one: one.place)


class _Readable(NamedTuple):
    """A clip that was opened and, unless its features are cached, read."""

    place: int
    key: bytes
    data_hash: str
    kind: str
    read: ReadClip | None


def _read_ahead(
    source: _Source, places: Sequence[int], extractor: Extractor
) -> Iterator[_Readable | _Scored]:
    """Yield clips that a thread reads one batch ahead; yield the reason if a clip is unreadable."""

    def read(place: int) -> _Readable | _Scored:
        try:
            clip = source.open(place)
            missing = extractor.missing(clip.key)
            read = clip.read(missing) if missing else None
            return _Readable(place, clip.key, clip.data_hash, clip.kind(), read)
        except InputError as error:
            return _Scored(place, "", {}, "", str(error))

    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(read, place) for place in places[:BATCH]]
        for place in [*places[BATCH:], *[None] * len(waiting)]:
            yield waiting.pop(0).result()
            if place is not None:
                waiting.append(reader.submit(read, place))
