"""Lists a folder's videos, with labels from subfolder names and splits from group hashes."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from video_vq.errors import InputError
from video_vq.media.array_files import AS_ARRAY
from video_vq.media.array_videos import parse_address
from video_vq.media.finder import VideoFinder
from video_vq.media.frame_sets import folder_of_frames
from video_vq.media.kinds import PICKLE_SUFFIXES, PICTURE_SUFFIXES, TAKEN_SUFFIXES, VIDEO_SUFFIXES
from video_vq.media.reading import USUAL, Reading
from video_vq.media.tree import LeftOut, Tree, walk


@dataclass(frozen=True)
class FolderSettings:
    """Settings for listing a folder tree.

    Attributes:
        val, test: fractions of the groups in the val and the test split.
        group_by: "video" makes each video a separate group; "folder" groups the videos in a folder;
            "regex" groups videos by the part of the video id that matches `group_regex` (or by the
            first capture group, if there is one).
        group_regex: pattern for group_by "regex".
        extensions: extensions of the files to use, in lower case, with the dot; None for the
            default extensions of one kind: video files; images if there are no video files; arrays
            if there are neither.
        reading: settings for reading frame folders and arrays.
        stand_in_fps: frame rate of frame folders and arrays if `reading` has none: the rate to
            which videos are converted, so that frame folders and arrays are not resampled.
        is_only_place: whether `reading` applies only to this tree, so that reading options that the
            tree does not need are refused.
    """

    val: float = 0.1
    test: float = 0.1
    group_by: str = "video"
    group_regex: str | None = None
    extensions: tuple[str, ...] | None = None
    reading: Reading = USUAL
    stand_in_fps: float | None = None
    is_only_place: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the settings for groups and splits, as JSON."""
        return {
            "val": self.val,
            "test": self.test,
            "group_by": self.group_by,
            "group_regex": self.group_regex,
        }


class FolderVideo(NamedTuple):
    """A video in a folder.

    Attributes:
        name: path of the file or frame folder, relative to the folder, or address of a video in an
            array (see `ArrayVideos.place`); also serves as the video's id.
        label: first folder in the name; None for a video at the top of the tree.
        split: train, val or test.
        group: name of the group; videos of one group are near-duplicates and share a split.
        num_bytes: size in bytes of the file, of all frames, or of the array values.
    """

    name: str
    label: str | None
    split: str
    group: str
    num_bytes: int


class VideoFolder(NamedTuple):
    """The videos in a folder, and the files that were skipped.

    Attributes:
        root: folder to which all names are relative.
        videos: the videos, sorted by file name.
        left_out: unusable files, sorted by name.
        classes: class names, sorted.
        reading: settings for reading frame folders and arrays, including inferred values; the
            defaults if there are no frame folders or arrays.
        notes: remarks for the user.
        has_frames, has_arrays: whether there are frame folders or arrays among the videos.
    """

    root: Path
    videos: tuple[FolderVideo, ...]
    left_out: tuple[LeftOut, ...]
    classes: tuple[str, ...]
    reading: Reading
    notes: tuple[str, ...]
    has_frames: bool
    has_arrays: bool


def list_videos(root: Path, settings: FolderSettings) -> VideoFolder:
    """List the videos in a folder tree, or in one array file, without decoding videos.

    Names that begin with a dot are ignored. Links are followed only to files inside the tree; other
    links, and anything that is not a regular file, are skipped.

    Args:
        root: path of a folder or an array file, or address of videos in an array file.

    Raises:
        InputError: there are no videos, two videos have the same name, float values fit no range,
            or a setting is wrong or not needed.
    """
    group_of = grouping(settings)
    found = _find(root, settings)
    if settings.is_only_place:
        found.require_needed(root)
    reading = found.finish(settings.stand_in_fps)
    groups = {name: group_of(name) for name, _ in found.videos}
    if len(groups) < len(found.videos):
        raise InputError(f"{root}: two videos have the same name; rename a folder, or the pictures")
    splits = split_groups(groups.values(), settings.val, settings.test)
    videos = tuple(
        FolderVideo(
            name=name,
            label=name.split("/")[0] if "/" in name else None,
            split=splits[groups[name]],
            group=groups[name],
            num_bytes=num_bytes,
        )
        for name, num_bytes in found.videos
    )
    classes = sorted({video.label for video in videos if video.label is not None})
    left_out = tuple(sorted(found.left_out))
    return VideoFolder(
        found.root,
        videos,
        left_out,
        tuple(classes),
        reading,
        tuple(found.notes),
        found.has_frames,
        bool(found.arrays),
    )


def holds_video(root: Path, extensions: tuple[str, ...] | None) -> bool:
    """Return whether a tree contains a name that may be a video's; stop at the first such name."""
    wanted = extensions or TAKEN_SUFFIXES
    return any(Path(entry.name).suffix.lower() in wanted for entry, _ in walk(root))


def is_frame_folder(path: Path, frame_names: str | None = None) -> bool:
    """Return whether a path is a frame folder, which contains images but no video file.

    If `frame_names` has a group `video`, the path names a video whose frames are in its parent
    folder; return whether the parent folder exists and the path itself does not.
    """
    if folder_of_frames(path, frame_names) != path:  # the path ends in a video's name
        return not path.exists() and path.parent.is_dir()
    if not path.is_dir():
        return False
    endings = {os.path.splitext(name)[1].lower() for name in os.listdir(path)}
    return bool(endings & set(PICTURE_SUFFIXES)) and not endings & set(VIDEO_SUFFIXES)


