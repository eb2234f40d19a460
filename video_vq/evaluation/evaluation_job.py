"""What `evaluate` is to score, and what decides the scores; imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from video_vq.data.clip_config import ShortVideos
from video_vq.evaluation.generation_protocols import GenerationProtocol
from video_vq.metrics.protocol import FVDProtocol
from video_vq.models.model_folder import read_model_config
from video_vq.stores.clips import ClipStore
from video_vq.stores.tokens import TokenStore


@dataclass(frozen=True)
class EvaluationJob:
    """What to score: a tokenizer, and a prior when its samples or its tokens are named.

    Attributes:
        data: the clip store of real videos.
        tokenizer: a tokenizer's folder, or the run folder it is in.
        protocol: the convention of FVD.
        split: The split of the clips and of the tokens.
        num_clips: how many real clips at most.
        samples: a clip store of samples: adds gFVD.
        prior, tokens: a prior and the token store of `data`: add the rate.
        with_controls: compute in the same run what the scores must beat.
        generation: a published protocol that the samples must follow; it decides the split and
            the number of clips.
        st_lpips: the trunk of the perceptual network, None to leave its score out.
        short_videos: what becomes of those shorter than a clip.
    """

    data: Path
    tokenizer: Path
    protocol: FVDProtocol
    split: str = "test"
    num_clips: int = 2048
    samples: Path | None = None
    prior: Path | None = None
    tokens: Path | None = None
    with_controls: bool = False
    generation: GenerationProtocol | None = None
    st_lpips: Literal["alex", "vgg"] | None = None
    short_videos: ShortVideos = "leave_out"

    @property
    def split_and_number(self) -> tuple[str, int]:
        """The split that is scored, and how many of its clips at most."""
        if self.generation is not None:
            return self.generation.split, self.generation.num_real
        return self.split, self.num_clips


def identity_of_scores(job: EvaluationJob, precision: str) -> dict[str, Any]:
    """Return, as JSON, what decides the scores of a job.

    Args:
        job: what is to be scored.
        precision: The precision of the tokenizer's and the prior's products.

    Raises:
        InputError: data, models, tokens or samples are missing or damaged.
    """
    split, num_clips = job.split_and_number
    identity = {
        "data": ClipStore(job.data).content_hash,
        "tokenizer": read_model_config(job.tokenizer, "tokenizer").hash,
        "samples": None if job.samples is None else ClipStore(job.samples).content_hash,
        "tokens": None if job.tokens is None else TokenStore(job.tokens).content_hash,
        "prior": None if job.prior is None else read_model_config(job.prior, "prior").hash,
        "split": split,
        "num_clips": num_clips,
        "protocol": job.protocol.settings(),
        "controls": job.with_controls,
        "generation": None if job.generation is None else job.generation.name,
        "st_lpips": job.st_lpips,
        "precision": precision,
    }
    if job.short_videos != "leave_out":
        identity["short_videos"] = job.short_videos
    return identity
