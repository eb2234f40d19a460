"""A common interface for opening videos in files, frame folders and arrays."""

import hashlib
import os
from pathlib import Path

from video_vq.media.array_files import PICKLED
from video_vq.media.array_videos import ArrayVideo, parse_address
from video_vq.media.frame_sets import FrameSet
from video_vq.media.kinds import PICKLE_SUFFIXES
from video_vq.media.probe import DEFAULT_LIMITS, Limits, UnreadableVideoError, VideoInfo, probe
from video_vq.media.reading import USUAL, Reading, require_reading


class VideoFile:
    """A video file that FFmpeg decodes."""

    def __init__(self, path: Path):
        self.path = path

    def digest(self) -> tuple[str, int]:
        """Return the file's SHA-256 and size in bytes."""
        try:
            with open(self.path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        except OSError as error:
            raise UnreadableVideoError(self.path, f"cannot be read ({error.strerror})") from None

    def probe(self, limits: Limits) -> VideoInfo:
        """Return the video's properties; see `video_vq.media.probe.probe`."""
        return probe(self.path, limits)


# A video that is not decoded yet. `path` is the video's path, which ends in an address after # for
# a video in an array; `digest` returns the content's sha256 and size in bytes; `probe` returns the
# properties.
VideoSource = VideoFile | FrameSet | ArrayVideo


def source_of(path: str | Path, reading: Reading = USUAL) -> VideoSource:
    """Return the video at a path.

    Raises:
        UnreadableVideoError: the path is a pickle, or a folder or an array file that does not
            contain exactly one readable video.
        InputError: the value range of an array cannot be inferred.
    """
    path = Path(os.path.abspath(path))
    address = parse_address(path)
    if address is not None and not path.is_dir():
        return ArrayVideo(path, address, reading)
    if path.is_dir() or (reading.frame_names is not None and not path.exists()):
        return FrameSet(path, reading)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise UnreadableVideoError(path, PICKLED)
    return VideoFile(path)


def require_needed(source: VideoSource, reading: Reading) -> None:
    """Reject reading options that a video does not need.

    Raises:
        InputError: there is such an option; the message names the option.
    """
    is_array = isinstance(source, ArrayVideo)
    require_reading(reading, isinstance(source, FrameSet), is_array, source.path)


def probe_video(
    path: str | Path, reading: Reading = USUAL, limits: Limits = DEFAULT_LIMITS
) -> VideoInfo:
    """Return the properties of a video of any kind, without decoding all frames.

    Raises:
        InputError: as for `source_of` and `probe`.
    """
    return source_of(path, reading).probe(limits)
