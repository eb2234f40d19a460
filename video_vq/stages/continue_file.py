"""A user's video, continued: its last frames are given, a prior and a decoder make what follows."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor

from video_vq.errors import InputError
from video_vq.media.decode import FrameStream
from video_vq.media.encode import tile, write_video
from video_vq.media.reading import USUAL, Reading
from video_vq.media.resample import frames_at_rate, keep
from video_vq.media.resize import resize
from video_vq.media.sources import probe_video
from video_vq.models.prior import Prior
from video_vq.models.prior_config import NO_CLASS, SamplingSettings
from video_vq.models.sampling import sample_tokens
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.progress import progress
from video_vq.stages.decode_tokens import decode_grids
from video_vq.stages.given_actions import actions_of_file, rows_wanted
from video_vq.stages.given_frames import given_latents, given_tokens
from video_vq.stages.model_pair import load_pair
from video_vq.stages.sample_clips import DTYPES, require_class
from video_vq.stages.sample_job import DEFAULT_FPS, Dtype

MARK = (230, 30, 30)  # colour of the bar above frames that the model made


@dataclass(frozen=True)
class ContinueRequest:
    """How a video is to be continued.

    Attributes:
        given_frames: number of its last frames that are given, 1 + a multiple of the tokenizer's
            stride in time; None for the largest number that leaves half of the clip to the model.
        num: number of continuations, side by side in one file.
        settings: temperature, top-k, top-p, guidance.
        label: name of the class; None for no class.
        seed: seed of the first continuation; continuation i is drawn with seed + i.
        dtype: The dtype of the prior's weights, cache and products.
        actions: file of the actions from the first given frame on, for a prior that takes actions:
            a row per frame, or a sequence of rows for each continuation.
        reading: how a video that is a frame folder, or lies in an array, is read.
    """

    given_frames: int | None = None
    num: int = 1
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    label: str | None = None
    seed: int = 0
    dtype: Dtype = "float32"
    actions: Path | None = None
    reading: Reading = USUAL


class Continuation(NamedTuple):
    """Clips that begin with `num_given` given frames; `fps_known` is false if fps is assumed."""

    clips: UInt8[np.ndarray, "n t h w 3"]
    num_given: int
    fps: float
    fps_known: bool


def continue_video(
    accelerator: Accelerator,
    video: Path,
    prior_path: Path,
    tokenizer_path: Path,
    out: Path,
    request: ContinueRequest,
) -> Continuation:
    """Continue a video file, and write given and continued frames as another.

    The video is converted to the clips' frame rate, if that is known, and to their size, scaled to
    cover it and cropped. A red bar lies above each frame that the model made.

    Raises:
        InputError: the video is unreadable or too short, models and video do not fit, or the
            tokenizer is not causal.
    """
    prior, tokenizer = load_pair(accelerator, prior_path, tokenizer_path)
    num_given = request.given_frames or default_given_frames(tokenizer)
    given_latents(tokenizer, num_given)
    label = _label(prior, request)
    actions = _actions(prior, tokenizer, request)
    size_hw = prior.facts.frame_size_hw
    frames = last_frames(video, num_given, prior.facts.fps, size_hw, request.reading)
    given = given_tokens(accelerator, tokenizer, frames[None], 1)
    num_drawn = prior.config.num_tokens - given.shape[1]
    with progress("continuing", num_drawn * request.num, "token") as bar:
        grids = sample_tokens(
            prior,
            [request.seed + number for number in range(request.num)],
            None if label is None else torch.full((request.num,), label),
            given.expand(request.num, -1),
            actions,
            request.settings,
            batch_size=request.num,
            progress=bar.update,
            dtype=DTYPES[request.dtype],
        )
    clips = decode_grids(accelerator, tokenizer, grids, request.num)
    clips[:, :num_given] = frames
    fps = prior.facts.fps
    made = Continuation(clips, num_given, fps or DEFAULT_FPS, fps is not None)
    if accelerator.is_main_process:
        write_video(out, marked(made), made.fps)
    return made


def default_given_frames(tokenizer: VideoTokenizer) -> int:
    """Return the largest number of given frames that leaves half of the clip to the model."""
    stride = tokenizer.config.backbone.total_stride_thw[0]
    return 1 + max(0, tokenizer.facts.num_frames // 2 - 1) // stride * stride


def last_frames(
    video: Path,
    count: int,
    fps: float | None,
    size_hw: tuple[int, int],
    reading: Reading = USUAL,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the last frames of a video at a rate (None: its own) and a size.

    Raises:
        InputError: it cannot be read, or is too short.
    """
    info = probe_video(video, reading)
    stream = FrameStream(info)
    indices = range(info.num_packets) if fps is None else frames_at_rate(info, fps)
    kept: list[np.ndarray] = []
    for frame in keep(stream, indices):
        kept.append(resize(frame[None], size_hw, info.pixel_aspect)[0])
        del kept[:-count]
    if len(kept) < count:
        rate = "" if fps is None else f" at {fps:g} frames per second, the prior's rate"
        raise InputError(
            f"{video}: has {len(kept)} frames{rate}; {count} are to be given; "
            "lower --given-frames, or take a longer video"
        )
    return np.stack(kept)


def marked(made: Continuation) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the clips side by side, with a bar above the frames that were made; sides are even."""
    height = made.clips.shape[2]
    bar = max(2, height // 16 // 2 * 2)
    clips = np.pad(made.clips, ((0, 0), (0, 0), (bar, 0), (0, 0), (0, 0)))
    clips[:, made.num_given :, :bar] = MARK
    if len(clips) == 1:
        (clip,) = clips
        return np.pad(clip, ((0, 0), (0, clip.shape[1] % 2), (0, clip.shape[2] % 2), (0, 0)))
    return tile(list(clips), columns=math.ceil(math.sqrt(len(clips))))


def _actions(
    prior: Prior, tokenizer: VideoTokenizer, request: ContinueRequest
) -> Float[Tensor, "n t a"] | None:
    if request.actions is None:
        if prior.config.num_action_dims and request.settings.guidance:
            raise InputError(
                "this prior needs actions: name a .npy or .csv with --actions, "
                f"{rows_wanted(prior, tokenizer)}, or continue without any (--guidance 0)"
            )
        return None
    steering = actions_of_file(request.actions, prior, tokenizer)
    if steering.num_samples not in (None, request.num):
        raise InputError(
            f"--num {request.num}: {request.actions} holds {steering.num_samples} sequences of "
            "actions; give --num as many, or one sequence for all"
        )
    return steering.of(range(request.num))


def _label(prior: Prior, request: ContinueRequest) -> int | None:
    require_class(prior, request.label)
    classes = prior.facts.classes
    if not classes:
        return None
    if request.label is None and not prior.config.transformer.condition_dropout:
        raise InputError(f"this prior needs a class: name one with --class ({', '.join(classes)})")
    return NO_CLASS if request.label is None else classes.index(request.label)
