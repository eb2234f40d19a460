"""What every source of raw videos gives: a list of videos to decode, without decoding them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.archives import Archive
from video_vq.errors import InputError
from video_vq.media.prepared import FrameRecipe, Watch
from video_vq.stores.clips import PreparedVideo, Skipped, Video

SourceName = Literal["folder", "ucf101", "bair", "lerobot"]
ItemKind = Literal["file", "record", "episode"]  # each has its function in data_prep/shard.py


@dataclass(frozen=True)
class Item:
    """One video to prepare.

    Attributes:
        id: unique in the store.
        label: class, None when the data have none.
        split: train, val or test.
        group: videos of one group are near-duplicates and share a split.
        name: the file, relative to the source's folder; what the store remembers.
        path: the file on this machine; the store never holds it. Where the listing has an archive
            to unpack, its member's name, until `prepare` has unpacked it.
        num_bytes: size of the file (of the record; of the whole mp4 that holds an episode).
        offset: byte at which the video's record begins, 0 where a file is one video.
        base: byte of `path` at which the source's file begins (inside a tar), else 0.
        actions: file of one row of numbers per frame of the video's file, None without.
        table: the file on this machine that holds its per-frame rows, if it is not `path`.
        place: where in the files it lies, as its source says it (JSON).
        kind: what it is, which decides what opens it.
        settings: settings of the source, for what opens the item (JSON).
    """

    id: str
    label: str | None
    split: str
    group: str
    name: str
    path: str
    num_bytes: int
    offset: int = 0
    base: int = 0
    actions: str | None = None
    table: str = ""
    place: dict[str, Any] | None = None
    kind: ItemKind = "file"
    settings: dict[str, Any] = field(default_factory=dict)

    def video(self, origin: dict[str, Any], fps: float | None = None) -> Video:
        """Return what a store says of this video, besides its frames."""
        return Video(self.id, self.label, self.split, self.group, fps=fps, origin=origin)


OpenItem = Callable[[Item, FrameRecipe, Watch, list[dict[str, str]]], PreparedVideo]
"""Opens an item by a recipe; its frames are decoded as they are taken.

It tells the watch what begins, adds to the notes (id, note) what is odd with the video, and raises
UnusableVideoError or UnreadableVideoError, now or while the frames are taken; or OSError, now.
"""


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        source: the kind of source.
        settings: the source's own settings that decide the store (JSON).
        items: the videos, in the order of the store.
        classes: ordered class names.
        skipped: what cannot be used, as far as it shows without decoding.
        arrays: per-frame arrays of each video: name -> shape of one frame's row.
        notes: what the user should hear of the listing.
        simulated: what simulated the episodes, None when they were recorded.
        max_skipped: the share of videos that may be unusable, unless the user says otherwise.
        archive: the archive that holds the items and has to be unpacked; None where their paths are
            files.
    """

    source: SourceName
    settings: dict[str, Any]
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    max_skipped: float
    skipped: tuple[Skipped, ...] = ()
    arrays: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    archive: Archive | None = None
    simulated: str | None = None


def require_folder(root: Path, what: str) -> None:
    """Raise unless `root` is a folder.

    Raises:
        InputError: it is not.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise InputError(f"{root}: expected {what}, found {found} there")
