"""The list of raw videos, with the recipe for making their frames, but without pixels.

It is a folder with a manifest, like the stores. `data-prep … --list-only` writes it, or `video-vq
encode` itself for a plain folder of videos; `encode` decodes the listed videos if there are too
many pixels to keep.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from video_vq.errors import InputError
from video_vq.stores.files import sha256_json
from video_vq.stores.lock import held
from video_vq.stores.shards import ShardFolder, read_manifest
from video_vq.stores.videos import Skipped

# About 64 shards keep many workers busy; losing one of more than 128 videos costs too much.
USUAL_SHARDS, MAX_VIDEOS_PER_SHARD = 64, 128
# The part of a plan that follows from the list of videos.
LIST_SETTINGS = {"list_sha256", "num_videos", "videos_per_shard"}
FORMAT = "video-vq raw videos"
VERSION = 1
HOW_TO_MAKE = "list videos with `data-prep folder VIDEOS --out LIST --list-only`"


@dataclass(frozen=True)
class RawVideo:
    """One file of a list.

    Attributes:
        id, label, split, group: see `Video`.
        name: path of the file, relative to the list's root.
        num_bytes: size of the file.
    """

    id: str
    label: str | None
    split: str
    group: str
    name: str
    num_bytes: int


@dataclass(frozen=True)
class RawVideos:
    """A list of raw videos.

    Attributes:
        root: folder of the files, on this machine.
        recipe: recipe for making their frames (the fields of media's FrameRecipe, as JSON).
        plan: the settings that determine list and frames; equal to those of the clip store that the
            same command makes without `--list-only`.
        classes: ordered class names.
        videos: the videos, in the order of the store.
        skipped: files that are known to be unusable without decoding.
        videos_per_shard: number of videos in a shard.
        max_skipped: share of the videos that may be unusable.
    """

    root: str
    recipe: dict[str, Any]
    plan: dict[str, Any]
    classes: tuple[str, ...]
    videos: tuple[RawVideo, ...]
    skipped: tuple[Skipped, ...]
    videos_per_shard: int
    max_skipped: float

    @property
    def content_hash(self) -> str:
        """Return the sha256 that identifies the data, independent of their location."""
        return sha256_json({"plan": self.plan, "classes": self.classes})

    @property
    def num_shards(self) -> int:
        """Return the number of shards."""
        return -(-len(self.videos) // self.videos_per_shard)

    def shard(self, number: int) -> range:
        """Return the indices of a shard's videos."""
        first = number * self.videos_per_shard
        return range(first, min(first + self.videos_per_shard, len(self.videos)))

    def path_of(self, video: RawVideo) -> str:
        """Return the file of a video."""
        return os.path.join(self.root, video.name)


def usual_videos_per_shard(num_videos: int) -> int:
    """Return the default number of videos per shard."""
    return min(max(math.ceil(num_videos / USUAL_SHARDS), 1), MAX_VIDEOS_PER_SHARD)


def plan_of_videos(
    recipe: dict[str, Any],
    settings: dict[str, Any],
    entries: Sequence[list[Any]],
    skipped: Sequence[Skipped],
    videos_per_shard: int,
) -> dict[str, Any]:
    """Return the plan that determines every byte of a video store and identifies a list of videos.

    Args:
        recipe: recipe for making the frames.
        settings: settings of the listing.
        entries: record of each listed video, in the order of the store.
        skipped: files that are known to be unusable without decoding.
        videos_per_shard: number of videos in a shard.
    """
    return {
        **recipe,
        "source_settings": settings,
        "num_videos": len(entries),
        "videos_per_shard": videos_per_shard,
        "list_sha256": sha256_json([entries, [asdict(entry) for entry in skipped]]),
    }


def list_raw_videos(
    root: str,
    source: str,
    recipe: dict[str, Any],
    recipe_plan: dict[str, Any],
    settings: dict[str, Any],
    classes: Sequence[str],
    videos: Sequence[RawVideo],
    skipped: Sequence[Skipped],
    max_skipped: float,
    videos_per_shard: int | None = None,
) -> RawVideos:
    """Return a list of raw videos; the same files always give the same list.

    Args:
        root: the folder of the files.
        source: the kind of data.
        recipe, recipe_plan: FrameRecipe's `to_json` and `plan`.
        settings: settings of the listing.
        classes, videos, skipped, max_skipped: see `RawVideos`.
        videos_per_shard: number of videos in a shard; None for the usual number.
    """
    per_shard = videos_per_shard or usual_videos_per_shard(len(videos))
    entries = [
        # 0: the offset at which it begins in its file
        [video.id, video.label, video.split, video.group, video.name, video.num_bytes, 0]
        for video in videos
    ]
    made = {"source": source, **recipe_plan}
    return RawVideos(
        root=root,
        recipe=recipe,
        plan=plan_of_videos(made, settings, entries, skipped, per_shard),
        classes=tuple(classes),
        videos=tuple(videos),
        skipped=tuple(skipped),
        videos_per_shard=per_shard,
        max_skipped=max_skipped,
    )


def write_raw_videos(path: Path, videos: RawVideos) -> RawVideos:
    """Write a list; writing the same list again has no effect.

    Raises:
        InputError: the folder holds something else or another list, or another process writes
            there.
    """
    plan = {**videos.plan, "kind": "raw videos", "root": videos.root}
    with held(path):
        folder = ShardFolder(path, plan)
        if not folder.is_complete:
            folder.seal(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "plan": plan,
                    **{key: value for key, value in asdict(videos).items() if key != "plan"},
                }
            )
    return read_raw_videos(path)


def read_raw_videos(path: Path) -> RawVideos:
    """Read a list.

    Raises:
        InputError: the list is missing, of another kind, or altered.
    """
    manifest = read_manifest(path, FORMAT, VERSION, HOW_TO_MAKE)
    try:
        plan = dict(manifest["plan"])
        del plan["kind"], plan["root"]
        read = RawVideos(
            root=str(manifest["root"]),
            recipe=dict(manifest["recipe"]),
            plan=plan,
            classes=tuple(map(str, manifest["classes"])),
            videos=tuple(RawVideo(**entry) for entry in manifest["videos"]),
            skipped=tuple(Skipped(**entry) for entry in manifest["skipped"]),
            videos_per_shard=int(manifest["videos_per_shard"]),
            max_skipped=float(manifest["max_skipped"]),
        )
        _check(read)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: the list is damaged ({type(error).__name__}: {error}); list the videos again"
        ) from None
    return read


def _check(read: RawVideos) -> None:
    """Raise a ValueError or TypeError for anything that a writer cannot have written."""
    if read.videos_per_shard < 1 or not read.videos:
        raise ValueError("it has no shards")
    if len({video.id for video in read.videos}) != len(read.videos):
        raise ValueError("two videos have the same id")
    for video in read.videos:
        texts = (video.id, video.split, video.group, video.name)
        if not all(isinstance(text, str) for text in texts) or type(video.num_bytes) is not int:
            raise TypeError(f"video {str(video.id)[:80]!r} has a field of the wrong type")
        if video.label is not None and video.label not in read.classes:
            raise ValueError(f"video {video.id!r} has the unknown class {video.label!r}")
        if os.path.normpath(os.path.join("/", video.name)) != "/" + video.name:
            raise ValueError(f"the name {video.name!r} leads out of the folder")
