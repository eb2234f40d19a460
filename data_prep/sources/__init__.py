"""What every source of raw videos gives: a list of videos to decode, without decoding them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.archives import Archive
from video_vq.errors import InputError
from video_vq.stores.clips import Skipped

SourceName = Literal["folder", "ucf101", "bair", "lerobot"]


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


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        source: which kind it is.
        settings: the source's own settings that decide the store (JSON).
        items: in the order of the store.
        classes: ordered class names.
        skipped: what cannot be used, as far as it shows without decoding.
        arrays: per-frame arrays of each video: name -> shape of one frame's row.
        notes: what the user should hear of the listing.
        simulated: what simulated the episodes, None when they were recorded.
        max_skipped: the share of videos that may be unusable, unless the user says otherwise.
        archive: that holds the items and has to be unpacked, None where their paths are files.
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


def split_groups(groups: Iterable[str], val: float, test: float) -> Mapping[str, str]:
    """Assign each group to train, val or test by its hash.

    The groups are ordered by their sha256; the first are test, the next val, the rest train, each
    share met to within one group. No split that was asked for stays empty as long as there are
    groups: train has the first, test the second, val the third.

    Args:
        groups: their names; repeats are allowed.
        val: share of the groups for val, 0 for none.
        test: share of the groups for test, 0 for none.

    Raises:
        InputError: a share is negative, or nothing is left for train.
    """
    if min(val, test) < 0 or not val + test < 1:
        raise InputError(
            f"shares of val {val} and test {test}: each must be 0 or more, together below 1"
        )
    ordered = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    left = max(len(ordered) - 1, 0)  # train has one
    num_test = min(max(round(test * len(ordered)), test > 0), left)
    num_val = min(max(round(val * len(ordered)), val > 0), left - num_test)
    names = ["test"] * num_test + ["val"] * num_val
    names += ["train"] * (len(ordered) - len(names))
    return dict(zip(ordered, names, strict=True))
