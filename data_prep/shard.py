"""Preparation of one shard of a clip store from raw videos."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from data_prep.sources import Item, ItemKind, Notes, OpenItem
from data_prep.sources.bair import open_record
from data_prep.sources.files import open_video_file
from data_prep.sources.lerobot_episode import EpisodeOpener
from video_vq.media.child import WatchVideo
from video_vq.media.decode import Decoder
from video_vq.media.prepared import FrameRecipe
from video_vq.media.probe import UnreadableVideoError
from video_vq.stores.clips import ClipStoreWriter, PreparedVideo, Skipped, UnusableVideoError

# Factories of the functions that open a shard's items.
OPENERS: dict[ItemKind, Callable[[], OpenItem]] = {
    "file": lambda: open_video_file,
    "record": lambda: open_record,
    "episode": EpisodeOpener,
}


@dataclass(frozen=True)
class Verdict:
    """The conclusion from an earlier attempt to decode a video.

    Attributes:
        skip: reason to skip the video; None to decode the video.
        decoder: decoder to use; None for the recipe's decoder.
    """

    skip: str | None = None
    decoder: Decoder | None = None


def prepare_shard(
    writer: ClipStoreWriter,
    recipe: FrameRecipe,
    shard: int,
    items: Sequence[Item],
    skipped: Sequence[Skipped],
    verdicts: Mapping[str, Verdict],
    watch: WatchVideo,
) -> None:
    """Decode the videos of a shard, then write and commit the shard.

    A video that cannot be used is skipped, and the reason is recorded.

    Args:
        writer: writer of the clip store.
        recipe: settings for decoding the frames.
        shard: index of the shard.
        items: videos in the shard.
        skipped: files that are already known to be unusable, recorded with the shard.
        verdicts: conclusions from earlier attempts, by video id.
        watch: function that is called with a video's id and stage, and a limit on CPU seconds.

    Raises:
        OSError: the store cannot be written.
    """
    kinds: set[ItemKind] = {item.kind for item in items}
    openers = {kind: OPENERS[kind]() for kind in kinds}
    left_out = list(skipped)
    notes: Notes = []

    def videos() -> Iterator[PreparedVideo]:
        for item in items:
            verdict = verdicts.get(item.id, Verdict())
            try:
                if verdict.skip is not None:
                    raise UnusableVideoError(verdict.skip)
                by = replace(recipe, decoder=verdict.decoder or recipe.decoder)
                prepared = open_video(openers[item.kind], item, by, watch, notes)
                _require_widths(prepared, writer.arrays)
                yield prepared
            except UnusableVideoError as reason:
                left_out.append(Skipped(item.id, item.name, str(reason)))
            watch(item.id, "done", 0.0)

    writer.write_shard(shard, videos(), left_out, notes)


def _require_widths(prepared: PreparedVideo, arrays: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UnusableVideoError if the number of values in a row has changed since the listing."""
    for name, shape in arrays.items():
        found = np.shape(prepared.arrays[name])[1:]
        if found != shape:
            raise UnusableVideoError(
                f"its {name} have rows of {' x '.join(map(str, found))} numbers, "
                f"{' x '.join(map(str, shape))} when they were listed; something writes to them"
            )


def open_video(
    open_item: OpenItem, item: Item, recipe: FrameRecipe, watch: WatchVideo, notes: Notes
) -> PreparedVideo:
    """Return an opened video, whose frames are decoded during iteration.

    Args:
        open_item: function that opens items of this kind.
        item: video to open.
        recipe: settings for decoding the frames.
        watch: function that is called with the video's id and stage, and a limit on CPU seconds.
        notes: list to which notes on the video's irregularities are added.

    Raises:
        UnusableVideoError: the video cannot be used; raised immediately or during iteration.
    """
    watch(item.id, "read", recipe.cpu_limit(item.num_bytes))
    try:
        opened = open_item(item, recipe, partial(watch, item.id), notes)
    except UnreadableVideoError as error:
        raise UnusableVideoError(error.reason) from None
    except OSError as error:
        raise UnusableVideoError(f"cannot be read ({error.strerror})") from None
    return replace(opened, frames=_frames(opened.frames))


def _frames(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    try:
        yield from frames
    except UnreadableVideoError as error:
        raise UnusableVideoError(error.reason) from None
