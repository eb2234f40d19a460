"""Clips to tokens: sharded over ranks, a shard is the unit that is committed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float

from video_vq.data.actions import actions_of_window, num_action_dims, row_dims_of
from video_vq.data.clip_config import ClipConfig
from video_vq.errors import InputError
from video_vq.evaluation.clip_sources import Findings, RawClips, StoredClips, is_raw
from video_vq.evaluation.raw_folder import (
    FolderOptions,
    is_folder_of_files,
    keep_list,
    kept_list,
    list_folder,
    require_same_list,
)
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore
from video_vq.stores.raw_videos import RawVideos, read_raw_videos
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter
from video_vq.stores.videos import require_few_skipped

ALL_CLIPS = ClipConfig(windows="all")  # that follow each other without overlap


@dataclass(frozen=True)
class EncodeJob:
    """What to encode, by what and to where: all that a process needs to do its part.

    Attributes:
        data: a clip store, a list of raw videos, or a folder of videos.
        tokenizer: a tokenizer's folder, or the run folder it is in.
        out: the token store.
        clips: which clips of each video; their length and stride are the tokenizer's.
        batch_size: clips at a time.
        workers: processes of each rank that decode raw videos.
        max_skipped: share of raw videos that may be unusable; None for the list's own.
        folder: how a folder of videos becomes clips.
    """

    data: Path
    tokenizer: Path
    out: Path
    clips: ClipConfig = ALL_CLIPS
    batch_size: int = 16
    workers: int = 1
    max_skipped: float | None = None
    folder: FolderOptions = field(default_factory=FolderOptions)


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
        facts = self._tokenizer.facts
        chosen = replace(job.clips, num_frames=facts.num_frames, stride=facts.stride)
        listed = None if not is_folder_of_files(job.data) else self._listed(owner)
        self._clips: StoredClips | RawClips
        if listed is None and not is_raw(job.data):
            self._clips = StoredClips(ClipStore(job.data), chosen)
        else:
            raw = listed or read_raw_videos(job.data)
            self._clips = RawClips(job.data, raw, chosen, job.workers)
        self.num_shards = self._clips.num_shards
        height, width = self._clips.frame_size_hw
        header = TokenHeader(
            tokenizer_hash=self._tokenizer.hash,
            codebook_size=self._tokenizer.config.quantizer.codebook_size,
            grid_thw=self._tokenizer.config.backbone.grid_thw((facts.num_frames, height, width)),
            num_frames=facts.num_frames,
            frame_size_hw=self._clips.frame_size_hw,
            fps=self._clips.fps,
            classes=self._clips.classes,
            data_hash=self._clips.data_hash,
            made_by={
                **_settings(chosen),
                "shards": self.num_shards,
                "batch_size": job.batch_size,
                "precision": accelerator.mixed_precision,
            },
            num_action_dims=self._num_action_dims(),
        )
        if isinstance(self._clips, StoredClips) and not self._clips.has_clips():
            raise self._too_short()
        self._writer = TokenStoreWriter(job.out, header, owner=owner)
        if owner and listed is not None:
            keep_list(job.out, listed)
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

    def _num_action_dims(self) -> int:
        if not isinstance(self._clips, StoredClips):
            return 0
        facts, config = self._tokenizer.facts, self._tokenizer.config.backbone
        row_dims = row_dims_of(self._clips.store)
        return num_action_dims(row_dims, facts.stride, config.total_stride_thw[0])

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
    with accelerator.main_process_first():
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


def _settings(clips: ClipConfig) -> dict[str, Any]:
    """Return what chose the windows, as JSON; the length of a clip stands elsewhere."""
    chosen: dict[str, Any] = {"hop": clips.hop or clips.num_frames * clips.stride}
    if clips.windows != "all":
        chosen = {"windows_rule": clips.windows, "clips_per_video": clips.clips_per_video}
    if clips.short_videos != "leave_out":
        chosen["short_videos"] = clips.short_videos
    return chosen


def _mine(accelerator: Accelerator, num_shards: int) -> range:
    return range(accelerator.process_index, num_shards, accelerator.num_processes)
