"""Encodes clips to tokens on a Ray cluster, with one task per shard."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from accelerate import Accelerator
from tqdm import tqdm

from video_vq.errors import InputError
from video_vq.ray_tasks import not_shared, run_on_ray
from video_vq.stages.encode_clips import Encoder, encode_clips, open_encoder
from video_vq.stages.encode_job import EncodeJob
from video_vq.stores.shards import plan_of
from video_vq.stores.tokens import TokenStore


def encode_on_ray(make_accelerator: Callable[[], Accelerator], job: EncodeJob) -> TokenStore:
    """Encode clips on a Ray cluster, one task per shard; Ray does not affect the tokens' bytes.

    Args:
        make_accelerator: function that creates an accelerator in this process and in each worker
            process.
        job: the encoding job, whose paths must be accessible from every machine.

    Raises:
        InputError: as for `encode_clips` and `run_on_ray`; or this process is one of several ranks.
    """
    accelerator = make_accelerator()
    if accelerator.num_processes > 1:
        raise InputError(
            "--engine ray distributes the work itself; start it once, without accelerate launch"
        )
    job = replace(
        job, **{name: getattr(job, name).absolute() for name in ("data", "tokenizer", "out")}
    )
    how = _Computing(make_accelerator, accelerator.mixed_precision, torch.get_num_threads())

    def engine(
        encoder: Encoder, shards: Sequence[int], bar: tqdm, on_done: Callable[[int], None]
    ) -> None:
        def committed(shard: int) -> None:
            bar.update(encoder.source.num_videos(shard))
            on_done(shard)

        run_on_ray(
            _encode_shard,
            {shard: (job, how, shard) for shard in shards},
            committed,
            num_cpus=max(how.num_threads, job.workers),
            needs_gpu=accelerator.device.type == "cuda",
        )

    return encode_clips(accelerator, job, engine)


class _Computing(NamedTuple):
    """Settings that make a worker process compute the same bytes as this process."""

    make_accelerator: Callable[[], Accelerator]
    precision: str
    num_threads: int


def _encode_shard(job: EncodeJob, how: _Computing, shard: int) -> None:
    if plan_of(job.out) is None:
        raise InputError(not_shared(job.out))
    encoder = _encoder_of_process(job, how)
    with encoder.writer.locked(shard):
        if not encoder.writer.is_committed(shard):
            encoder.encode(shard, lambda: None)


@functools.lru_cache(maxsize=1)
def _encoder_of_process(job: EncodeJob, how: _Computing) -> Encoder:
    os.environ["ACCELERATE_MIXED_PRECISION"] = how.precision
    torch.set_num_threads(how.num_threads)
    return open_encoder(job, how.make_accelerator(), owner=False)
