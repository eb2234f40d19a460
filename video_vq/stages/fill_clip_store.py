"""Writes the clips that a model makes as a clip store, whose shards the ranks share."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from tqdm import tqdm

from video_vq.distributed import main_process_first
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo
from video_vq.stores.places import require_room


class MadeClips(NamedTuple):
    """The clips of a store to fill.

    Attributes:
        plan: settings that determine their bytes, as JSON.
        num_clips: number of clips, each a video of the store.
        per_shard: number of clips in a shard.
        size_thw: size of each clip.
        classes: ordered class names.
    """

    plan: dict[str, Any]
    num_clips: int
    per_shard: int
    size_thw: tuple[int, int, int]
    classes: tuple[str, ...]


def fill_clip_store(
    accelerator: Accelerator,
    out: Path,
    clips: MadeClips,
    doing: str,
    make: Callable[[range, tqdm], Iterable[PreparedVideo]],
) -> ClipStore:
    """Make the missing clips; the same call again resumes where it stopped.

    Args:
        accelerator: the accelerator whose ranks share the shards.
        doing: verb for the progress bar.
        make: function that yields the clips of given numbers and advances the bar.

    Raises:
        InputError: the folder holds something else, or the disk is too small.
    """
    num_frames, height, width = clips.size_thw
    with main_process_first(accelerator):
        owner = accelerator.is_main_process
        writer = ClipStoreWriter(out, (height, width), clips.plan, owner=owner)
    firsts = range(0, clips.num_clips, clips.per_shard)
    shards = [range(first, min(first + clips.per_shard, clips.num_clips)) for first in firsts]
    missing = [shard for shard in range(len(shards)) if not writer.is_committed(shard)]
    rank, num_ranks = accelerator.process_index, accelerator.num_processes
    mine = [shard for shard in missing if shard % num_ranks == rank]
    clip_bytes = 3 * math.prod((num_frames, height, width))
    require_room(out, clip_bytes * sum(len(shards[shard]) for shard in missing))
    with progress(doing, sum(len(shards[shard]) for shard in mine), "clip") as bar:
        for shard in mine:
            writer.write_shard(shard, make(shards[shard], bar))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        writer.finish(len(shards), clips.classes)
    accelerator.wait_for_everyone()
    return ClipStore(out)
