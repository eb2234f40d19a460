"""Clips to be encoded, shard by shard: read from a clip store, or decoded from raw videos.

Shard k of the tokens holds the clips of the videos of shard k of the store. Raw videos are cut into
the shards that the store made of them has, so both ways batch the same clips.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.data.clip_config import ClipConfig
from video_vq.data.windows import frame_numbers, read_window, windows_of_video
from video_vq.errors import InputError
from video_vq.media.decode import require_decoder
from video_vq.media.folder import holds_video
from video_vq.media.isolated import DecodedFile, FileDecoders, FileToDecode
from video_vq.media.prepared import FrameRecipe
from video_vq.media.probe import UnreadableVideoError
from video_vq.media.suffixes import VIDEO_SUFFIXES
from video_vq.stages.raw_folder import is_folder_of_files
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import read_json
from video_vq.stores.raw_videos import FORMAT as RAW_FORMAT
from video_vq.stores.raw_videos import RawVideo, RawVideos, read_raw_videos
from video_vq.stores.shards import MANIFEST
from video_vq.stores.tokens import usual_rate
from video_vq.stores.videos import Skipped, Video


class PlacedClip(NamedTuple):
    """A clip and its row: video (its position), first frame, stride."""

    row: tuple[int, int, int]
    frames: UInt8[np.ndarray, "t h w 3"]


@dataclass
class Findings:
    """What decoding the videos of a shard showed.

    Attributes:
        skipped: the videos that could not be used.
        rates: frames per second of the others, by position.
        notes: what was odd with which video (id, note).
    """

    skipped: list[Skipped] = field(default_factory=list)
    rates: dict[int, float | None] = field(default_factory=dict)
    notes: list[dict[str, str]] = field(default_factory=list)


class StoredClips:
    """The clips of a clip store.

    Attributes:
        store: itself.
        frame_size_hw, classes: of the data.
        fps: of the clips, None when unknown.
        data_hash: names the data.
        videos: that rows point to.
        num_shards: of the store.
        num_listed: how many videos there are, usable or not.
        max_skipped: share of them that may be unusable.
    """

    max_skipped = 0.0

    def __init__(self, store: ClipStore, chosen: ClipConfig):
        self.store, self._chosen = store, chosen
        self.frame_size_hw, self.classes = store.frame_size_hw, store.classes
        self.fps = usual_rate(store.videos, chosen.stride)
        self.data_hash = store.content_hash
        self.videos = store.videos
        self.num_shards, self.num_listed = len(store.shards), len(store.videos)
        self._members: list[list[int]] = [[] for _ in store.shards]
        for position, video in enumerate(store.videos):
            self._members[video.shard].append(position)

    def num_videos(self, shard: int) -> int:
        """Return how many videos a shard has."""
        return len(self._members[shard])

    def has_clips(self) -> bool:
        """Return whether any video gives a clip."""
        return any(
            windows_of_video(self._chosen, position, video.id, video.num_frames)
            for position, video in enumerate(self.videos)
        )

    def expect(self, shards: Sequence[int]) -> None:
        """Say which shards will be asked for, in their order: nothing is read ahead here."""

    def clips(
        self, shard: int, findings: Findings, on_video: Callable[[], object]
    ) -> Iterator[PlacedClip]:
        """Yield the clips of a shard in the order of its videos.

        Args:
            shard: its number.
            findings: filled while the clips are taken.
            on_video: called after each video.
        """
        for position in self._members[shard]:
            source = self.store.videos[position]
            for window in windows_of_video(self._chosen, position, source.id, source.num_frames):
                frames = read_window(self.store, window)
                yield PlacedClip((position, window.start, window.stride), frames)
            on_video()

    def close(self) -> None:
        """Let go of what is open: nothing."""


class RawClips:
    """The clips of raw videos, decoded when they are taken; see `StoredClips`.

    Args:
        path: of the list, or of the folder that was listed.
        raw: the list.
        chosen: which clips of each video.
        num_workers: processes that decode, some videos ahead.

    Raises:
        InputError: the list is damaged, or was made by a program that makes other frames.
    """

    def __init__(self, path: Path, raw: RawVideos, chosen: ClipConfig, num_workers: int):
        self._raw, self._chosen = raw, chosen
        self._recipe = _recipe_of(path, raw)
        self.frame_size_hw, self.classes = self._recipe.size_hw, self._raw.classes
        self.fps = None if self._recipe.fps is None else self._recipe.fps / chosen.stride
        self.data_hash = self._raw.content_hash
        self.videos = tuple(
            Video(video.id, video.label, video.split, video.group) for video in self._raw.videos
        )
        self.num_shards = self._raw.num_shards
        self.num_listed = len(self._raw.videos) + len(self._raw.skipped)
        self.max_skipped = self._raw.max_skipped
        self._decoders = FileDecoders(self._recipe, num_workers)
        self._expected: deque[int] = deque()
        self._decoded: Iterator[DecodedFile | UnreadableVideoError] = iter(())

    def num_videos(self, shard: int) -> int:
        """Return how many videos a shard has."""
        return len(self._raw.shard(shard))

    def expect(self, shards: Sequence[int]) -> None:
        """Say which shards will be asked for, in their order; they are decoded ahead."""
        self._expected = deque(shards)
        files = (
            FileToDecode(self._raw.path_of(video), video.num_bytes)
            for shard in shards
            for video in self._videos_of(shard)
        )
        self._decoded = self._decoders.decode(files)

    def _videos_of(self, shard: int) -> list[RawVideo]:
        return [self._raw.videos[position] for position in self._raw.shard(shard)]

    def clips(
        self, shard: int, findings: Findings, on_video: Callable[[], object]
    ) -> Iterator[PlacedClip]:
        """Yield the clips of a shard; see `StoredClips.clips`.

        Raises:
            InputError: something ends the decoding that is no fault of a video.
        """
        if shard == 0:
            findings.skipped += self._raw.skipped
        if not self._expected or self._expected[0] != shard:
            self.expect([shard])
        self._expected.popleft()
        videos = self._videos_of(shard)
        for position, video in zip(self._raw.shard(shard), videos, strict=True):
            found = next(self._decoded)
            if isinstance(found, UnreadableVideoError):
                findings.skipped.append(Skipped(video.id, video.name, found.reason))
            else:
                findings.rates[position] = found.fps
                findings.notes += [{"id": video.id, "note": note} for note in found.oddities]
                for window in windows_of_video(self._chosen, position, video.id, len(found.frames)):
                    frames = found.frames[frame_numbers(window, len(found.frames))]
                    yield PlacedClip((position, window.start, window.stride), np.array(frames))
            on_video()

    def close(self) -> None:
        """End the processes that decode."""
        self._decoders.close()


def _recipe_of(path: Path, raw: RawVideos) -> FrameRecipe:
    """Read the recipe of a list; it must be the one of its plan, and of this program.

    Raises:
        InputError: it is not.
    """
    try:
        recipe = FrameRecipe.from_json(raw.recipe)
        plan = recipe.plan()
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the list's recipe is damaged ({type(error).__name__}: {error}); "
            "list the videos again"
        ) from None
    if any(raw.plan.get(key) != value for key, value in plan.items()):
        raise InputError(
            f"{path}: was listed by a version of data-prep that makes other frames; "
            "list the videos again"
        )
    require_decoder(recipe.decoder)
    return recipe


def is_raw(path: Path) -> bool:
    """Whether a folder is a list of raw videos."""
    with suppress(InputError):
        return read_json(path / MANIFEST, "a manifest").get("format") == RAW_FORMAT
    return False


def require_data(path: Path, extensions: tuple[str, ...] = VIDEO_SUFFIXES) -> None:
    """Refuse what is no clip store, list or folder of raw videos, before torch is loaded.

    Args:
        path: what is to be encoded.
        extensions: what the names of videos end in.

    Raises:
        InputError: says what it is, and what to do.
    """
    if is_raw(path):
        read_raw_videos(path)
        return
    if path.is_file():
        raise InputError(
            f"{path}: is a file; expected a clip store, a list of raw videos, or a folder of "
            "videos. Name the folder that it is in; for an archive or a table of videos "
            "make a list with `data-prep … --list-only`"
        )
    if not is_folder_of_files(path):
        ClipStore(path)
    elif not holds_video(path, extensions):
        raise InputError(
            f"{path}: expected a clip store, a list of raw videos, or a folder of videos; found a "
            f"folder without a {MANIFEST}, and no name in it ends in {', '.join(extensions)}"
        )
