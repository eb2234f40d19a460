"""Actions that steer samples, from the videos of a clip store or from a file."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from video_vq.data.actions import actions_of_window, latent_actions, num_actions, row_dims_of
from video_vq.data.windows import usable_videos
from video_vq.errors import InputError
from video_vq.models.priors import AnyPrior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stages.sample_length import SampleLength
from video_vq.stores.clips import ClipStore
from video_vq.stores.number_rows import read_rows

Rows = Float[np.ndarray, "r d"]


@dataclass(frozen=True)
class GivenActions:
    """The actions that steer each sample.

    Attributes:
        plan: settings that determine the actions, to be added to the plan of the sample store.
        num_samples: number of samples for which there are actions; None for any number.
        one: function that maps i to the actions t a of sample i's latent frames.
        origin: function that maps i to the source of sample i's actions, for the manifest.
    """

    plan: dict[str, Any]
    num_samples: int | None
    one: Callable[[int], Float[np.ndarray, "t a"]]
    origin: Callable[[int], str]

    def of(self, numbers: Sequence[int]) -> Float[Tensor, "n t a"]:
        """Return the actions of the samples with the given indices."""
        return torch.from_numpy(np.stack([self.one(number) for number in numbers]))


def read_actions(
    path: Path,
    split: str,
    per_clip: int,
    prior: AnyPrior,
    tokenizer: VideoTokenizer,
    length: SampleLength,
) -> GivenActions:
    """Read actions from a clip store (a folder) or a file (.npy or .csv).

    Raises:
        InputError: the prior was trained without actions, the actions cannot be read or do not fit
            the prior, or no video of the split is long enough.
    """
    _require_actions(str(path), prior)
    if path.is_dir():
        store = ClipStore(path)
        videos = usable_videos(store, split, length.num_frames, tokenizer.facts.stride)
        return actions_of_videos(store, videos, per_clip, prior, tokenizer, length)
    return actions_of_file(path, prior, tokenizer, length)


def actions_of_videos(
    store: ClipStore,
    videos: Sequence[int],
    per_clip: int,
    prior: AnyPrior,
    tokenizer: VideoTokenizer,
    length: SampleLength,
) -> GivenActions:
    """Return each video's actions from the first frame on; sample i uses video i // per_clip.

    Raises:
        InputError: the store's actions are missing or do not fit the prior, or a video is too
            short.
    """
    facts, strides = tokenizer.facts, tokenizer.config.backbone.total_stride_thw
    _require_dims(str(store.path), row_dims_of(store), prior, tokenizer)
    span = num_actions(length.num_frames, facts.stride) + 1
    for video in videos:
        if store.videos[video].num_frames < span:
            raise InputError(
                f"{store.path}: video {store.videos[video].id!r} has "
                f"{store.videos[video].num_frames} frames, a sample and its actions have {span}; "
                "give the actions in a file (--actions)"
            )
    return GivenActions(
        {
            "actions": store.content_hash,
            "actions_of": [store.videos[video].id for video in videos],
            "samples_per_clip": per_clip,
        },
        len(videos) * per_clip,
        lambda number: actions_of_window(
            store,
            videos[number // per_clip],
            0,
            length.num_frames,
            facts.stride,
            strides[0],
            length.num_latents,
        ),
        lambda number: store.videos[videos[number // per_clip]].id,
    )


def actions_of_file(
    path: Path, prior: AnyPrior, tokenizer: VideoTokenizer, length: SampleLength
) -> GivenActions:
    """Read one sequence of actions for all samples (r d), or a sequence per sample (n r d).

    Raises:
        InputError: the prior was trained without actions, or the actions cannot be read or do not
            fit the prior.
    """
    _require_actions(str(path), prior)
    facts, strides = tokenizer.facts, tokenizer.config.backbone.total_stride_thw
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder, expected a .npy or .csv file of "
            f"{rows_wanted(prior, tokenizer, length)}; `video-vq sample --actions` takes a clip "
            "store's"
        )
    try:
        found = read_rows(path, axes=(2, 3))
    except ValueError as error:
        raise InputError(f"{path}: actions cannot be read: {error}") from None
    sequences = found[None] if found.ndim == 2 else found
    _require_dims(str(path), sequences.shape[2], prior, tokenizer)
    count = num_actions(length.num_frames, facts.stride)
    if sequences.shape[1] < count:
        raise InputError(
            f"{path}: holds {sequences.shape[1]} rows of actions, {count} lead from the first "
            f"frame of a sample to its last ({length.num_frames} frames at stride "
            f"{facts.stride}); give {rows_wanted(prior, tokenizer, length)}"
        )
    rows = sequences[:, :count]
    return GivenActions(
        {"actions": hashlib.sha256(rows.tobytes()).hexdigest(), "actions_of": list(rows.shape)},
        None if len(rows) == 1 else len(rows),
        lambda number: latent_actions(
            rows[number % len(rows)], facts.stride, strides[0], length.num_latents
        ),
        lambda number: f"{path.name}[{number % len(rows)}]",
    )


def _require_dims(what: str, row_dims: int, prior: AnyPrior, tokenizer: VideoTokenizer) -> None:
    _require_actions(what, prior)
    wanted = _row_dims(prior, tokenizer)
    if row_dims != wanted:
        raise InputError(
            f"{what}: holds {row_dims} numbers of actions per frame, the prior was trained with "
            f"{wanted}; use those of the data it was trained on"
        )


def rows_wanted(prior: AnyPrior, tokenizer: VideoTokenizer, length: SampleLength) -> str:
    """Return a phrase that states the number and the length of the action rows for one sample."""
    count = num_actions(length.num_frames, tokenizer.facts.stride)
    return f"{count} rows of {_row_dims(prior, tokenizer)} numbers, from the first frame on"


def _row_dims(prior: AnyPrior, tokenizer: VideoTokenizer) -> int:
    rows_per_latent = tokenizer.facts.stride * tokenizer.config.backbone.total_stride_thw[0]
    return prior.config.num_action_dims // rows_per_latent


def _require_actions(what: str, prior: AnyPrior) -> None:
    if not prior.config.num_action_dims:
        raise InputError(f"{what}: this prior was trained without actions; leave --actions out")
