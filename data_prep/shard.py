"""Turns raw videos into one shard of a clip store, the unit of work of a run."""

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

# What makes the opener of a shard's items.
OPENERS: dict[ItemKind, Callable[[], OpenItem]] = {
    "file": lambda: open_video_file,
    "record": lambda: open_record,
    "episode": EpisodeOpener,
}


@dataclass(frozen=True)
class Verdict:
    """The findings of an earlier attempt on a video.

    Attributes:
        skip: reason to leave it out; None to keep it.
        decoder: the decoder to use; None for the recipe's.
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
    """Decode the videos of one shard, then write and commit it.

    A video that cannot be used is left out, with its reason.

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
    """Raise unless rows have the same number of values as when the source was listed."""
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
    """Open one video; its frames are decoded as they are taken.

    Raises:
        UnusableVideoError: the video cannot be used; raised now or while the frames are taken.
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
