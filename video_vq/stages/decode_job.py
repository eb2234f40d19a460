"""A decoding job, with its plan and its finished store. This module does not import torch."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_vq.errors import InputError
from video_vq.machine import asked_precision
from video_vq.models.model_folder import read_model_config
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import difference
from video_vq.stores.shards import sealed_plan
from video_vq.stores.tokens import TokenStore


@dataclass(frozen=True)
class DecodeJob:
    """A decoding job: the tokens, the tokenizer and the output folder.

    Attributes:
        tokens: token store of real clips or of a prior's samples.
        tokenizer: folder of the tokenizer, or the run folder that contains it.
        out: folder of the clip store.
        split: split to decode; None for all splits.
        batch_size: number of clips in a batch.
    """

    tokens: Path
    tokenizer: Path
    out: Path
    split: str | None = None
    batch_size: int = 16

    def plan(self, tokens_hash: str, tokenizer_hash: str, precision: str) -> dict[str, Any]:
        """Return the settings that determine the bytes of the clips, as JSON."""
        return {
            "kind": "decoded tokens",
            "tokens": tokens_hash,
            "tokenizer": tokenizer_hash,
            "split": self.split,
            "batch_size": self.batch_size,
            "precision": precision,
        }


def finished_clips(job: DecodeJob) -> ClipStore | None:
    """Return a job's clip store if it is finished and has the job's plan, else None.

    See `sealed_plan` for the limits of this check.
    """
    plan = sealed_plan(job.out)
    if plan is None:
        return None
    with suppress(InputError, OSError):
        model = read_model_config(job.tokenizer, "tokenizer").hash
        expected = job.plan(TokenStore(job.tokens).content_hash, model, asked_precision())
        return None if difference(plan, expected) else ClipStore(job.out)
    return None
