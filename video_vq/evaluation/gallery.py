"""The clips that a report shows, kept as a clip store beside the scores they belong to."""

import heapq
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video

Clip = UInt8[np.ndarray, "t h w 3"]

KIND = "gallery"
SHOWN = 8  # clips of a row, and pairs shown as they come
EXTREMES = 4  # best and worst pairs
CLASSES = 12
PER_CLASS = 4


class Pair(NamedTuple):
    """A real clip and its reconstruction.

    Attributes:
        source: the video's id in the data, and the clip's first frame there.
        label: class name.
        psnr: in dB; infinite for an exact copy.
    """

    real: Clip
    reconstructed: Clip
    source: tuple[str, int]
    label: str | None
    psnr: float


class Gallery:
    """Keeps, out of all clips that are scored, those that a person will look at."""

    def __init__(self) -> None:
        self._first: list[Pair] = []
        self._best: list[tuple[float, int, Pair]] = []
        self._worst: list[tuple[float, int, Pair]] = []
        self._number = itertools.count()
        self._sampled: dict[str | None, list[Clip]] = {}
        self._controls: dict[str, Sequence[Clip]] = {}

    def add_pair(self, pair: Pair) -> None:
        """Look at one scored pair; the first, the best and the worst ones are kept."""
        number = next(self._number)
        if len(self._first) < SHOWN:
            self._first.append(pair)
        _keep_largest(self._best, (pair.psnr, -number, pair))
        _keep_largest(self._worst, (-pair.psnr, -number, pair))

    def add_sample(self, label: str | None, clip: Callable[[], Clip]) -> None:
        """Look at one sample of a class; of each class the first few are read and kept."""
        kept = self._sampled.get(label, [])
        if len(kept) < PER_CLASS and (kept or len(self._sampled) < CLASSES):
            self._sampled[label] = [*kept, clip()]

    def add_control(self, name: str, clips: Sequence[Clip]) -> None:
        """Add clips that the samples are compared with."""
        self._controls[name] = clips[:SHOWN]

    def rows(self) -> dict[str, list[Clip]]:
        """Return a row of clips for each of real, reconstructed and sampled, for a sheet."""
        rows = {
            "real": [pair.real for pair in self._first],
            "reconstructed": [pair.reconstructed for pair in self._first],
        }
        if self._sampled:
            # One of each class, then a second of each, as the real clips mix their classes.
            turns = itertools.zip_longest(*self._sampled.values())
            clips = [clip for turn in turns for clip in turn if clip is not None]
            rows["sampled"] = clips[:SHOWN]
        return rows

    def write(self, path: Path, plan: dict[str, Any], fps: float | None) -> None:
        """Write the store, in place of an earlier gallery.

        Raises:
            InputError: the folder holds something else.
        """
        frame_size_hw = self._first[0].real.shape[1:3]
        if (path / "manifest.json").exists():
            if ClipStore(path).plan.get("kind") != KIND:
                raise InputError(f"{path}: is a store of its own; name another --out")
            shutil.rmtree(path)
        elif path.exists():
            shutil.rmtree(path / "parts", ignore_errors=True)
        writer = ClipStoreWriter(path, frame_size_hw, {"kind": KIND, **plan})
        videos = list(self._videos(fps))
        classes = sorted({video.video.label for video in videos if video.video.label is not None})
        writer.write_shard(0, videos)
        writer.finish(1, classes)

    def _videos(self, fps: float | None) -> Iterator[PreparedVideo]:
        pairs = [("shown", pair) for pair in self._first]
        pairs += [("best", pair) for _, _, pair in sorted(self._best, reverse=True)]
        pairs += [("worst", pair) for _, _, pair in sorted(self._worst, reverse=True)]
        for number, (role, pair) in enumerate(pairs):
            video, start = pair.source
            origin = {
                "role": role,
                "video": video,
                "start": start,
                "psnr": pair.psnr if np.isfinite(pair.psnr) else None,
            }
            for kind, clip in (("real", pair.real), ("reconstructed", pair.reconstructed)):
                yield _entry(f"{role}-{number:02d}-{kind}", clip, pair.label, kind, fps, origin)
        sampled = [(label, clip) for label, clips in self._sampled.items() for clip in clips]
        for number, (label, clip) in enumerate(sampled):
            yield _entry(f"sampled-{number:02d}", clip, label, "sampled", fps, {"role": "sampled"})
        for name, clips in self._controls.items():
            for number, clip in enumerate(clips):
                origin = {"role": "control", "control": name}
                yield _entry(f"{name}-{number:02d}", clip, None, "control", fps, origin)


def _keep_largest(heap: list[tuple[float, int, Pair]], entry: tuple[float, int, Pair]) -> None:
    if len(heap) < EXTREMES:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _entry(
    name: str,
    clip: Clip,
    label: str | None,
    kind: str,
    fps: float | None,
    origin: dict[str, Any],
) -> PreparedVideo:
    video = Video(name, label, "test", name, fps=fps, origin={"kind": kind, **origin})
    return PreparedVideo(video, [clip], {})
