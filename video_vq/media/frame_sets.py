"""Videos stored as images: one video per folder, or several videos that a pattern separates."""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from video_vq.media.frame_names import FramePattern, names_by_pattern, names_in
from video_vq.media.pictures import read_picture
from video_vq.media.probe import Limits, UnreadableVideoError, VideoInfo, require_size
from video_vq.media.reading import Reading


def folder_of_frames(path: Path, frame_names: str | None) -> Path:
    """Return the folder with a video's frames: the path, or its parent if a pattern names videos.

    Args:
        frame_names: pattern, see `Reading`; the group `video` matches the last part of the path.
    """
    return path.parent if frame_names is not None and FramePattern(frame_names).has_video else path


class FrameSet:
    """A video in a frame folder; see `VideoSource`.

    Args:
        path: path of the folder, followed by the video's name if `reading.frame_names` has a group
            `video`.

    Raises:
        UnreadableVideoError: the folder cannot be listed or contains no frames, or the frames
            cannot be ordered.
    """

    def __init__(self, path: Path, reading: Reading):
        self.path, self._fps = path, reading.fps
        self._folder = folder_of_frames(path, reading.frame_names)
        if reading.frame_names is None:
            names, numbering = names_in(path)
        else:
            video = "" if self._folder == path else path.name
            names, numbering = names_by_pattern(self._folder, reading.frame_names, video)
        self._names, self._gaps = names, numbering.gaps()

    def digest(self) -> tuple[str, int]:
        """Return the SHA-256 of all frames' hashes in order, and the total size of the files."""
        whole, total = hashlib.sha256(), 0
        for name in self._names:
            try:
                with open(self._folder / name, "rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
                    total += file.tell()
            except OSError as error:
                raise UnreadableVideoError(
                    self.path, f"{name} cannot be read ({error.strerror})"
                ) from None
        return whole.hexdigest(), total

    def probe(self, limits: Limits) -> VideoInfo:
        """Return the video's properties, found from the names and the first frame.

        Raises:
            UnreadableVideoError: the video exceeds the limits, the first frame cannot be decoded,
                or a file cannot be read.
        """
        if len(self._names) > limits.max_frames:
            raise UnreadableVideoError(
                self.path, f"has more than {limits.max_frames:,} frames; cut it into pieces"
            )
        first = read_picture(self._folder / self._names[0], limits)
        info = VideoInfo(
            path=self.path,
            file_bytes=self._num_bytes(),
            container="frame folder",
            codec=Path(self._names[0]).suffix.lower().lstrip("."),
            size_hw=(first.shape[0], first.shape[1]),
            fps=self._fps,
            num_packets=len(self._names),
            claimed_frames=None,
            duration_seconds=None if self._fps is None else len(self._names) / self._fps,
            pixel_aspect=Fraction(1),
            upright=(),
            timestamps=None,
            time_base=Fraction(1),
            notes=() if self._gaps is None else (self._gaps,),
            frames=lambda: self._frames(limits),
        )
        require_size(info, limits)
        return info

    def _num_bytes(self) -> int:
        try:
            return sum((self._folder / name).stat().st_size for name in self._names)
        except OSError as error:
            raise UnreadableVideoError(
                self.path, f"a frame cannot be read ({error.strerror})"
            ) from None

    def _frames(self, limits: Limits) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for name in self._names:
            yield read_picture(self._folder / name, limits)
