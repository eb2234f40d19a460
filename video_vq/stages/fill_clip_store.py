"""Writes a model's clips to a clip store, whose shards are divided among the ranks."""

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
    """A description of the clips to write to a store.

    Attributes:
        plan: settings that determine the clips' bytes, as JSON.
        num_clips: number of clips, each of which is a video in the store.
        per_shard: number of clips in a shard.
        size_thw: number of frames, height and width of each clip.
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
    """Make and write the missing clips; a repeated call resumes an interrupted run.

    Args:
        accelerator: accelerator among whose ranks the shards are split.
        doing: description shown in the progress bar, such as "decoding".
        make: function that yields the clips with the given indices and advances the bar.

    Raises:
        InputError: the folder contains other files or a store with another plan, or the disk has
            too little free space.
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
