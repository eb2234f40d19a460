"""Encodes clips to tokens, shard by shard, and writes the tokens to a token store.

Each rank, or each task on a Ray cluster (`encode_on_ray.py`), encodes different shards.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import islice

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from video_vq.distributed import main_process_first
from video_vq.errors import InputError
from video_vq.models.model_folder import TokenizerIdentity
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.progress import progress
from video_vq.stages.clip_sources import ClipSource, Findings, PlacedClip, too_short
from video_vq.stages.encode_job import EncodeJob, header_of_job, open_source
from video_vq.stages.raw_folder import keep_list, list_for_tokens, say_views
from video_vq.stores.tokens import TokenStore, TokenStoreWriter
from video_vq.stores.videos import require_few_skipped


class Encoder:
    """Encodes shards of clips in one process.

    Args:
        accelerator: the accelerator, which determines the tokenizer's device and precision; the
            number of ranks has no effect.
    """

    def __init__(
        self,
        source: ClipSource,
        tokenizer: VideoTokenizer,
        writer: TokenStoreWriter,
        accelerator: Accelerator,
        batch_size: int,
    ):
        self.source, self.tokenizer, self.writer = source, tokenizer, writer
        self._accelerator, self._batch_size = accelerator, batch_size

    def encode(self, shard: int, on_video: Callable[[], object]) -> None:
        """Encode and commit one shard; the shard's bytes do not depend on the process.

        No batch contains clips of two shards.
        """
        header, findings = self.writer.header, Findings()
        clips = self.source.clips(shard, findings, on_video)
        tokens = [np.empty((0, *header.token_shape), np.int64)]
        rows: list[tuple[int, int, int]] = []
        actions: list[np.ndarray | None] = []
        while batch := list(islice(clips, self._batch_size)):
            tokens.append(self._tokens(batch))
            rows += [clip.row for clip in batch]
            actions += [clip.actions for clip in batch]
        steered = None
        if header.num_action_dims:
            steered = np.array(actions, np.float32).reshape(-1, *header.actions_shape)
        self.writer.write_shard(
            shard,
            np.concatenate(tokens),
            np.array(rows, np.int64).reshape(-1, 3),
            steered,
            skipped=findings.skipped,
            rates=findings.rates,
            notes=findings.notes,
        )

    def _tokens(self, clips: Sequence[PlacedClip]) -> np.ndarray:
        video = torch.from_numpy(np.stack([clip.frames for clip in clips]))
        with self._accelerator.autocast():
            return self.tokenizer.encode(video.to(self._accelerator.device)).cpu().numpy()


def open_encoder(job: EncodeJob, accelerator: Accelerator, owner: bool) -> Encoder:
    """Return the encoder of a job; the caller must close the encoder's source.

    Args:
        owner: whether this process opens the token store first (see `ShardFolder`).

    Raises:
        InputError: the data or the tokenizer is missing, damaged or unsuitable, the data have
            changed since encoding began, or the output folder contains something else.
    """
    tokenizer = VideoTokenizer.from_pretrained(job.tokenizer, device=accelerator.device)
    identity = TokenizerIdentity(tokenizer.config, tokenizer.facts, tokenizer.hash)
    listed = list_for_tokens(job.out, job.data, job.folder, identity.facts.frame_size_hw, owner)
    source = open_source(job, identity, listed)
    header = header_of_job(job, source, identity, accelerator.mixed_precision)
    writer = TokenStoreWriter(job.out, header, owner=owner)
    if owner and listed is not None:
        keep_list(job.out, listed)
        say_views(listed)
    return Encoder(source, tokenizer, writer, accelerator, job.batch_size)


# Encodes the given shards, advances the bar, and calls the function with each finished shard.
Engine = Callable[[Encoder, Sequence[int], tqdm, Callable[[int], None]], None]


def _in_this_process(
    encoder: Encoder, shards: Sequence[int], bar: tqdm, on_done: Callable[[int], None]
) -> None:
    encoder.source.expect(shards)
    for shard in shards:
        encoder.encode(shard, bar.update)
        on_done(shard)


def encode_clips(
    accelerator: Accelerator, job: EncodeJob, engine: Engine = _in_this_process
) -> TokenStore:
    """Encode clips to tokens; a repeated call resumes an interrupted run.

    Args:
        accelerator: accelerator among whose ranks the shards are split.
        engine: function that encodes this rank's shards.

    Raises:
        InputError: as for `open_encoder`; or too many raw videos cannot be used, or no video yields
            a clip.
    """
    with main_process_first(accelerator):
        encoder = open_encoder(job, accelerator, owner=accelerator.is_main_process)
    source, writer = encoder.source, encoder.writer
    with closing(source):
        skipped = _SkippedVideos(source, writer)
        shards = range(source.num_shards)
        mine = shards[accelerator.process_index :: accelerator.num_processes]
        todo = [shard for shard in mine if not writer.is_committed(shard)]
        skipped.require_few(shards)
        with progress("encoding", sum(map(source.num_videos, todo)), "video") as bar:
            engine(encoder, todo, bar, lambda shard: skipped.require_few([shard]))
        accelerator.wait_for_everyone()
        skipped.require_few(shards)
        if not writer.is_complete and not writer.num_grids(len(shards)):
            raise InputError(too_short(job.data, source.chosen))
        if accelerator.is_main_process:
            writer.finish(len(shards), source.videos)
    accelerator.wait_for_everyone()
    return TokenStore(job.out)


class _SkippedVideos:
    """The videos skipped in committed shards; each shard's list is read once."""

    def __init__(self, source: ClipSource, writer: TokenStoreWriter):
        self._source, self._writer = source, writer
        self._of_shard: dict[int, list[dict[str, str]]] = {}

    def require_few(self, shards: Iterable[int]) -> None:
        """Raise InputError if too many videos were skipped in the shards given so far.

        Args:
            shards: indices of shards; uncommitted shards are ignored.
        """
        for shard in shards:
            known = shard in self._of_shard or self._writer.is_complete
            if not known and self._writer.is_committed(shard):
                self._of_shard[shard] = self._writer.skipped(shard)
        skipped = [entry for entries in self._of_shard.values() for entry in entries]
        require_few_skipped(skipped, self._source.num_listed, self._source.max_skipped)
