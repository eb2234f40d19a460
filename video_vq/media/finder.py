"""Finds videos in files, frame folders and arrays, and determines the settings for reading them."""

import os
from dataclasses import replace
from pathlib import Path

from video_vq.errors import InputError, printable
from video_vq.media.array_videos import (
    Address,
    ArrayVideos,
    find_values,
    one_video,
    parse_address,
    videos_at,
)
from video_vq.media.frame_sets import FrameSet, folder_of_frames
from video_vq.media.kinds import PICTURE_SUFFIXES
from video_vq.media.probe import UnreadableVideoError
from video_vq.media.reading import USUAL, Reading, require_reading
from video_vq.media.tree import FoundFrames, LeftOut, Tree, size_inside


class VideoFinder:
    """Collects videos with their names and sizes, unusable files, and notes for the user.

    Args:
        root: folder to which all names are relative.
        reading: the user's settings for frame folders and arrays.
    """

    def __init__(self, root: Path, reading: Reading):
        self.root, self.reading = root, reading
        self.videos: list[tuple[str, int]] = []
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []
        self.has_files = self.has_frames = False
        self.arrays: list[ArrayVideos] = []
        self._frames_in: dict[Path, dict[str, FoundFrames]] = {}  # folders with several videos

    def add_frames(self, tree: Tree) -> None:
        """Add the frame folders of a tree.

        Raises:
            InputError: the top folder itself contains frames, so the video has no name.
        """
        gaps = []
        for name, frames in sorted(tree.frames.items()):
            problem, gap = frames.problem, frames.numbering.gaps()
            if problem is None and self.reading.frame_names is None:
                problem = frames.numbering.problem()
            if not name or name.rpartition("/")[2] in (".", ".."):
                raise InputError(
                    f"{self.root}: holds {frames.numbering.count:,} pictures itself, so it is one "
                    "video; name the folder above it, or if they are of several videos, say with "
                    "--frame-names how they are named "
                    f"({problem or 'the group video tells them apart'})"
                )
            self.has_frames = True
            if problem is not None:
                self.left_out.append(LeftOut(printable(name), problem))
                continue
            self.videos.append((name, frames.num_bytes))
            if gap is not None:
                gaps.append(f"{name}: {gap}")
        if gaps:
            more = f"; and {len(gaps) - 1:,} more frame folders with gaps" if len(gaps) > 1 else ""
            self.notes.append(f"{gaps[0]}{more}")
        if tree.num_unmatched:
            self.notes.append(f"pictures that do not match --frame-names: {tree.num_unmatched:,}")

    def add_arrays(self, name: str, path: Path) -> None:
        """Add the videos in an array file, or only the videos that an address names."""
        address = parse_address(path)
        assert address is not None
        try:
            found = videos_at(address, self.reading.layout)
            if address.number is not None:
                one_video(path, address, self.reading.layout)
        except UnreadableVideoError as error:
            self.left_out.append(LeftOut(printable(name), error.reason))
            return
        file = name.partition("#")[0] if address.member is not None else name
        self.arrays += found.arrays
        is_one = address.member is None and [a.num_videos for a in found.arrays] == [None]
        for array in found.arrays:
            for index in array.indices:
                if address.number in (None, index):
                    own = file if is_one else f"{file}#{array.place(index)}"
                    self.videos.append((own, array.bytes_of_one))
        if found.passed_over:
            told = "; ".join(f"{member} {why}" for member, why in found.passed_over[:2])
            more = f"; and {len(found.passed_over) - 2:,} more" if found.passed_over[2:] else ""
            self.notes.append(f"{name}: no videos, and ignored: {told}{more}")

    def add_named(self, name: str) -> int | str:
        """Return the size in bytes of a video named in a table, or the reason why it is unusable.

        Also record arrays and frame folders, for `require_needed` and `finish`.
        """
        path, real_root = self.root / name, os.path.realpath(self.root)
        try:
            address = parse_address(path)
            if address is not None and not path.is_dir():
                size = size_inside(address.file, real_root)
                return size if isinstance(size, str) else self._add_array(path, address)
            if path.is_dir() or (self.reading.frame_names is not None and not path.exists()):
                folder = folder_of_frames(path, self.reading.frame_names)
                inside = os.path.join(os.path.realpath(folder), "")
                if not inside.startswith(os.path.join(real_root, "")):
                    return "a link that leads out of the folder is not followed; copy the frames"
                return self._add_frames(path, folder)
        except UnreadableVideoError as error:
            return error.reason
        return size_inside(path, real_root)

    def _add_array(self, path: Path, address: Address) -> int:
        array, _ = one_video(path, address, self.reading.layout)
        self.arrays.append(array)
        return array.bytes_of_one

    def _add_frames(self, path: Path, folder: Path) -> int | str:
        FrameSet(path, self.reading)  # refuses frames that cannot be ordered
        self.has_frames = True
        frames = self._frames_in.get(folder)
        if frames is None:
            frames = Tree(folder, PICTURE_SUFFIXES, self.reading.frame_names).frames
            if folder != path:  # other rows may name other videos in the same folder
                self._frames_in[folder] = frames
        found = frames.get("" if folder == path else path.name)
        if found is None:
            return "has no pictures that can be read"
        return found.problem or found.num_bytes

    def require_needed(self, where: Path) -> None:
        """Reject reading options that no video needs.

        Args:
            where: folder or file that was searched, for the message.

        Raises:
            InputError: there is such an option; the message names the option.
        """
        require_reading(self.reading, self.has_frames, bool(self.arrays), where)

    def finish(self, stand_in_fps: float | None) -> Reading:
        """Return the final reading settings, and add notes on the assumed axes, range and rate.

        Args:
            stand_in_fps: see `FolderSettings`.

        Raises:
            InputError: the value range of the arrays cannot be inferred.
        """
        if not self.has_frames and not self.arrays:
            return USUAL
        reading = self.reading
        for layout in sorted({array.layout for array in self.arrays}):
            same = [array for array in self.arrays if array.layout == layout]
            shape = " x ".join(map(str, same[0].header.shape))
            more = f" and {len(same) - 1:,} more" if len(same) > 1 else ""
            self.notes.append(
                f"{same[0].file.name}{more}: {same[0].header.type_name} {shape} read as the axes "
                f"{' '.join(layout)}"
            )
        if reading.values is None and (values := find_values(self.arrays)) is not None:
            reading = replace(reading, values=values[0])
            self.notes.append(values[1])
        fps, flag = reading.fps, "--source-fps"
        if fps is None:
            fps, flag = stand_in_fps, "--fps"
        if fps is not None:
            self.notes.append(
                f"frames and arrays state no rate: assumed {fps:g} frames per second ({flag})"
            )
        return replace(reading, fps=fps)
