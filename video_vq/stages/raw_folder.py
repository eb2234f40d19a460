"""Lists a folder of videos at every start, and refuses one that has changed since encoding began.

The list is stored in `parts/` of the token store while the tokens are made. Other ranks and cluster
tasks read the stored list, so that only one process examines the files. A second start compares the
stored list with a new list to find videos that were added or removed.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from video_vq.errors import InputError, printable
from video_vq.media.array_videos import is_array_file
from video_vq.media.folder import FolderSettings, list_videos
from video_vq.media.kinds import MAX_SKIPPED
from video_vq.media.prepared import FrameRecipe
from video_vq.media.views import note_on_views
from video_vq.stores.files import difference
from video_vq.stores.lock import LOCK
from video_vq.stores.raw_videos import (
    LIST_SETTINGS,
    RawVideo,
    RawVideos,
    list_raw_videos,
    read_raw_videos,
    write_raw_videos,
)
from video_vq.stores.shards import MANIFEST, PARTS, plan_of
from video_vq.stores.tokens import TokenStore
from video_vq.stores.videos import Skipped

LIST = "list"  # in parts/, and deleted with parts/
SOURCE = "folder"  # as in data-prep, so that both programs make the same list


@dataclass(frozen=True)
class FolderOptions:
    """Settings for turning a folder of videos into clips.

    Attributes:
        size_hw: height and width of the frames in pixels; None for the size that the tokenizer was
            trained on.
        fps: frame rate to convert videos to; None keeps the rate of each video.
        listing: settings for choosing files and assigning splits.
        videos_per_shard: number of videos in a shard; None for the default.
    """

    size_hw: tuple[int, int] | None = None
    fps: float | None = None
    listing: FolderSettings = field(default_factory=FolderSettings)
    videos_per_shard: int | None = None


def is_folder_of_files(path: Path) -> bool:
    """Return whether a path is an array file, or a folder that is not a store.

    An unfinished store also counts as a store.
    """
    if is_array_file(path):
        return True
    if not path.is_dir() or (path / MANIFEST).exists() or plan_of(path) is not None:
        return False
    return {entry.name for entry in islice(path.iterdir(), 3)} - {LOCK} != {PARTS}


def list_folder(
    root: Path,
    options: FolderOptions,
    size_hw: tuple[int, int],
    on_note: Callable[[str], object] = lambda _: None,
) -> RawVideos:
    """List a folder's videos, as `data-prep folder --list-only` does.

    Args:
        size_hw: height and width of the frames, if the options do not specify a size.
        on_note: function that is called with each message for the user.

    Raises:
        InputError: the folder contains no video, or a setting is wrong.
    """
    found = list_videos(root, options.listing)
    for note in found.notes:
        on_note(note)
    recipe = FrameRecipe(options.size_hw or size_hw, options.fps, reading=found.reading)
    return list_raw_videos(
        root=os.path.abspath(found.root),
        source=SOURCE,
        recipe=recipe.to_json(),
        recipe_plan=recipe.plan(),
        settings=options.listing.to_json(),
        classes=found.classes,
        videos=[
            RawVideo(video.name, video.label, video.split, video.group, video.name, video.num_bytes)
            for video in found.videos
        ],
        skipped=[Skipped(name, name, reason) for name, reason in found.left_out],
        max_skipped=MAX_SKIPPED,
        videos_per_shard=options.videos_per_shard,
    )


def list_for_tokens(
    out: Path, root: Path, options: FolderOptions, size_hw: tuple[int, int], owner: bool
) -> RawVideos | None:
    """Return the list of a folder's videos, which the owner makes for all processes.

    Args:
        root: the data to encode; the result is None for a store or a list of raw videos.
        size_hw: height and width of the frames, if the options do not specify a size.
        owner: whether this process opens the token store first.

    Raises:
        InputError: as for `list_folder`; or the folder or the settings have changed since encoding
            began.
    """
    if not is_folder_of_files(root):
        return None
    kept = None if owner else kept_list(out)
    if kept is not None:
        return kept
    if not owner:
        return list_folder(root, options, size_hw)
    found = list_folder(root, options, size_hw, _say)
    _require_same_list(out, found)
    return found


def _say(note: str) -> None:
    print(printable(f"note: {note}"), file=sys.stderr)


def say_views(videos: RawVideos) -> None:
    """Print a note, with advice, if different splits contain views of the same scene."""
    note = note_on_views({video.name: video.split for video in videos.videos})
    if note is None:
        return
    if "--group-regex" in note:
        size = "x".join(str(side) for side in videos.recipe["size_hw"])
        note += (
            f". That option belongs to `data-prep folder {shlex.quote(videos.root)} --size {size} "
            "--list-only --out LIST`, and the list is encoded like the folder: `video-vq encode "
            "LIST`"
        )
    _say(note)


def kept_list(out: Path) -> RawVideos | None:
    """Return the list stored in an unfinished token store, or None if no list is stored."""
    with suppress(InputError):
        return read_raw_videos(out / PARTS / LIST)
    return None


def keep_list(out: Path, videos: RawVideos) -> None:
    """Store the list in an unfinished token store; storing the same list again has no effect."""
    if (out / MANIFEST).exists() or kept_list(out) == videos:
        return
    # Remove a partial list, or a list that was made before the folder was moved.
    shutil.rmtree(out / PARTS / LIST, ignore_errors=True)
    write_raw_videos(out / PARTS / LIST, videos)


def _require_same_list(out: Path, videos: RawVideos) -> None:
    """Raise InputError if the folder or the settings have changed since encoding began."""
    plan = plan_of(out)
    if not isinstance(plan, dict) or plan.get("data_hash") in (None, videos.content_hash):
        return
    raise InputError(
        f"{videos.root}: has changed since {out} was begun: "
        f"{'; '.join(_differences(out, videos))}. Tokens are made from one list of videos: restore "
        "the folder and the settings, and the "
        f"same command resumes; or name another --out, or delete {out}"
    )


def _differences(out: Path, videos: RawVideos) -> list[str]:
    """Return the differences between a list and the list with which encoding to `out` began."""
    before = kept_list(out)
    if before is not None:
        found = _changes(
            {video.name: video.num_bytes for video in before.videos},
            {video.name: video.num_bytes for video in videos.videos},
        )
        reasons = [{entry.id: entry.reason for entry in side.skipped} for side in (before, videos)]
        if reasons[0] != reasons[1]:
            found.append("different files cannot be used, or for different reasons")
        lines = difference(before.plan, videos.plan)
        settings = [line for line in lines if line.split(":")[0] not in LIST_SETTINGS]
        if any(line.startswith("fps:") for line in settings):  # the version follows from it
            settings = [line for line in settings if not line.startswith("frames_version:")]
        if before.videos_per_shard != videos.videos_per_shard and not found:
            settings.append(
                f"videos_per_shard: {before.videos_per_shard} -> {videos.videos_per_shard}"
            )
        return [*found, *(f"setting {line}" for line in settings)] or ["another list of videos"]
    if not (out / MANIFEST).exists():
        return ["it was begun with a store, or with a list that is missing"]
    names = [video.id for video in TokenStore(out).videos]
    found = _changes(dict.fromkeys(names, 0), {video.name: 0 for video in videos.videos})
    return found or [
        "files of the same names have different sizes, different files cannot be used, different "
        "settings were given, or it was made from a store or a list"
    ]


def _changes(before: dict[str, int], now: dict[str, int]) -> list[str]:
    came = sorted(now.keys() - before.keys())
    went = sorted(before.keys() - now.keys())
    changed = sorted(name for name in now.keys() & before.keys() if now[name] != before[name])
    return [
        f"{len(names):,} video{'s' if len(names) > 1 else ''} {what} (the first: {names[0]})"
        for names, what in ((came, "added"), (went, "removed"), (changed, "changed in size"))
        if names
    ]
