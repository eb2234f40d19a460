"""The clips that a report shows, written as a clip store next to the scores."""

import itertools
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.errors import InputError
from video_vq.media.encode import tile, write_animation, write_png
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video

Clip = UInt8[np.ndarray, "t h w 3"]

KIND = "gallery"
SHOWN = 8  # number of clips in a row, and of pairs shown in data order
EXTREMES = 4  # number of best pairs, and of worst pairs
CLASSES = 12
PER_CLASS = 4
SHEET_WIDTH = 96  # approximate width of a clip on a sheet, in pixels
DEFAULT_FPS = 8.0  # for playing clips whose rate is unknown


class Pair(NamedTuple):
    """A real clip and its reconstruction.

    Attributes:
        source: id of the source video, and index of the clip's first frame in this video.
        label: class name; None if the video has no class.
        psnr: peak signal-to-noise ratio in dB; infinite for an exact copy.
    """

    real: Clip
    reconstructed: Clip
    source: tuple[str, int]
    label: str | None
    psnr: float


def places_to_show(psnr: np.ndarray, videos: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of the clips to show, by role: the first, best and worst clips.

    The best clips have the highest PSNR, and the worst clips have the lowest. Each of these two
    roles has at most one clip per video, because neighboring clips look alike.

    Args:
        psnr: PSNR of each clip, in dB.
        videos: id of the source video of each clip.
    """
    order = [int(place) for place in np.argsort(psnr, kind="stable")]
    return {
        "shown": list(range(min(SHOWN, len(psnr)))),
        "best": _of_different_videos(order[::-1], videos),
        "worst": _of_different_videos(order, videos),
    }


def _of_different_videos(order: Sequence[int], videos: Sequence[str]) -> list[int]:
    """Return the first few indices in the given order, at most one per video."""
    firsts: dict[str, int] = {}
    for place in order:
        firsts.setdefault(videos[place], place)
    return list(firsts.values())[:EXTREMES]


class Neighbour(NamedTuple):
    """A sample, the nearest training clip, and their RMS difference in gray levels."""

    sample: Clip
    train: Clip
    distance: float


def some_of_each_class(
    samples: Iterable[tuple[str | None, Callable[[], Clip]]],
) -> dict[str | None, list[Clip]]:
    """Return the first few samples of each of the first few classes, and read no other samples.

    Args:
        samples: class of each sample, with a function that reads the sample.
    """
    shown: dict[str | None, list[Clip]] = {}
    for label, read in samples:
        kept = shown.get(label, [])
        if len(kept) < PER_CLASS and (kept or len(shown) < CLASSES):
            shown[label] = [*kept, read()]
    return shown


class Gallery(NamedTuple):
    """The scored clips that a report shows.

    Attributes:
        pairs: real clips and their reconstructions, by the roles that `places_to_show` returns.
        sampled: a few samples of each class.
        of_class: a few real clips of each class of the samples.
        controls: clips from the controls for the samples, by control name.
        neighbours: the samples nearest to a training clip, each with that clip.
    """

    pairs: Mapping[str, list[Pair]]
    sampled: Mapping[str | None, list[Clip]] = MappingProxyType({})
    of_class: Mapping[str | None, list[Clip]] = MappingProxyType({})
    controls: Mapping[str, Sequence[Clip]] = MappingProxyType({})
    neighbours: Sequence[Neighbour] = ()

    def rows(self) -> dict[str, list[Clip]]:
        """Return the rows of a sheet by name: real clips, reconstructions and samples (if any)."""
        rows = {
            "real": [pair.real for pair in self.pairs["shown"]],
            "reconstructed": [pair.reconstructed for pair in self.pairs["shown"]],
        }
        if self.sampled:
            # The first sample of each class, then the second, because real clips are mixed, too.
            turns = itertools.zip_longest(*self.sampled.values())
            clips = [clip for turn in turns for clip in turn if clip is not None]
            rows["sampled"] = clips[:SHOWN]
        return rows

    def write_sheet(self, out: Path, fps: float | None) -> None:
        """Write an animation, sheet.webp, and a few of its frames below each other, sheet.png."""
        rows = self.rows()
        columns = min(len(row) for row in rows.values())
        clips = [clip for row in rows.values() for clip in row[:columns]]
        labels = [name if column == 0 else "" for name in rows for column in range(columns)]
        # Small frames are enlarged, because the labels would not fit otherwise.
        scale = math.ceil(SHEET_WIDTH / clips[0].shape[2])
        sheet = tile(clips, columns, scale=scale, labels=labels)
        write_animation(out / "sheet.webp", sheet, fps=fps or DEFAULT_FPS)
        quarters = list(sheet[:: max(1, len(sheet) // 4)])
        write_png(out / "sheet.png", np.concatenate(quarters, axis=0))

    def write(self, path: Path, plan: dict[str, Any], fps: float | None) -> None:
        """Write the gallery as a clip store, replacing an earlier gallery.

        Raises:
            InputError: the folder contains a different kind of store.
        """
        frame_size_hw = self.pairs["shown"][0].real.shape[1:3]
        if (path / "manifest.json").exists():
            if ClipStore(path).plan.get("kind") != KIND:
                raise InputError(f"{path}: is already another store; name another --out")
            shutil.rmtree(path)
        elif path.exists():
            shutil.rmtree(path / "parts", ignore_errors=True)
        writer = ClipStoreWriter(path, frame_size_hw, {"kind": KIND, **plan})
        videos = list(self._videos(fps))
        classes = sorted({video.video.label for video in videos if video.video.label is not None})
        writer.write_shard(0, videos)
        writer.finish(1, classes)

    def _videos(self, fps: float | None) -> Iterator[PreparedVideo]:
        pairs = [(role, pair) for role, found in self.pairs.items() for pair in found]
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
        for kind, by_class in (("sampled", self.sampled), ("of-class", self.of_class)):
            shown = [(label, clip) for label, clips in by_class.items() for clip in clips]
            for number, (label, clip) in enumerate(shown):
                yield _entry(f"{kind}-{number:02d}", clip, label, kind, fps, {"role": kind})
        for number, (clip, nearest, distance) in enumerate(self.neighbours):
            origin = {"role": "neighbour", "distance": distance}
            yield _entry(f"near-{number:02d}-sample", clip, None, "near", fps, origin)
            yield _entry(f"near-{number:02d}-train", nearest, None, "train", fps, origin)
        for name, clips in self.controls.items():
            for number, clip in enumerate(clips):
                origin = {"role": "control", "control": name}
                yield _entry(f"{name}-{number:02d}", clip, None, "control", fps, origin)


def _entry(
    name: str, clip: Clip, label: str | None, kind: str, fps: float | None, origin: dict[str, Any]
) -> PreparedVideo:
    video = Video(name, label, "test", name, fps=fps, origin={"kind": kind, **origin})
    return PreparedVideo(video, [clip], {})
