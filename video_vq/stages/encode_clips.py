"""Clips to tokens: sharded over ranks, a shard is the unit that is committed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float

from video_vq.data.actions import actions_of_window, num_action_dims, row_dims_of
from video_vq.distributed import main_process_first
from video_vq.errors import InputError
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.progress import progress
from video_vq.stages.clip_sources import Findings, StoredClips
from video_vq.stages.encode_job import EncodeJob, clips_of_job, header_of_job
from video_vq.stages.raw_folder import (
    is_folder_of_files,
    keep_list,
    kept_list,
    list_folder,
    require_same_list,
    say_views,
)
from video_vq.stores.clips import ClipStore
from video_vq.stores.raw_videos import RawVideos
from video_vq.stores.tokens import TokenStore, TokenStoreWriter
from video_vq.stores.videos import require_few_skipped


class Encoder:
    """One process's part in turning clips into tokens, shard by shard; close it in the end.

    Args:
        job: the same in all processes.
        accelerator: says where and how precisely it computes; its ranks are not asked.
        owner: True in the process that opens the token store first (see ShardFolder).

    Attributes:
        num_shards: of the job.

    Raises:
        InputError: data or tokenizer are missing or damaged, or the sizes do not fit.
    """

    def __init__(self, job: EncodeJob, accelerator: Accelerator, owner: bool):
        self._job, self._accelerator = job, accelerator
        self._tokenizer = VideoTokenizer.from_pretrained(job.tokenizer, device=accelerator.device)
        facts, config = self._tokenizer.facts, self._tokenizer.config
        listed = None if not is_folder_of_files(job.data) else self._listed(owner)
        self._clips = clips_of_job(job, facts, listed)
        self.num_shards = self._clips.num_shards
        header = header_of_job(
            job, self._clips, config, facts, self._tokenizer.hash, accelerator.mixed_precision
        )
        if isinstance(self._clips, StoredClips) and not self._clips.has_clips():
            raise self._too_short()
        self._writer = TokenStoreWriter(job.out, header, owner=owner)
        if owner and listed is not None:
            keep_list(job.out, listed)
            say_views(listed)
        self._skipped: dict[int, list[dict[str, str]]] = {}

    def _listed(self, owner: bool) -> RawVideos:
        """Return the list of a folder: the owner's, who has looked at the files, for all others."""
        kept = None if owner else kept_list(self._job.out)
        if kept is not None:
            return kept
        job = self._job
        found = list_folder(job.data, job.folder, self._tokenizer.facts.frame_size_hw)
        if owner:
            require_same_list(job.out, found)
        return found

    def close(self) -> None:
        """End the processes that decode."""
        self._clips.close()

    def missing(self, shards: Iterable[int]) -> list[int]:
        """Return those of some shards that are still to be made."""
        return [shard for shard in shards if not self._writer.is_committed(shard)]

    def num_videos(self, shards: Iterable[int]) -> int:
        """Return how many videos some shards have."""
        return sum(self._clips.num_videos(shard) for shard in shards)

    @contextmanager
    def locked(self, shard: int) -> Iterator[None]:
        """Hold one shard, where another machine may still be at it."""
        with self._writer.folder.locked(shard):
            yield

    def expect(self, shards: Sequence[int]) -> None:
        """Say which shards `encode` will be called for, in order: raw ones are decoded ahead."""
        self._clips.expect(shards)

    def encode(self, shard: int, on_video: Callable[[], object]) -> None:
        """Make and commit one shard; its bytes depend on the job alone, not on who makes it.

        Batches never reach over the end of a shard.
        """
        grids = [np.empty((0, *self._writer.header.grid_thw), np.int64)]
        rows: list[tuple[int, int, int]] = []
        findings = Findings()
        clips = self._clips.clips(shard, findings, on_video)
        while batch := list(islice(clips, self._job.batch_size)):
            video = torch.from_numpy(np.stack([clip.frames for clip in batch]))
            with self._accelerator.autocast():
                codes = self._tokenizer.encode(video.to(self._accelerator.device))
            grids.append(codes.cpu().numpy())
            rows += [clip.row for clip in batch]
        placed = np.array(rows, np.int64).reshape(-1, 3)
        actions = None
        if self._writer.header.num_action_dims and isinstance(self._clips, StoredClips):
            actions = actions_of_rows(self._clips.store, self._tokenizer, placed)
        self._writer.write_shard(
            shard,
            np.concatenate(grids),
            placed,
            actions,
            skipped=findings.skipped,
            rates=findings.rates,
            notes=findings.notes,
        )

    def require_few_skipped(self, shards: Iterable[int]) -> None:
        """Stop when some shards, and those that were looked at before, lost too many videos.

        Args:
            shards: those that are not committed yet are passed over.

        Raises:
            InputError: names the first, and why.
        """
        for shard in shards:
            known = shard in self._skipped or self._writer.is_complete
            if not known and self._writer.is_committed(shard):
                self._skipped[shard] = self._writer.skipped(shard)
        limit = self._job.max_skipped
        require_few_skipped(
            [entry for entries in self._skipped.values() for entry in entries],
            self._clips.num_listed,
            self._clips.max_skipped if limit is None else limit,
        )

    def require_clips(self) -> None:
        """Refuse data whose videos are all too short, when all shards are made.

        Raises:
            InputError: there is no clip.
        """
        if not self._writer.is_complete and not self._writer.num_grids(self.num_shards):
            raise self._too_short()

    def _too_short(self) -> InputError:
        facts = self._tokenizer.facts
        return InputError(
            f"{self._job.data}: no video is as long as a clip of this tokenizer "
            f"({facts.num_frames} frames at stride {facts.stride}); prepare longer videos, "
            "or fill up short ones (--short-videos)"
        )

    def finish(self) -> TokenStore:
        """Seal the token store."""
        if self._writer.is_complete:
            return TokenStore(self._job.out)
        rates = self._writer.rates(self.num_shards)
        videos = [
            replace(video, fps=rates.get(position, video.fps))
            for position, video in enumerate(self._clips.videos)
        ]
        return self._writer.finish(self.num_shards, videos)


