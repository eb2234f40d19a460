"""What is to be encoded, and the header of the tokens that it will make; imports no torch."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from video_vq.data.actions import num_action_dims, row_dims_of
from video_vq.data.clip_config import ClipConfig
from video_vq.errors import InputError
from video_vq.models.tokenizer_config import TokenizerConfig, TokenizerFacts
from video_vq.quantizers.quantizer_config import quantizes
from video_vq.stages.clip_sources import RawClips, StoredClips, is_raw
from video_vq.stages.raw_folder import FolderOptions
from video_vq.stores.clips import ClipStore
from video_vq.stores.raw_videos import RawVideos, read_raw_videos
from video_vq.stores.tokens import TokenHeader

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


def clips_of_job(
    job: EncodeJob, facts: TokenizerFacts, listed: RawVideos | None
) -> StoredClips | RawClips:
    """Return the clips of a job; close them in the end.

    Args:
        job: what is to be encoded.
        facts: What the tokenizer was trained on: the length and stride of its clips.
        listed: the list, where the data are a folder of videos.

    Raises:
        InputError: the data are missing or damaged.
    """
    chosen = _chosen(job, facts)
    if listed is None and not is_raw(job.data):
        return StoredClips(ClipStore(job.data), chosen)
    return RawClips(job.data, listed or read_raw_videos(job.data), chosen, job.workers)


def header_of_job(
    job: EncodeJob,
    clips: StoredClips | RawClips,
    config: TokenizerConfig,
    facts: TokenizerFacts,
    tokenizer_hash: str,
    precision: str,
) -> TokenHeader:
    """Return the header of the tokens that a job makes: all that decides their bytes.

    Args:
        job: what is to be encoded.
        clips: The clip store of the job.
        config, facts, tokenizer_hash: What the tokenizer's folder says of it.
        precision: The precision of matrix products.

    Raises:
        InputError: the sizes do not fit the tokenizer, or its decoder does not know codes.
    """
    if not quantizes(config.quantizer):
        raise InputError(
            f"{job.tokenizer}: its decoder was trained on latents (estimator: none), so tokens "
            "would stand for nothing; train a tokenizer with another estimator"
        )
    return TokenHeader(
        tokenizer_hash=tokenizer_hash,
        codebook_size=config.quantizer.codebook_size,
        grid_thw=config.backbone.grid_thw((facts.num_frames, *clips.frame_size_hw)),
        num_frames=facts.num_frames,
        frame_size_hw=clips.frame_size_hw,
        fps=clips.fps,
        classes=clips.classes,
        data_hash=clips.data_hash,
        made_by={
            **_settings(_chosen(job, facts)),
            "shards": clips.num_shards,
            "batch_size": job.batch_size,
            "precision": precision,
        },
        num_action_dims=_num_action_dims(clips, config, facts),
    )


def _chosen(job: EncodeJob, facts: TokenizerFacts) -> ClipConfig:
    return replace(job.clips, num_frames=facts.num_frames, stride=facts.stride)


def _num_action_dims(
    clips: StoredClips | RawClips, config: TokenizerConfig, facts: TokenizerFacts
) -> int:
    if not isinstance(clips, StoredClips):
        return 0
    row_dims = row_dims_of(clips.store)
    return num_action_dims(row_dims, facts.stride, config.backbone.total_stride_thw[0])


def _settings(clips: ClipConfig) -> dict[str, Any]:
    """Return what chose the windows, as JSON; the length of a clip stands elsewhere."""
    chosen: dict[str, Any] = {"hop": clips.hop or clips.num_frames * clips.stride}
    if clips.windows != "all":
        chosen = {"windows_rule": clips.windows, "clips_per_video": clips.clips_per_video}
    if clips.short_videos != "leave_out":
        chosen["short_videos"] = clips.short_videos
    return chosen
