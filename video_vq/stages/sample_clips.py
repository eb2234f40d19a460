"""Writes a prior's samples to a clip store, with one seed per sample."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from tqdm import tqdm

from video_vq.errors import InputError, nearest
from video_vq.models.prior_config import NO_CLASS
from video_vq.models.priors import AnyPrior, AnySampler, make_sampler
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stages.decode_tokens import decode_grids
from video_vq.stages.fill_clip_store import MadeClips, fill_clip_store
from video_vq.stages.given_actions import GivenActions, actions_of_videos, read_actions, rows_wanted
from video_vq.stages.given_frames import GivenFrames, with_frames
from video_vq.stages.long_samples import LongSampler, decoded_frames
from video_vq.stages.model_pair import load_pair
from video_vq.stages.sample_job import DEFAULT_FPS, DEFAULT_NUMBER, Dtype, SampleJob
from video_vq.stages.sample_length import (
    SampleLength,
    clip_length,
    latents_within,
    length_of_latents,
)
from video_vq.stores.clips import ClipStore, PreparedVideo, Video

DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def sample_store(accelerator: Accelerator, job: SampleJob) -> ClipStore:
    """Draw samples and write them to a clip store; a repeated call resumes an interrupted run.

    A sample depends only on its index and on the store's plan, which contains the models' hashes,
    the seed, the settings, the given frames and actions, the batch size, the dtype and, on a CPU,
    the number of threads.

    Args:
        accelerator: accelerator among whose ranks the shards, one batch each, are split.

    Raises:
        InputError: the models, the given frames or the actions are missing or damaged, or do not
            match; the class is unknown; the number or length of the samples is impossible; or as
            for `fill_clip_store`.
    """
    prior, tokenizer = load_pair(accelerator, job.prior, job.tokenizer)
    job = job.for_kind(prior.predicts)
    given = None if job.given is None else GivenFrames(job.given, job.samples_per_clip, tokenizer)
    num_given = 0 if given is None else given.num_latents
    length = _length(job, num_given, prior, tokenizer)
    actions = _actions(job, given, prior, tokenizer, length)
    num_samples = _number(job.num_samples, given, actions)
    classes, batch_size, seed = list(prior.facts.classes), job.batch_size, job.seed
    require_class(prior, job.label)
    threads = torch.get_num_threads() if accelerator.device.type == "cpu" else None
    models = prior.hash, tokenizer.hash
    plan = {
        **job.plan(num_samples, *models, accelerator.mixed_precision, threads),
        **({} if given is None else given.plan()),
        **({} if actions is None else actions.plan),
    }
    source = make_sampler(prior, job.settings, job.parallel, batch_size, DTYPES[job.dtype])
    if job.seconds is not None:
        source = LongSampler(accelerator, tokenizer, source, length, batch_size)
    per_clip = prior.config.num_tokens // length.window * length.num_drawn(num_given)
    drawn = 0  # number of tokens drawn so far

    def sampled(numbers: range, bar: tqdm) -> Iterator[PreparedVideo]:
        def tick(count: int) -> None:
            nonlocal drawn
            drawn += count
            bar.update(drawn // per_clip - bar.n)

        labels = [_label(classes, job.label, number, given) for number in numbers]
        indices = [NO_CLASS if name is None else classes.index(name) for name in labels]
        asked = (
            [seed + number for number in numbers],
            torch.tensor(indices) if classes else None,
            None if given is None else given.tokens(accelerator, numbers, batch_size),
            None if actions is None else actions.of(numbers),
            tick,
        )
        videos = _decoded(accelerator, tokenizer, source, asked, batch_size)
        for number, label, frames in zip(numbers, labels, videos, strict=True):
            if given is not None and given.shown == "true":
                frames = with_frames(frames, given.frames(number))
            video = _video(number, label, seed, prior.facts.fps, given, actions)
            yield PreparedVideo(video, frames, {})

    size_thw = (length.num_frames, *prior.facts.frame_size_hw)
    clips = MadeClips(plan, num_samples, batch_size, size_thw, prior.facts.classes)
    return fill_clip_store(accelerator, job.out, clips, "sampling", sampled)


def require_class(prior: AnyPrior, label: str | None) -> None:
    """Reject a class that is not among a prior's classes.

    Raises:
        InputError: the prior has no classes, or the class is unknown, in which case the message
            lists all classes and suggests a similar class, if any.
    """
    classes = prior.facts.classes
    if label is None or label in classes:
        return
    if not classes:
        raise InputError(
            f"--class {label!r}: this prior has no classes, as its clips had no labels; leave "
            "--class out"
        )
    close = nearest(label, classes)
    hint = f"did you mean {close!r}? They are" if close else "they are"
    raise InputError(
        f"--class {label!r}: is not one of the prior's {len(classes)} classes; {hint} "
        f"{', '.join(classes)}"
    )


def _decoded(
    accelerator: Accelerator,
    tokenizer: VideoTokenizer,
    source: AnySampler | LongSampler,
    asked: tuple[Any, ...],
    batch_size: int,
) -> Iterator[Iterable[UInt8[np.ndarray, "t h w 3"]]]:
    """Yield each sample's frames: as a whole clip, or, for long samples, a few at a time."""
    if isinstance(source, LongSampler):
        for grid in torch.cat(list(source.latents(*asked)), dim=1):
            chunks = decoded_frames(accelerator, tokenizer, iter([grid[None]]))
            yield (chunk[0] for chunk in chunks)
    else:
        for clip in decode_grids(accelerator, tokenizer, source.draw(*asked), batch_size):
            yield [clip]