def _find(root: Path, settings: FolderSettings) -> VideoFinder:
    """Return the videos in a tree or file; by default, only videos of one kind."""
    if not root.is_dir():
        return _find_in_file(root, settings.reading)
    tree = Tree(root, settings.extensions, settings.reading.frame_names)
    found = VideoFinder(root, settings.reading)
    found.videos = tree.files
    found.has_files = bool(tree.files or tree.left_out["files"])
    found.left_out = [*tree.left_out["files"], *tree.left_out["links"]]
    one_kind = settings.extensions is None
    passed_over = []
    if tree.frames and one_kind and found.has_files:
        passed_over.append(f"folders of pictures ({len(tree.frames):,})")
    else:
        found.add_frames(tree)
    if tree.arrays and one_kind and found.videos:
        passed_over.append(f"files of arrays ({len(tree.arrays):,})")
    else:
        found.left_out += tree.left_out["arrays"]
        for name, _ in sorted(tree.arrays):
            found.add_arrays(name, root / name)
    if passed_over:
        taken = "video files" if found.has_files else "frame folders"
        found.notes.append(
            f"beside the {taken} there are {' and '.join(passed_over)}, which are not taken; "
            "--extensions says what to take"
        )
    if not found.videos:
        raise InputError(_none(root, settings, tree, found.left_out))
    found.videos.sort(key=lambda video: video[0].partition("#")[0] if found.arrays else video[0])
    return found


def _find_in_file(path: Path, reading: Reading) -> VideoFinder:
    address = parse_address(path)
    if address is None or not address.file.is_file():
        ending = path.suffix.lower()
        if ending in PICKLE_SUFFIXES and path.is_file():
            raise InputError(f"{path}: is a pickle, which is not opened; {AS_ARRAY}")
        raise InputError(f"{path}: expected a folder of videos, or a file of arrays")
    found = VideoFinder(path.parent, reading)
    found.add_arrays(path.name, path)
    if not found.videos:
        reason = found.left_out[0].reason if found.left_out else "holds no such video"
        raise InputError(f"{path}: {reason}")
    return found


def _none(root: Path, settings: FolderSettings, tree: Tree, left_out: list[LeftOut]) -> str:
    endings = settings.extensions or TAKEN_SUFFIXES
    told = f"{root}: holds no videos; looked for names ending in {', '.join(endings)}"
    if left_out:
        first = min(left_out)
        told += f" ({len(left_out)} that cannot be read, the first: {first.name}: {first.reason})"
    if tree.num_unmatched:
        told += f"; pictures that do not match --frame-names: {tree.num_unmatched:,}"
    if tree.num_pickles:
        told += f"; pickles ({tree.num_pickles:,} there) are not opened: {AS_ARRAY}"
    return told + "; name another folder, or other endings with --extensions"


def grouping(settings: FolderSettings) -> Callable[[str], str]:
    """Return a function that maps a video's id to the video's group.

    Raises:
        InputError: the pattern is invalid; the returned function also raises InputError, for an id
            that does not match.
    """
    if settings.group_by == "video":
        return lambda name: name
    if settings.group_by == "folder":
        return lambda name: name.rpartition("/")[0] or "."
    try:
        pattern = re.compile(settings.group_regex or "")
    except re.error as error:
        raise InputError(f"--group-regex {settings.group_regex!r}: {error}") from None

    def group(name: str) -> str:
        match = pattern.search(name)
        if match is None:
            raise InputError(
                f"--group-regex {settings.group_regex!r} does not match {name!r}; "
                "every video needs a group"
            )
        return (match.group(1) if pattern.groups else match.group()) or ""

    return group


def split_groups(groups: Iterable[str], val: float, test: float) -> Mapping[str, str]:
    """Assign each group to train, val or test by a hash of the group's name.

    The groups are ordered by the SHA-256 of their names: the first groups are test, the next groups
    val and the rest train, with each fraction met to within one group. If there are too few groups
    for all requested splits, train takes precedence over test, and test over val. Fractions that
    add up to 1 leave no groups for train.

    Args:
        groups: names of the groups; repeats are allowed.
        val: fraction of the groups for val; 0 for no val split.
        test: fraction of the groups for test; 0 for no test split.

    Raises:
        InputError: a fraction is negative, or the fractions add up to more than 1.
    """
    if min(val, test) < 0 or not val + test <= 1:
        raise InputError(
            f"shares of val {val} and test {test}: each must be 0 or more, together at most 1"
        )
    ordered = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    has_train = val + test < 1
    left = max(len(ordered) - has_train, 0)
    num_test = min(max(round(test * len(ordered)), test > 0), left)
    num_val = min(max(round(val * len(ordered)), val > 0), left - num_test)
    if not has_train:
        num_val = left - num_test
    names = ["test"] * num_test + ["val"] * num_val
    names += ["train"] * (len(ordered) - len(names))
    return dict(zip(ordered, names, strict=True))
