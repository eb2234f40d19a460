"""Lists of raw videos, with the recipe for decoding their frames, but without pixels.

A list is a folder with a manifest, like a store. `data-prep … --list-only` writes a list;
`video-vq encode` decodes the listed videos without keeping the pixels, and makes a list itself if
its input is a plain folder of videos.
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

# About 64 shards keep many workers busy; redoing a shard of more than 128 videos costs too much.
USUAL_SHARDS, MAX_VIDEOS_PER_SHARD = 64, 128
# The settings of a plan that follow from the list of videos.
LIST_SETTINGS = {"list_sha256", "num_videos", "videos_per_shard"}
FORMAT = "video-vq raw videos"
VERSION = 1
HOW_TO_MAKE = "list videos with `data-prep folder VIDEOS --out LIST --list-only`"


@dataclass(frozen=True)
class RawVideo:
    """A video file in a list.

    Attributes:
        id, label, split, group: see `Video`.
        name: path of the file, relative to the list's root.
        num_bytes: size of the file, in bytes.
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
        root: folder that contains the files, on this machine.
        recipe: recipe for decoding the frames (the fields of media's FrameRecipe, as JSON).
        plan: settings that determine the list and the frames; equal to the plan of the clip store
            that the same command makes without `--list-only`.
        classes: ordered class names.
        videos: the videos, in store order.
        skipped: files found to be unusable without decoding.
        videos_per_shard: number of videos per shard.
        max_skipped: largest fraction of the videos that may be skipped, from 0 to 1.
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
        """Return the SHA-256 that identifies the data, independent of the folder's location."""
        return sha256_json({"plan": self.plan, "classes": self.classes})

    @property
    def num_shards(self) -> int:
        """Return the number of shards."""
        return -(-len(self.videos) // self.videos_per_shard)

    def shard(self, number: int) -> range:
        """Return the indices into `videos` for one shard."""
        first = number * self.videos_per_shard
        return range(first, min(first + self.videos_per_shard, len(self.videos)))

    def path_of(self, video: RawVideo) -> str:
        """Return the path of a video's file."""
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
    """Return the plan that determines every byte of a clip store and identifies a list of videos.

    Args:
        recipe: settings for decoding the frames.
        settings: settings with which the videos were listed.
        entries: record of each listed video, in store order.
        skipped: files found to be unusable without decoding.
        videos_per_shard: number of videos per shard.
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
    """Return a list of raw videos; equal arguments always give an equal list.

    Args:
        root: folder that contains the files.
        source: name of the data source.
        recipe, recipe_plan: results of FrameRecipe's `to_json` and `plan`.
        settings: settings with which the videos were listed.
        classes, videos, skipped, max_skipped: see `RawVideos`.
        videos_per_shard: number of videos per shard; None for the default.
    """
    per_shard = videos_per_shard or usual_videos_per_shard(len(videos))
    entries = [
        # 0: the offset at which the video begins in its file
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
    """Write a list to a folder and read it back; writing the same list again has no effect.

    Raises:
        InputError: the folder contains other files or another list, or another process is writing
            to the folder.
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
    """Read a list of raw videos from its folder.

    Raises:
        InputError: the list is missing, of a different kind, or altered.
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
    """Raise a ValueError or TypeError if `write_raw_videos` cannot have written the list."""
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
