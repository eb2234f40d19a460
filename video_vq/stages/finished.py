"""What a second start finds done, so that it has nothing to compute; imports no torch.

Each function returns None where what it looks at differs, is missing or damaged: the verb itself,
which loads the models, then says what. It looks at plans: of a store at its manifest alone, of
scores at the identity in `scores.json`, of samples also at whether each mp4 is there. Damage to a
shard, an mp4 or a score passes; `data-prep verify` looks at every byte of a store.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from video_vq.config import check_config
from video_vq.errors import InputError
from video_vq.machine import asked_precision, is_recorded_number_of_threads
from video_vq.models.model_folder import CONFIG, read_model_config
from video_vq.models.prior_config import PriorConfig
from video_vq.models.tokenizer_config import TokenizerConfig, TokenizerFacts
from video_vq.stages.encode_job import EncodeJob, clips_of_job, header_of_job
from video_vq.stages.raw_folder import is_folder_of_files, list_folder
from video_vq.stages.sample_job import (
    DEFAULT_NUMBER,
    VIDEOS,
    SampleRequest,
    missing_videos,
    sample_plan,
)
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import difference, read_json
from video_vq.stores.shards import MANIFEST, PARTS, plan_of
from video_vq.stores.tokens import TokenStore


def finished_tokens(job: EncodeJob) -> TokenStore | None:
    """Return the token store of a job."""
    plan = _sealed_plan(job.out)
    if plan is None:
        return None
    with suppress(InputError, OSError):
        found = read_model_config(job.tokenizer, "tokenizer")
        source = str(found.folder / CONFIG)
        config = check_config(TokenizerConfig, found.model, source)
        facts = check_config(TokenizerFacts, found.facts, source)
        listed = None
        if is_folder_of_files(job.data):
            listed = list_folder(job.data, job.folder, facts.frame_size_hw)
        clips = clips_of_job(job, facts, listed)
        try:
            header = header_of_job(job, clips, config, facts, found.hash, asked_precision())
        finally:
            clips.close()
        return None if difference(plan, header.to_json()) else TokenStore(job.out)
    return None


def finished_clips(
    out: Path, tokens: Path, tokenizer: Path, split: str | None, batch_size: int
) -> ClipStore | None:
    """Return the clip store of decoded tokens; see `decode_store`."""
    plan = _sealed_plan(out)
    if plan is None:
        return None
    with suppress(InputError, OSError):
        model = read_model_config(tokenizer, "tokenizer").hash
        expected = plan_of_decoding(TokenStore(tokens), model, split, batch_size, asked_precision())
        return None if difference(plan, expected) else ClipStore(out)
    return None


def plan_of_decoding(
    tokens: TokenStore, tokenizer_hash: str, split: str | None, batch_size: int, precision: str
) -> dict[str, Any]:
    """Return, as JSON, what decides the bytes of decoded tokens; see `decode_store`."""
    return {
        "kind": "decoded tokens",
        "tokens": tokens.content_hash,
        "tokenizer": tokenizer_hash,
        "split": split,
        "batch_size": batch_size,
        "precision": precision,
    }


def finished_samples(
    out: Path, prior: Path, tokenizer: Path, request: SampleRequest
) -> ClipStore | None:
    """Return the clip store of samples that nothing was given for: no prompts, no actions.

    Where an mp4 is missing they are not finished: the verb itself writes it, under its lock.
    """
    plan = _sealed_plan(out)
    if plan is None or request.given is not None or request.actions is not None:
        return None
    with suppress(InputError, OSError):
        found = read_model_config(prior, "prior")
        config = check_config(PriorConfig, found.model, str(found.folder / CONFIG))
        if config.num_action_dims and request.settings.guidance:
            return None
        threads = plan.get("threads")
        number = request.num_samples or DEFAULT_NUMBER
        models = found.hash, read_model_config(tokenizer, "tokenizer").hash
        expected = sample_plan(request, number, *models, asked_precision(), threads)
        if is_recorded_number_of_threads(threads) and not difference(plan, expected):
            store = ClipStore(out)
            return None if missing_videos(store, out / VIDEOS) else store
    return None


def finished_scores(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the scores of a folder, if they are of this identity."""
    with suppress(InputError, OSError):
        before = read_json(out / "scores.json", "scores")
        return before if before.get("identity") == identity else None
    return None


def _sealed_plan(store: Path) -> dict[str, Any] | None:
    """Return the plan of a store that is finished and tidied up."""
    if not (store / MANIFEST).exists() or (store / PARTS).exists():
        return None
    with suppress(InputError):
        plan = plan_of(store)
        return plan if isinstance(plan, dict) else None
    return None
