"""Provides clips to encode, shard by shard, from a clip store or from raw videos.

Shard k of a token store contains the tokens for the videos in shard k of the clip store. Raw videos
are divided into shards like a clip store of the same videos, so both yield the same batches.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from video_vq.data.actions import actions_of_window, num_action_dims, row_dims_of
from video_vq.data.clip_config import ClipConfig
from video_vq.data.windows import frame_numbers, read_window, windows_of_video
from video_vq.errors import InputError
from video_vq.media.array_videos import is_array_file
from video_vq.media.decode import require_decoder
from video_vq.media.file_decoders import DecodedFile, FileDecoders, FileToDecode
from video_vq.media.folder import holds_video
from video_vq.media.kinds import TAKEN_SUFFIXES
from video_vq.media.prepared import FrameRecipe
from video_vq.media.probe import UnreadableVideoError
from video_vq.stages.raw_folder import is_folder_of_files
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import read_json
from video_vq.stores.raw_videos import FORMAT as RAW_FORMAT
from video_vq.stores.raw_videos import RawVideo, RawVideos, read_raw_videos
from video_vq.stores.shards import MANIFEST
from video_vq.stores.tokens import usual_rate
from video_vq.stores.videos import Skipped, Video


class PlacedClip(NamedTuple):
    """A clip, with its row (video, first frame, stride) and its latent actions, if any."""

    row: tuple[int, int, int]
    frames: UInt8[np.ndarray, "t h w 3"]
    actions: Float[np.ndarray, "t a"] | None = None


@dataclass
class Findings:
    """Results of decoding a shard's videos, apart from the frames.

    Attributes:
        skipped: videos that could not be used.
        rates: frames per second of each usable video, by the video's index; None if unknown.
        notes: remarks on irregular videos, each with the keys "id" and "note".
    """

    skipped: list[Skipped] = field(default_factory=list)
    rates: dict[int, float | None] = field(default_factory=dict)
    notes: list[dict[str, str]] = field(default_factory=list)


class StoredClips:
    """The clips of a clip store.

    Args:
        frames_per_latent, latent_frames: the tokenizer's stride in time, and the number of latent
            frames in a clip.

    Attributes:
        chosen: settings that determine the clips of each video.
        frame_size_hw, classes: size of the frames in pixels, and the class names.
        fps: frame rate of the clips; None if unknown.
        data_hash: hash that identifies the data.
        num_action_dims: number of action values per latent frame; 0 without actions.
        videos: the videos that rows refer to.
        num_shards: number of shards.
        num_listed: number of videos, usable or not.
        max_skipped: maximum fraction of unusable videos.

    Raises:
        InputError: no video yields a clip.
    """

    max_skipped = 0.0

    def __init__(
        self, store: ClipStore, chosen: ClipConfig, frames_per_latent: int, latent_frames: int
    ):
        self.store, self.chosen = store, chosen
        self._latents = frames_per_latent, latent_frames
        self.frame_size_hw, self.classes = store.frame_size_hw, store.classes
        self.fps = usual_rate(store.videos, chosen.stride)
        self.data_hash = store.content_hash
        self.num_action_dims = num_action_dims(row_dims_of(store), chosen.stride, frames_per_latent)
        self.videos = store.videos
        self.num_shards, self.num_listed = len(store.shards), len(store.videos)
        self._members: list[list[int]] = [[] for _ in store.shards]
        for position, video in enumerate(store.videos):
            self._members[video.shard].append(position)
        if not any(
            windows_of_video(chosen, position, video.id, video.num_frames)
            for position, video in enumerate(store.videos)
        ):
            raise InputError(too_short(store.path, chosen))

    def num_videos(self, shard: int) -> int:
        """Return the number of videos in a shard."""
        return len(self._members[shard])

    def expect(self, shards: Sequence[int]) -> None:
        """Do nothing, since stored clips are not read ahead."""

    def clips(
        self, shard: int, findings: Findings, on_video: Callable[[], object]
    ) -> Iterator[PlacedClip]:
        """Yield the clips of a shard in the order of the videos.

        Args:
            shard: index of the shard.
            findings: record of the decoding, filled in by `RawClips` while the clips are read.
            on_video: function that is called after each video.
        """
        for position in self._members[shard]:
            source = self.store.videos[position]
            for window in windows_of_video(self.chosen, position, source.id, source.num_frames):
                cut = (position, window.start, self.chosen.num_frames, window.stride)
                actions = None
                if self.num_action_dims:
                    actions = actions_of_window(self.store, *cut, *self._latents)
                row = (position, window.start, window.stride)
                yield PlacedClip(row, read_window(self.store, window), actions)
            on_video()

    def close(self) -> None:
        """Do nothing, since there are no processes to stop."""


class RawClips:
    """The clips of raw videos, decoded on request; see `StoredClips` for the attributes.

    Args:
        path: folder that contains the list, or the folder that was listed.
        num_workers: number of processes that decode videos ahead of time.
        max_skipped: maximum fraction of unusable videos; None for the list's own limit.

    Raises:
        InputError: the list is damaged or was made by a version that produces different frames, or
            the decoder is not installed.
    """

    num_action_dims = 0

    def __init__(
        self,
        path: Path,
        raw: RawVideos,
        chosen: ClipConfig,
        num_workers: int,
        max_skipped: float | None,
    ):
        self._raw, self.chosen = raw, chosen
        recipe = _recipe_of(path, raw)
        self.frame_size_hw, self.classes = recipe.size_hw, raw.classes
        self.fps = None if recipe.fps is None else recipe.fps / chosen.stride
        self.data_hash = raw.content_hash
        self.videos = tuple(
            Video(video.id, video.label, video.split, video.group) for video in raw.videos
        )
        self.num_shards = raw.num_shards
        self.num_listed = len(raw.videos) + len(raw.skipped)
        self.max_skipped = raw.max_skipped if max_skipped is None else max_skipped
        self._decoders = FileDecoders(recipe, num_workers)
        self._expected: deque[int] = deque()
        self._decoded: Iterator[DecodedFile | UnreadableVideoError] = iter(())

    def num_videos(self, shard: int) -> int:
        """Return the number of videos in a shard."""
        return len(self._raw.shard(shard))

    def expect(self, shards: Sequence[int]) -> None:
        """Have the videos of these shards decoded ahead of time, in this order."""
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
            InputError: decoding fails for a reason unrelated to any single video.
        """
        if shard == 0:
            findings.skipped += self._raw.skipped
        if not self._expected or self._expected[0] != shard:
            self.expect([shard])
        self._expected.popleft()
        for position, video in zip(self._raw.shard(shard), self._videos_of(shard), strict=True):
            found = next(self._decoded)
            if isinstance(found, UnreadableVideoError):
                findings.skipped.append(Skipped(video.id, video.name, found.reason))
            else:
                findings.rates[position] = found.fps
                findings.notes += [{"id": video.id, "note": note} for note in found.oddities]
                for window in windows_of_video(self.chosen, position, video.id, len(found.frames)):
                    frames = found.frames[frame_numbers(window, len(found.frames))]
                    yield PlacedClip((position, window.start, window.stride), np.array(frames))
            on_video()

    def close(self) -> None:
        """Stop the decoding processes."""
        self._decoders.close()


