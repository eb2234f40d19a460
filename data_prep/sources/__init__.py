"""The common result of all sources of raw videos: a list of videos to decode."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.archives import Archive
from video_vq.errors import InputError
from video_vq.media.prepared import FrameRecipe, Watch
from video_vq.media.reading import USUAL, Reading
from video_vq.stores.clips import PreparedVideo, Skipped, Video

SourceName = Literal["folder", "ucf101", "bair", "lerobot"]
ItemKind = Literal["file", "record", "episode"]  # each has its function in data_prep/shard.py


@dataclass(frozen=True)
class Item:
    """One video to prepare.

    Attributes:
        id: id of the video, unique in the store.
        label: name of its class; None if the data have no classes.
        split: train, val or test.
        group: videos of one group are near-duplicates and share a split.
        name: path of the file or frame folder relative to the source's folder, or address of a
            video in an array, which the store records.
        path: the same path on this machine, which the store never records. If the listing has an
            archive to unpack, the member's name until `prepare` has unpacked it.
        num_bytes: size of the file, of the record, of the whole mp4 that holds an episode, of all
            frames, or of a video's values in an array.
        offset: offset of the video's record in bytes; 0 if a file is one video.
        base: offset in bytes of the source's file in `path`, if that is a tar; else 0.
        actions: file with one row of numbers per frame of the video's file; None if there is none.
        table: file on this machine that holds its per-frame rows, if it is not `path`.
        place: location of the video in the files, as its source describes it (JSON).
        kind: kind of the item, which determines what opens it.
        settings: settings of the source for the code that opens the item (JSON).
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
        """Return the store's record of this video, without its frames."""
        return Video(self.id, self.label, self.split, self.group, fps=fps, origin=origin)


Notes = list[dict[str, str]]  # oddities of videos: id and note of each
OpenItem = Callable[[Item, FrameRecipe, Watch, Notes], PreparedVideo]
"""Opens an item by a recipe; its frames are decoded as they are taken.

It calls the watch at each stage, adds oddities of the video to the notes (id, note), and raises
UnusableVideoError or UnreadableVideoError, now or while the frames are taken; or OSError, now.
"""


@dataclass(frozen=True)
class Listing:
    """The contents of a source.

    Attributes:
        source: the kind of source.
        settings: the source's own settings that affect the store (JSON).
        items: the videos, in the order of the store.
        classes: ordered class names.
        skipped: files that are known to be unusable without decoding.
        arrays: per-frame arrays of each video: name -> shape of one frame's row.
        notes: messages for the user about the listing.
        simulated: the simulator of the episodes; None if they were recorded.
        max_skipped: share of videos that may be unusable, unless the user says otherwise.
        archive: the archive that holds the items and has to be unpacked; None if their paths are
            files.
        reading: settings for reading items that are frame folders or videos in arrays.
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
    reading: Reading = USUAL


def require_folder(root: Path, what: str) -> None:
    """Raise unless `root` is a folder.

    Raises:
        InputError: `root` is not a folder.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise InputError(f"{root}: expected {what}, found {found}")