def encode_clips(accelerator: Accelerator, job: EncodeJob) -> TokenStore:
    """Turn clips into tokens; the same call again goes on where it stopped.

    Args:
        accelerator: shares the shards among its ranks.
        job: what to encode.

    Raises:
        InputError: data or tokenizer are missing or damaged, the sizes do not fit, or too many raw
            videos cannot be used.
    """
    with main_process_first(accelerator):
        encoder = Encoder(job, accelerator, owner=accelerator.is_main_process)
    try:
        todo = encoder.missing(_mine(accelerator, encoder.num_shards))
        encoder.require_few_skipped(range(encoder.num_shards))
        encoder.expect(todo)
        with progress("encoding", encoder.num_videos(todo), "video") as bar:
            for shard in todo:
                encoder.encode(shard, bar.update)
                encoder.require_few_skipped([shard])
        accelerator.wait_for_everyone()
        encoder.require_few_skipped(range(encoder.num_shards))
        encoder.require_clips()
        if accelerator.is_main_process:
            encoder.finish()
    finally:
        encoder.close()
    accelerator.wait_for_everyone()
    return TokenStore(job.out)


def actions_of_rows(
    store: ClipStore, tokenizer: VideoTokenizer, rows: np.ndarray
) -> Float[np.ndarray, "n t a"]:
    """Return the actions of clips of this tokenizer, each a row of video, first frame, stride."""
    facts, strides = tokenizer.facts, tokenizer.config.backbone.total_stride_thw
    shape = facts.grid_thw[0], num_action_dims(row_dims_of(store), facts.stride, strides[0])
    found = [
        actions_of_window(
            store, video, start, facts.num_frames, stride, strides[0], facts.grid_thw[0]
        )
        for video, start, stride in rows.tolist()
    ]
    return np.stack([*found, np.zeros(shape, np.float32)])[:-1]


def _mine(accelerator: Accelerator, num_shards: int) -> range:
    return range(accelerator.process_index, num_shards, accelerator.num_processes)