ClipSource = StoredClips | RawClips


def too_short(data: Path, chosen: ClipConfig) -> str:
    """Return the error message for data whose videos are all shorter than a clip."""
    return (
        f"{data}: no video is as long as a clip of this tokenizer ({chosen.num_frames} frames at "
        f"stride {chosen.stride}); prepare longer videos, or extend short ones (--short-videos)"
    )


def _recipe_of(path: Path, raw: RawVideos) -> FrameRecipe:
    """Return the recipe of a list of raw videos, after checking it against the list's plan.

    Raises:
        InputError: the recipe is damaged, the list was made by a version that decodes different
            frames, or the decoder is not installed.
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
            f"{path}: was listed by a version of data-prep that makes different frames; "
            "list the videos again"
        )
    require_decoder(recipe.decoder)
    return recipe


def is_raw(path: Path) -> bool:
    """Return whether a folder contains a list of raw videos."""
    with suppress(InputError):
        return read_json(path / MANIFEST, "a manifest").get("format") == RAW_FORMAT
    return False


def require_data(path: Path, extensions: tuple[str, ...] | None = None) -> None:
    """Reject data other than a clip store, a list of raw videos, or videos, without loading torch.

    Raises:
        InputError: the data are damaged or something else; the message says what was found.
    """
    if is_raw(path):
        read_raw_videos(path)
        return
    if is_array_file(path):
        return
    if path.is_file():
        raise InputError(
            f"{path}: is a file; expected a clip store, a list of raw videos, or a folder of "
            "videos, frame folders or arrays. Name the folder that it is in; for an archive or a "
            "table of videos make a list with `data-prep … --list-only`"
        )
    if not is_folder_of_files(path):
        ClipStore(path)
    elif not holds_video(path, extensions):
        raise InputError(
            f"{path}: expected a clip store, a list of raw videos, or a folder of videos; found a "
            f"folder without a {MANIFEST}, and no name in it ends in "
            f"{', '.join(extensions or TAKEN_SUFFIXES)}"
        )
