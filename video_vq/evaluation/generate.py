"""Samples of a prior as a clip store: sharded over ranks, resumable, one seed per sample."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from video_vq.errors import InputError
from video_vq.evaluation.encode import decode_grids, require_same_tokenizer
from video_vq.evaluation.prompts import Prompts
from video_vq.media.encode import write_video
from video_vq.models.prior import Prior
from video_vq.models.prior_config import NO_CLASS, SamplingSettings
from video_vq.models.sampling import sample_tokens
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video


def sample_store(
    accelerator: Accelerator,
    prior_path: Path,
    tokenizer_path: Path,
    out: Path,
    num_samples: int | None,
    settings: SamplingSettings,
    label: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    make_prompts: Callable[[VideoTokenizer], Prompts] | None = None,
) -> ClipStore:
    """Sample clips and write them as a clip store; the same call again goes on.

    Classes take turns unless one is named; with prompts a sample has its video's class. A sample
    depends on its number, the seed, the settings, its prompt and `batch_size` alone.

    Args:
        accelerator: shares the shards (one batch each) among its ranks.
        num_samples: how many clips; None for 64, or for as many as there are prompts.
        label: a class name; None for all in turn.
        seed: sample i is drawn with seed + i.
        make_prompts: returns what the samples continue; None for samples from nothing.

    Raises:
        InputError: prior and tokenizer do not belong together, there is no such class, or prompts
            do not fit.
    """
    prior = Prior.from_pretrained(prior_path, device=accelerator.device)
    tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
    require_same_tokenizer(tokenizer, prior.facts.tokenizer_hash, str(prior_path))
    prompts = None if make_prompts is None else make_prompts(tokenizer)
    num_samples = _number(num_samples, prompts)
    classes = list(prior.facts.classes)
    if label is not None and label not in classes:
        known = ", ".join(classes) or "none: this prior has no classes"
        raise InputError(f"--class {label!r}: the prior knows {known}")
    plan = {
        "kind": "samples",
        "prior": prior.hash,
        "tokenizer": tokenizer.hash,
        "settings": asdict(settings),
        "class": label,
        "num_samples": num_samples,
        "seed": seed,
        "batch_size": batch_size,
        "precision": accelerator.mixed_precision,
        **({} if prompts is None else prompts.plan()),
    }
    with accelerator.main_process_first():
        writer = ClipStoreWriter(
            out, prior.facts.frame_size_hw, plan, owner=accelerator.is_main_process
        )
    num_shards = -(-num_samples // batch_size)
    mine = range(accelerator.process_index, num_shards, accelerator.num_processes)
    todo = [shard for shard in mine if not writer.is_committed(shard)]
    num_tokens = prior.config.num_tokens
    bar = progress("sampling", len(todo) * batch_size * num_tokens, "token")

    def tick(drawn: int) -> None:
        bar.update(drawn)

    for shard in todo:
        numbers = range(shard * batch_size, min(num_samples, (shard + 1) * batch_size))
        labels = [_label(classes, label, number, prompts) for number in numbers]
        indices = [NO_CLASS if name is None else classes.index(name) for name in labels]
        grids = sample_tokens(
            prior,
            [seed + number for number in numbers],
            torch.tensor(indices) if classes else None,
            None if prompts is None else prompts.tokens(accelerator, numbers, batch_size),
            settings=settings,
            batch_size=batch_size,
            progress=tick,
        )
        clips = decode_grids(accelerator, tokenizer, grids, batch_size)
        writer.write_shard(shard, _videos(numbers, labels, clips, seed, prior.facts.fps, prompts))
    bar.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        writer.finish(num_shards, classes)
    accelerator.wait_for_everyone()
    return ClipStore(out)


def _number(asked: int | None, prompts: Prompts | None) -> int:
    if prompts is None:
        return DEFAULT_NUMBER if asked is None else asked
    if asked is not None and asked > prompts.num_samples:
        raise InputError(
            f"--num {asked}: there are {prompts.num_samples} given clips, {len(prompts.videos)} "
            f"videos x {prompts.per_clip}; raise --samples-per-clip"
        )
    return prompts.num_samples if asked is None else asked


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
) -> Iterator[PreparedVideo]:
    for number, name, clip in zip(numbers, labels, clips, strict=True):
        own = group = f"sample-{number:06d}"
        origin: dict[str, Any] = {"seed": seed + number}
        if prompts is not None:
            given = prompts.store.videos[prompts.video(number)]
            # Samples of one video are no independent ones: errors are over source videos.
            group, origin["given"] = given.group, given.id
            if prompts.shown == "true":
                clip = np.concatenate([prompts.frames(number), clip[prompts.num_frames :]])
        yield PreparedVideo(Video(own, name, "test", group, fps=fps, origin=origin), [clip], {})


DEFAULT_NUMBER = 64
DEFAULT_FPS = 8.0  # for playing clips whose rate is unknown


def write_videos(store: ClipStore, folder: Path) -> None:
    """Write each clip of a store as an mp4; those that are there already are left alone."""
    folder.mkdir(exist_ok=True)
    missing = [
        index
        for index, video in enumerate(store.videos)
        if not (folder / f"{video.id}.mp4").exists()
    ]
    with progress("writing mp4s", len(missing), "video") as bar:
        for index in missing:
            video = store.videos[index]
            frames = store.read(index)
            even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
            write_video(folder / f"{video.id}.mp4", even, video.fps or DEFAULT_FPS)
            bar.update()
