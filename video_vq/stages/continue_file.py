"""Continues a user's video with frames that a prior and a decoder generate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor

from video_vq.errors import InputError
from video_vq.media.decode import FrameStream
from video_vq.media.encode import tile, write_frames
from video_vq.media.probe import VideoInfo
from video_vq.media.reading import USUAL, Reading
from video_vq.media.resample import frames_at_rate, keep
from video_vq.media.resize import resize
from video_vq.media.sources import probe_video
from video_vq.models.prior_config import NO_CLASS
from video_vq.models.priors import AnyPrior, make_sampler
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.progress import progress
from video_vq.stages.given_actions import actions_of_file, rows_wanted
from video_vq.stages.given_frames import given_latents, given_tokens, with_frames
from video_vq.stages.long_samples import LongSampler, decoded_frames
from video_vq.stages.model_pair import load_pair
from video_vq.stages.sample_clips import DTYPES, require_class
from video_vq.stages.sample_job import DEFAULT_FPS, Drawing
from video_vq.stages.sample_length import (
    SampleLength,
    clip_length,
    latents_within,
    length_of_latents,
)

MARK = (230, 30, 30)  # color of the bar above frames that the model made


@dataclass(frozen=True)
class ContinueRequest(Drawing):
    """A request to continue a video.

    Attributes:
        given_frames: number of frames taken from the end of the video, 1 + a multiple of the
            tokenizer's stride in time; None for the largest number that leaves at least half of
            the clip to the model.
        num: number of continuations, shown as a grid in one file.
        reading: settings for reading a frame folder or an array.
    """

    given_frames: int | None = None
    num: int = 1
    reading: Reading = USUAL


class Continuation(NamedTuple):
    """The result of continuing a video.

    Attributes:
        num_given, num_made: numbers of given and of generated frames.
        fps: frames per second of the result.
        fps_known: whether `fps` is known rather than assumed.
        notes: notes about the user's video; see `VideoInfo`.
    """

    num_given: int
    num_made: int
    fps: float
    fps_known: bool
    notes: tuple[str, ...]


def continue_video(
    accelerator: Accelerator,
    video: Path,
    prior_path: Path,
    tokenizer_path: Path,
    out: Path,
    request: ContinueRequest,
) -> Continuation:
    """Continue a video file, and write the given and the generated frames to another file.

    The video is converted to the frame rate of the prior's clips, if the rate is known, then scaled
    and cropped to the clips' frame size. Each generated frame is shown below a red bar.

    Raises:
        InputError: the video is unreadable or too short, the models do not fit each other or the
            request, or the tokenizer is not causal.
    """
    models = load_pair(accelerator, prior_path, tokenizer_path)
    made, moments = continued(accelerator, *models, video, request)
    if accelerator.is_main_process:
        pictures = (marked(each, place >= made.num_given) for place, each in enumerate(moments))
        write_frames(out, pictures, made.fps)
    return made


def continued(
    accelerator: Accelerator,
    prior: AnyPrior,
    tokenizer: VideoTokenizer,
    video: Path,
    request: ContinueRequest,
) -> tuple[Continuation, Iterator[UInt8[np.ndarray, "n h w 3"]]]:
    """Return details of the result, and an iterator over the frames of all continuations.

    The given frames come first. Memory use does not grow with the number of frames.

    Raises:
        InputError: as for `continue_video`; raised before the first frame is yielded.
    """
    facts, stride = prior.facts, tokenizer.config.backbone.total_stride_thw[0]
    leaving_half = 1 + max(0, tokenizer.facts.num_frames // 2 - 1) // stride * stride
    num_given = request.given_frames or leaving_half
    of_given = given_latents(tokenizer, num_given)
    length = _length(prior, tokenizer, of_given, request)
    label = _label(prior, request)
    actions = _actions(prior, tokenizer, request, length)
    info = probe_video(video, request.reading)
    frames = last_frames(info, num_given, facts.fps, facts.frame_size_hw)
    given = given_tokens(accelerator, tokenizer, frames[None], 1)
    sampler = make_sampler(
        prior, request.settings, request.parallel, request.num, DTYPES[request.dtype]
    )
    long = LongSampler(accelerator, tokenizer, sampler, length, request.num)
    num_drawn = prior.config.num_tokens // length.window * length.num_drawn(of_given)

    def moments() -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
        with progress("continuing", num_drawn * request.num, "token") as bar:
            latents = long.latents(
                [request.seed + number for number in range(request.num)],
                None if label is None else torch.full((request.num,), label),
                given.expand(request.num, *given.shape[1:]),
                actions,
                bar.update,
            )
            shown = np.repeat(frames[:, None], request.num, axis=1)
            chunks = decoded_frames(accelerator, tokenizer, latents)
            for chunk in with_frames((part.swapaxes(0, 1) for part in chunks), shown):
                yield from chunk

    made = Continuation(
        num_given,
        length.num_frames - num_given,
        facts.fps or DEFAULT_FPS,
        facts.fps is not None,
        info.notes,
    )
    return made, moments()


def _length(
    prior: AnyPrior, tokenizer: VideoTokenizer, of_given: int, request: ContinueRequest
) -> SampleLength:
    if request.seconds is None:
        return clip_length(tokenizer.facts)
    config = tokenizer.config
    frames_per_latent = config.backbone.total_stride_thw[0]
    fps = prior.facts.fps or DEFAULT_FPS
    added = latents_within(request.seconds, fps, frames_per_latent, is_first=False)
    wanted = of_given + max(1, added)
    return length_of_latents(wanted, config, tokenizer.facts, request.window_stride)


def last_frames(
    info: VideoInfo, count: int, fps: float | None, size_hw: tuple[int, int]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Return a video's last frames, at a given size and frame rate (None for the video's own).

    Raises:
        InputError: the video cannot be read, or is too short.
    """
    stream = FrameStream(info)
    indices = range(info.num_packets) if fps is None else frames_at_rate(info, fps)
    kept: list[np.ndarray] = []
    for frame in keep(stream, indices):
        kept.append(resize(frame[None], size_hw, info.pixel_aspect)[0])
        del kept[:-count]
    if len(kept) < count:
        rate = "" if fps is None else f" at {fps:g} frames per second, the prior's rate"
        raise InputError(
            f"{info.path}: has {len(kept)} frames{rate}; {count} are needed; "
            "lower --given-frames, or take a longer video"
        )
    return np.stack(kept)


