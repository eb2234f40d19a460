"""Tokens to clips: sharded over ranks, a shard is the unit that is committed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from video_vq.distributed import main_process_first
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.progress import progress
from video_vq.stages.finished import plan_of_decoding
from video_vq.stages.fit import require_same_tokenizer
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.places import require_room
from video_vq.stores.tokens import TokenStore

CLIPS_PER_SHARD = 1024


def decode_store(
    accelerator: Accelerator,
    tokens: Path,
    tokenizer_path: Path,
    out: Path,
    split: str | None = None,
    batch_size: int = 16,
) -> ClipStore:
    """Turn every grid of a token store into a clip; the same call again goes on where it stopped.

    Args:
        tokens: a token store, of real clips or of a prior's samples.
        split: decode this split alone; None for all.

    Raises:
        InputError: the tokens were made by another tokenizer.
    """
    tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
    store = TokenStore(tokens)
    require_same_tokenizer(tokenizer, store.header.tokenizer_hash, str(tokens))
    rows = [int(row) for row in store.rows(split)]
    plan = plan_of_decoding(store, tokenizer.hash, split, batch_size, accelerator.mixed_precision)
    with main_process_first(accelerator):
        writer = ClipStoreWriter(
            out, store.header.frame_size_hw, plan, owner=accelerator.is_main_process
        )
    num_shards = -(-len(rows) // CLIPS_PER_SHARD)
    mine = range(accelerator.process_index, num_shards, accelerator.num_processes)
    todo = [shard for shard in mine if not writer.is_committed(shard)]
    missing = [shard for shard in range(num_shards) if not writer.is_committed(shard)]
    height, width = store.header.frame_size_hw
    clip_bytes = store.header.num_frames * height * width * 3
    require_room(out, clip_bytes * sum(len(_part(rows, shard)) for shard in missing))
    bar = progress("decoding", sum(len(_part(rows, shard)) for shard in todo), "clip")
    for shard in todo:
        part = _part(rows, shard)
        writer.write_shard(
            shard,
            _decoded_videos(accelerator, tokenizer, store, part, batch_size, bar.update),
        )
    bar.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        writer.finish(num_shards, store.header.classes)
    accelerator.wait_for_everyone()
    return ClipStore(out)


def _decoded_videos(
    accelerator: Accelerator, tokenizer: VideoTokenizer, store: TokenStore, rows, batch_size, tick
) -> Iterator[PreparedVideo]:
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        grids = np.stack([store.read(row) for row in chosen]).astype(np.int64)
        clips = decode_grids(accelerator, tokenizer, torch.from_numpy(grids), batch_size)
        for row, clip in zip(chosen, clips, strict=True):
            source = store.video_of(row)
            _, first, stride = store.window_of(row)
            fps = store.header.fps if source.fps is None else source.fps / stride
            name = f"{source.id}@{first}+{stride}"
            origin = {"video": source.id, "first_frame": first, "stride": stride}
            yield PreparedVideo(
                Video(
                    name,
                    source.label,
                    source.split,
                    source.group,
                    fps=fps,
                    origin=origin,
                ),
                [clip],
                {},
            )
        tick(len(chosen))


def decode_grids(
    accelerator: Accelerator, tokenizer: VideoTokenizer, grids: torch.Tensor, batch_size: int
) -> np.ndarray:
    """Decode integer grids n t h w to uint8 clips n t h w 3, always `batch_size` at a time.

    A short batch is filled up, so that a clip's bytes do not depend on how full its batch was.
    """
    decoded = []
    for start in range(0, len(grids), batch_size):
        part = grids[start : start + batch_size]
        index = torch.arange(batch_size).clamp(max=len(part) - 1)
        with accelerator.autocast():
            video = tokenizer.decode(part[index].to(accelerator.device))
        decoded.append(to_uint8(video)[: len(part)].cpu().numpy())
    return np.concatenate(decoded)


def _part(items: list, shard: int) -> list:
    return items[shard * CLIPS_PER_SHARD : (shard + 1) * CLIPS_PER_SHARD]
