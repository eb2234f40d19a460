"""Samples of a prior as a clip store: sharded over ranks, resumable, one seed per sample."""

import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from video_vq.distributed import main_process_first
from video_vq.errors import InputError
from video_vq.models.prior import Prior
from video_vq.models.prior_config import NO_CLASS
from video_vq.models.sampling import TokenSampler
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.progress import progress
from video_vq.stages.decode_tokens import decode_grids
from video_vq.stages.fit import require_same_tokenizer
from video_vq.stages.given_actions import (
    SampleActions,
    read_steering,
    rows_wanted,
    steering_of_videos,
)
from video_vq.stages.given_frames import Prompts
from video_vq.stages.sample_job import DEFAULT_NUMBER, Dtype, SampleRequest, sample_plan
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.places import require_room

DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def sample_store(
    accelerator: Accelerator,
    prior_path: Path,
    tokenizer_path: Path,
    out: Path,
    request: SampleRequest,
) -> ClipStore:
    """Sample clips and write them as a clip store; the same call again goes on.

    A sample depends on its number, the seed, the settings, its prompt and actions, batch size,
    dtype and, on a CPU, the number of threads alone: all of them are in the store's plan.

    Args:
        accelerator: shares the shards (one batch each) among its ranks.
        request: what is to be sampled.

    Raises:
        InputError: prior and tokenizer do not belong together, there is no such class, or prompts
            or actions do not fit.
    """
    prior = Prior.from_pretrained(prior_path, device=accelerator.device)
    tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
    require_same_tokenizer(tokenizer, prior.facts.tokenizer_hash, str(prior_path))
    require_same_grid(prior, tokenizer, prior_path)
    prompts = None
    if request.given is not None:
        prompts = Prompts(request.given, request.samples_per_clip, tokenizer)
    actions = _actions(request, prompts, prior, tokenizer)
    num_samples = _number(request.num_samples, prompts, actions)
    classes = list(prior.facts.classes)
    label, batch_size, seed = request.label, request.batch_size, request.seed
    require_class(prior, label)
    threads = torch.get_num_threads() if accelerator.device.type == "cpu" else None
    plan = {
        **sample_plan(
            request, num_samples, prior.hash, tokenizer.hash, accelerator.mixed_precision, threads
        ),
        **({} if prompts is None else prompts.plan()),
        **({} if actions is None else actions.plan),
    }
    with main_process_first(accelerator):
        writer = ClipStoreWriter(
            out, prior.facts.frame_size_hw, plan, owner=accelerator.is_main_process
        )
    num_shards = -(-num_samples // batch_size)
    mine = range(accelerator.process_index, num_shards, accelerator.num_processes)
    todo = [shard for shard in mine if not writer.is_committed(shard)]
    num_clips = sum(min(batch_size, num_samples - shard * batch_size) for shard in todo)
    missing = [shard for shard in range(num_shards) if not writer.is_committed(shard)]
    clip_bytes = 3 * math.prod((tokenizer.facts.num_frames, *prior.facts.frame_size_hw))
    require_room(out, clip_bytes * min(batch_size * len(missing), num_samples))
    bar = progress("sampling", num_clips, "clip")
    _, rows, columns = prior.config.grid_thw
    num_given = 0 if prompts is None else prompts.num_latents * rows * columns
    drawn = 0  # tokens, in all

    def tick(count: int) -> None:
        nonlocal drawn
        drawn += count
        bar.update(drawn // (prior.config.num_tokens - num_given) - bar.n)

    sampler = TokenSampler(prior, request.settings, batch_size, DTYPES[request.dtype])
    for shard in todo:
        numbers = range(shard * batch_size, min(num_samples, (shard + 1) * batch_size))
        labels = [_label(classes, label, number, prompts) for number in numbers]
        indices = [NO_CLASS if name is None else classes.index(name) for name in labels]
        grids = sampler.draw(
            [seed + number for number in numbers],
            torch.tensor(indices) if classes else None,
            None if prompts is None else prompts.tokens(accelerator, numbers, batch_size),
            None if actions is None else actions.of(numbers),
            progress=tick,
        )
        clips = decode_grids(accelerator, tokenizer, grids, batch_size)
        videos = _videos(numbers, labels, clips, seed, prior.facts.fps, prompts, actions)
        writer.write_shard(shard, videos)
    bar.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        writer.finish(num_shards, classes)
    accelerator.wait_for_everyone()
    return ClipStore(out)


def require_same_grid(prior: Prior, tokenizer: VideoTokenizer, path: Path) -> None:
    """Refuse a prior of other grids than the tokenizer makes of its clips.

    Raises:
        InputError: names both.
    """
    if prior.config.grid_thw != tokenizer.facts.grid_thw:
        raise InputError(
            f"{path}: models tokens of t h w = {prior.config.grid_thw}, the tokenizer makes "
            f"{tokenizer.facts.grid_thw} of its clips; train a prior on tokens of "
            f"`video-vq encode` with this tokenizer"
        )


def require_class(prior: Prior, label: str | None) -> None:
    """Refuse a class that a prior does not know.

    Raises:
        InputError: names the nearest, or all that there are.
    """
    classes = prior.facts.classes
    if label is None or label in classes:
        return
    if not classes:
        raise InputError(
            f"--class {label!r}: this prior has no classes, its clips had no labels; leave "
            "--class out"
        )
    close = difflib.get_close_matches(label, classes, 1)
    hint = f"did you mean {close[0]!r}? It knows" if close else "it knows"
    raise InputError(
        f"--class {label!r}: is none of the prior's {len(classes)} classes; {hint} "
        f"{', '.join(classes)}"
    )


def _actions(
    request: SampleRequest, prompts: Prompts | None, prior: Prior, tokenizer: VideoTokenizer
) -> SampleActions | None:
    per_clip = request.samples_per_clip
    if request.actions is not None:
        if prompts is not None and request.actions.is_dir():
            store = ClipStore(request.actions)
            if store.content_hash == prompts.store.content_hash:
                return steering_of_videos(store, prompts.videos, per_clip, prior, tokenizer)
        return read_steering(request.actions, request.actions_split, per_clip, prior, tokenizer)
    if not prior.config.num_action_dims or request.settings.guidance == 0:
        return None
    if prompts is None:
        raise InputError(
            "this prior needs actions: name them with --actions (a clip store, or a .npy or .csv "
            f"of {rows_wanted(prior, tokenizer)}), "
            "continue videos that have them (--given), or sample without any condition "
            "(--guidance 0)"
        )
    return steering_of_videos(prompts.store, prompts.videos, per_clip, prior, tokenizer)


def _number(asked: int | None, prompts: Prompts | None, actions: SampleActions | None) -> int:
    limits = []
    if prompts is not None:
        what = f"given clips, {len(prompts.videos)} videos x {prompts.per_clip}"
        limits.append((prompts.num_samples, what))
    if actions is not None and actions.num_samples is not None:
        limits.append((actions.num_samples, "sequences of actions"))
    if not limits:
        return DEFAULT_NUMBER if asked is None else asked
    most, what = min(limits)
    if asked is not None and asked > most:
        raise InputError(
            f"--num {asked}: there are {most} {what}; raise --samples-per-clip, or lower --num"
        )
    return most if asked is None else asked


def _label(
    classes: list[str], label: str | None, number: int, prompts: Prompts | None
) -> str | None:
    if label is not None or not classes:
        return label
    if prompts is not None:
        own = prompts.store.videos[prompts.video(number)].label
        return own if own in classes else None
    return classes[number % len(classes)]


def _videos(
    numbers: range,
    labels: list[str | None],
    clips: np.ndarray,
    seed: int,
    fps: float | None,
    prompts: Prompts | None,
    actions: SampleActions | None,
) -> Iterator[PreparedVideo]:
    for number, name, clip in zip(numbers, labels, clips, strict=True):
        own = group = f"sample-{number:06d}"
        origin: dict[str, Any] = {"seed": seed + number}
        if actions is not None:
            origin["actions"] = actions.origin(number)
        if prompts is not None:
            given = prompts.store.videos[prompts.video(number)]
            # Samples of one video are no independent ones: errors are over source videos.
            group, origin["given"] = given.group, given.id
            if prompts.shown == "true":
                clip = np.concatenate([prompts.frames(number), clip[prompts.num_frames :]])
        yield PreparedVideo(Video(own, name, "test", group, fps=fps, origin=origin), [clip], {})