def marked(
    pictures: UInt8[np.ndarray, "n h w 3"], is_made: bool
) -> UInt8[np.ndarray, "height width 3"]:
    """Tile images into one, each below a bar: red for generated frames, black for given frames."""
    height = pictures.shape[1]
    bar = max(2, height // 16 // 2 * 2)
    below = np.pad(pictures, ((0, 0), (bar, 0), (0, 0), (0, 0)))
    if is_made:
        below[:, :bar] = MARK
    if len(below) == 1:
        return below[0]  # `write_frames` makes the sides even
    return tile(list(below[:, None]), columns=math.ceil(math.sqrt(len(below))))[0]


def _actions(
    prior: AnyPrior, tokenizer: VideoTokenizer, request: ContinueRequest, length: SampleLength
) -> Float[Tensor, "n t a"] | None:
    if request.actions is None:
        if prior.config.num_action_dims and request.settings.guidance:
            raise InputError(
                "this prior needs actions: name a .npy or .csv with --actions, "
                f"{rows_wanted(prior, tokenizer, length)}, or continue without any (--guidance 0)"
            )
        return None
    steering = actions_of_file(request.actions, prior, tokenizer, length)
    if steering.num_samples not in (None, request.num):
        raise InputError(
            f"--num {request.num}: {request.actions} holds {steering.num_samples} sequences of "
            "actions; give --num as many, or one sequence for all"
        )
    return steering.of(range(request.num))


def _label(prior: AnyPrior, request: ContinueRequest) -> int | None:
    require_class(prior, request.label)
    classes = prior.facts.classes
    if not classes:
        return None
    if request.label is None and not prior.config.transformer.condition_dropout:
        raise InputError(f"this prior needs a class: name one with --class ({', '.join(classes)})")
    return NO_CLASS if request.label is None else classes.index(request.label)