def _length(
    job: SampleJob, num_given: int, prior: AnyPrior, tokenizer: VideoTokenizer
) -> SampleLength:
    if job.seconds is None:
        return clip_length(tokenizer.facts)
    config = tokenizer.config
    frames_per_latent = config.backbone.total_stride_thw[0]
    fps = prior.facts.fps or DEFAULT_FPS
    num_latents = latents_within(job.seconds, fps, frames_per_latent, is_first=True)
    if num_latents <= num_given:
        raise InputError(
            f"--seconds {job.seconds:g}: at {fps:g} frames per second the given frames fill it; "
            "give fewer frames, or raise --seconds"
        )
    return length_of_latents(num_latents, config, tokenizer.facts, job.window_stride)


def _actions(
    job: SampleJob,
    given: GivenFrames | None,
    prior: AnyPrior,
    tokenizer: VideoTokenizer,
    length: SampleLength,
) -> GivenActions | None:
    per_clip = job.samples_per_clip
    if job.actions is not None:
        if given is not None and job.actions.is_dir():
            store = ClipStore(job.actions)
            if store.content_hash == given.store.content_hash:
                return actions_of_videos(store, given.videos, per_clip, prior, tokenizer, length)
        return read_actions(job.actions, job.actions_split, per_clip, prior, tokenizer, length)
    if not prior.config.num_action_dims or job.settings.guidance == 0:
        return None
    if given is None:
        raise InputError(
            "this prior needs actions: name them with --actions (a clip store, or a .npy or .csv "
            f"of {rows_wanted(prior, tokenizer, length)}), continue videos that have them "
            "(--given), or sample without any condition (--guidance 0)"
        )
    return actions_of_videos(given.store, given.videos, per_clip, prior, tokenizer, length)


def _number(asked: int | None, given: GivenFrames | None, actions: GivenActions | None) -> int:
    limits = []
    if given is not None:
        what = f"given clips, {len(given.videos)} videos x {given.per_clip}"
        limits.append((given.num_samples, what))
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
    classes: list[str], label: str | None, number: int, given: GivenFrames | None
) -> str | None:
    if label is not None or not classes:
        return label
    if given is not None:
        own = given.store.videos[given.video(number)].label
        return own if own in classes else None
    return classes[number % len(classes)]


def _video(
    number: int,
    label: str | None,
    seed: int,
    fps: float | None,
    given: GivenFrames | None,
    actions: GivenActions | None,
) -> Video:
    own = group = f"sample-{number:06d}"
    origin: dict[str, Any] = {"seed": seed + number}
    if actions is not None:
        origin["actions"] = actions.origin(number)
    if given is not None:
        continued = given.store.videos[given.video(number)]
        # Samples of one video are not independent, so errors are computed over source videos.
        group, origin["given"] = continued.group, continued.id
    return Video(own, label, "test", group, fps=fps, origin=origin)
