"""Data structures shared by all sources of raw videos: a listing and its items."""

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
ItemKind = Literal["file", "record", "episode"]  # see OPENERS in data_prep/shard.py


@dataclass(frozen=True)
class Item:
    """A video to prepare.

    Attributes:
        id: id of the video, unique in the store.
        label: class name; None if the data have no classes.
        split: train, val or test.
        group: name of the video's group of near-duplicates, all of which are in the same split.
        name: path of the file or frame folder relative to the source folder, or address of the
            video in an array; recorded in the store.
        path: absolute path, not recorded in the store; if the listing has an archive, the name of
            the archive member until `prepare` has unpacked the member.
        num_bytes: size in bytes of the file, of the record, of the entire mp4 file that contains an
            episode, of all frame files, or of the video's values in an array.
        offset: offset of the video's record in its file, in bytes; 0 if the item is not a record.
        base: offset of the record's file in the tar `path`, in bytes; 0 if `path` is not a tar.
        actions: file with one row of numbers per frame of the video file; None without actions.
        table: path of the table with the per-frame rows; empty if there is no table.
        place: location of the video in the files, as described by the source (JSON).
        kind: kind of the item, which selects the function that opens the item.
        settings: source settings for opening the item (JSON).
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
        """Return the record of this video for the store; the writer adds the frame count.

        Args:
            origin: origin of the video, as JSON.
            fps: frames per second of the stored frames; None if unknown.
        """
        return Video(self.id, self.label, self.split, self.group, fps=fps, origin=origin)


Notes = list[dict[str, str]]  # irregularities of videos: id and note
OpenItem = Callable[[Item, FrameRecipe, Watch, Notes], PreparedVideo]
"""Function that opens an item according to a recipe; the frames are decoded during iteration.

The function calls the watch at each stage and adds irregularities of the video to the notes. It
raises UnusableVideoError or UnreadableVideoError, immediately or during iteration, or OSError
immediately.
"""


@dataclass(frozen=True)
class Listing:
    """The videos of a source.

    Attributes:
        source: name of the source.
        settings: settings of the source that affect the store (JSON).
        items: videos to prepare, in store order.
        classes: ordered class names.
        skipped: files found to be unusable before decoding.
        arrays: mapping from the name of each per-frame array to the shape of one frame's row.
        notes: messages for the user about the listing.
        simulated: label of the simulator that made the episodes; None if not simulated.
        max_skipped: default for the largest fraction of the videos that may be skipped.
        archive: archive that contains the items; None if nothing needs to be unpacked.
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
    """Raise an error unless a path is a folder.

    Args:
        root: path to check.
        what: description of the expected folder, for the error message.

    Raises:
        InputError: `root` is not a folder.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise InputError(f"{root}: expected {what}, found {found}")
