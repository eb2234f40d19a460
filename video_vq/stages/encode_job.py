"""An encoding job, with its clip source and token header. This module does not import torch."""

import math
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from video_vq.data.clip_config import ClipConfig
from video_vq.errors import InputError
from video_vq.machine import asked_precision
from video_vq.models.model_folder import TokenizerIdentity, read_tokenizer_identity
from video_vq.quantizers.quantizer_config import quantizes
from video_vq.stages.clip_sources import ClipSource, RawClips, StoredClips, is_raw
from video_vq.stages.raw_folder import FolderOptions, is_folder_of_files, list_folder
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import difference
from video_vq.stores.raw_videos import RawVideos, read_raw_videos
from video_vq.stores.shards import sealed_plan
from video_vq.stores.tokens import TokenHeader, TokenStore

ALL_CLIPS = ClipConfig(windows="all")  # consecutive clips without overlap


@dataclass(frozen=True)
class EncodeJob:
    """An encoding job: the clips, the tokenizer, the output folder, and settings.

    Attributes:
        data: path of a clip store, a list of raw videos, or a folder of videos.
        tokenizer: folder of the tokenizer, or the run folder that contains it.
        out: folder of the token store.
        clips: settings that determine the clips of each video; the tokenizer's clip length and
            stride replace the length and stride in these settings.
        batch_size: number of clips in a batch.
        workers: number of processes per rank that decode raw videos.
        max_skipped: maximum fraction of unusable raw videos; None for the list's own limit.
        folder: settings for turning a folder of videos into clips.
    """

    data: Path
    tokenizer: Path
    out: Path
    clips: ClipConfig = ALL_CLIPS
    batch_size: int = 16
    workers: int = 1
    max_skipped: float | None = None
    folder: FolderOptions = field(default_factory=FolderOptions)


def open_source(
    job: EncodeJob, tokenizer: TokenizerIdentity, listed: RawVideos | None
) -> ClipSource:
    """Return the clip source of a job; the caller must close the source.

    Args:
        tokenizer: the tokenizer, which determines the length and stride of the clips.
        listed: list of the videos if the data are a folder of videos; None otherwise.

    Raises:
        InputError: the data are missing or damaged, a clip store contains no clip, or the decoder
            of raw videos is not installed.
    """
    facts, frames_per_latent = tokenizer.facts, tokenizer.config.backbone.total_stride_thw[0]
    chosen = replace(job.clips, num_frames=facts.num_frames, stride=facts.stride)
    if listed is None and not is_raw(job.data):
        return StoredClips(ClipStore(job.data), chosen, frames_per_latent, facts.grid_thw[0])
    raw = listed or read_raw_videos(job.data)
    return RawClips(job.data, raw, chosen, job.workers, job.max_skipped)


def header_of_job(
    job: EncodeJob, source: ClipSource, tokenizer: TokenizerIdentity, precision: str
) -> TokenHeader:
    """Return a job's token header, which contains everything that determines the tokens' bytes.

    Raises:
        InputError: the frame size does not fit the tokenizer, or the tokenizer's decoder was not
            trained on codes.
    """
    config, num_frames = tokenizer.config, tokenizer.facts.num_frames
    if not quantizes(config.quantizer):
        raise InputError(
            f"{job.tokenizer}: its decoder was trained on latents (estimator: none), so tokens "
            "would have no meaning; train a tokenizer with another estimator"
        )
    vocabulary = config.quantizer.vocabulary
    return TokenHeader(
        tokenizer_hash=tokenizer.hash,
        codebook_size=math.prod(vocabulary),
        grid_thw=config.backbone.grid_thw((num_frames, *source.frame_size_hw)),
        num_frames=num_frames,
        frame_size_hw=source.frame_size_hw,
        fps=source.fps,
        classes=source.classes,
        data_hash=source.data_hash,
        made_by={
            **_settings(source.chosen),
            "shards": source.num_shards,
            "batch_size": job.batch_size,
            "precision": precision,
        },
        num_action_dims=source.num_action_dims,
        levels=vocabulary if len(vocabulary) > 1 else (),
    )


def _settings(clips: ClipConfig) -> dict[str, Any]:
    """Return the settings that determine the windows, except the clip length and the stride."""
    chosen: dict[str, Any] = {"hop": clips.hop or clips.num_frames * clips.stride}
    if clips.windows != "all":
        chosen = {"windows_rule": clips.windows, "clips_per_video": clips.clips_per_video}
    if clips.short_videos != "leave_out":
        chosen["short_videos"] = clips.short_videos
    return chosen


def finished_tokens(job: EncodeJob) -> TokenStore | None:
    """Return a job's token store if it is finished and has the job's plan, else None.

    See `sealed_plan` for the limits of this check.
    """
    plan = sealed_plan(job.out)
    if plan is None:
        return None
    with suppress(InputError, OSError):
        tokenizer = read_tokenizer_identity(job.tokenizer)
        listed = None
        if is_folder_of_files(job.data):
            listed = list_folder(job.data, job.folder, tokenizer.facts.frame_size_hw)
        with closing(open_source(job, tokenizer, listed)) as source:
            header = header_of_job(job, source, tokenizer, asked_precision())
        return None if difference(plan, header.to_json()) else TokenStore(job.out)
    return None
