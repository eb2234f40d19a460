"""Decodes tokens to clips, and writes the clips to a clip store."""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.stages.decode_job import DecodeJob
from video_vq.stages.fill_clip_store import MadeClips, fill_clip_store
from video_vq.stages.model_pair import require_same_tokenizer
from video_vq.stores.clips import ClipStore, PreparedVideo, Video
from video_vq.stores.tokens import TokenStore

CLIPS_PER_SHARD = 1024


def decode_store(accelerator: Accelerator, job: DecodeJob) -> ClipStore:
    """Decode the grids of a token store to clips; a repeated call resumes an interrupted run.

    Raises:
        InputError: the tokens or the tokenizer are missing or damaged, or do not match; or as for
            `fill_clip_store`.
    """
    tokenizer = VideoTokenizer.from_pretrained(job.tokenizer, device=accelerator.device)
    store = TokenStore(job.tokens)
    header = store.header
    require_same_tokenizer(tokenizer, header.tokenizer_hash, str(job.tokens))
    rows = [int(row) for row in store.rows(job.split)]

    def decoded(numbers: range, bar: tqdm) -> Iterator[PreparedVideo]:
        for start in range(numbers.start, numbers.stop, job.batch_size):
            chosen = rows[start : min(start + job.batch_size, numbers.stop)]
            grids = torch.from_numpy(store.read_rows(chosen))
            clips = decode_grids(accelerator, tokenizer, grids, job.batch_size)
            for row, clip in zip(chosen, clips, strict=True):
                yield PreparedVideo(_video(store, row), [clip], {})
            bar.update(len(chosen))

    plan = job.plan(store.content_hash, tokenizer.hash, accelerator.mixed_precision)
    size_thw = (header.num_frames, *header.frame_size_hw)
    clips = MadeClips(plan, len(rows), CLIPS_PER_SHARD, size_thw, header.classes)
    return fill_clip_store(accelerator, job.out, clips, "decoding", decoded)


def _video(store: TokenStore, row: int) -> Video:
    source = store.video_of(row)
    _, first, stride = store.window_of(row)
    return Video(
        f"{source.id}@{first}+{stride}",
        source.label,
        source.split,
        source.group,
        fps=store.header.fps if source.fps is None else source.fps / stride,
        origin={"video": source.id, "first_frame": first, "stride": stride},
    )


def decode_grids(
    accelerator: Accelerator, tokenizer: VideoTokenizer, grids: torch.Tensor, batch_size: int
) -> np.ndarray:
    """Decode integer grids n t h w *level to uint8 clips n t h w 3, in batches of `batch_size`.

    A short batch is padded, so that a clip's bytes do not depend on the number of clips in the
    batch.
    """
    decoded = []
    for start in range(0, len(grids), batch_size):
        part = grids[start : start + batch_size]
        index = torch.arange(batch_size).clamp(max=len(part) - 1)
        with accelerator.autocast():
            video = tokenizer.decode(part[index].to(accelerator.device))
        decoded.append(to_uint8(video)[: len(part)].cpu().numpy())
    return np.concatenate(decoded)
