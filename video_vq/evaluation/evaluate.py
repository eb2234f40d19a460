"""Scores of a tokenizer and its prior's samples, beside controls computed in the same run."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from video_vq.data.windows import usable_videos
from video_vq.environment import environment
from video_vq.evaluation.evaluation_job import EvaluationJob
from video_vq.evaluation.likelihood import score_prior
from video_vq.evaluation.scoring import Evaluation
from video_vq.metrics.perceptual import load_st_lpips
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stages.fit import require_fit, require_large_enough, require_same_tokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import write_json
from video_vq.stores.places import require_writable
from video_vq.stores.tokens import TokenStore


def evaluate(
    accelerator: Accelerator, job: EvaluationJob, out: Path, identity: dict[str, Any]
) -> dict[str, Any]:
    """Score a tokenizer, and a prior when its samples or its tokens are named.

    Args:
        job: what to score.
        out: folder for scores.json and the sheets.
        identity: What decides the scores of the job; see `identity_of_scores`.

    Raises:
        InputError: data, models, tokens and samples do not belong together, or see `Evaluation`.
    """
    split, num_clips = job.split_and_number
    st_lpips = None
    if job.st_lpips is not None:
        st_lpips = load_st_lpips(job.st_lpips).to(accelerator.device)
    require_writable(out)
    tokens = None if job.tokens is None else TokenStore(job.tokens)
    prior = None
    if job.prior is not None:
        prior = Prior.from_pretrained(job.prior, device=accelerator.device)
    tokenizer = VideoTokenizer.from_pretrained(job.tokenizer, device=accelerator.device)
    store = ClipStore(job.data)
    require_fit(store, job.samples, tokens, prior)
    if tokens is not None:
        require_same_tokenizer(tokenizer, tokens.header.tokenizer_hash, str(job.tokens))
    if prior is not None:
        require_same_tokenizer(tokenizer, prior.facts.tokenizer_hash, str(job.prior))
    if tokens is not None:
        if prior is not None:
            tokens.rows(split)
        if prior is not None or (job.with_controls and job.samples is not None):
            tokens.rows("train")
    if job.with_controls and not tokenizer.config.backbone.causal:
        facts = tokenizer.facts
        train = (store, "train", facts.num_frames, facts.stride, job.short_videos)
        usable_videos(*train)  # what k-means learns from
    if st_lpips is not None:
        require_large_enough(store, st_lpips)
    run = Evaluation(
        accelerator,
        job.data,
        tokenizer,
        split,
        num_clips,
        job.protocol,
        job.samples,
        job.generation,
        short_videos=job.short_videos,
    )
    scores: dict[str, Any] = {
        "identity": identity,
        "environment": environment(),
        "made_by": {
            "data": run.store.plan,
            "tokens": None if tokens is None else tokens.header.made_by,
        },
        "protocol": job.protocol.settings(),
        "network_sha256": run.network.sha256,
        "data": run.real.data_hash,
        "tokenizer": run.tokenizer.hash,
        "split": split,
        "num_clips": len(run.windows),
        "num_frames": run.num_frames,
        "num_frames_in_fvd": run.scored_frames,
        "frame_stride": run.stride,
        "reconstruction": run.reconstruction(st_lpips),
        "floor": run.floor(),
        "controls": run.reconstruction_controls() if job.with_controls else {},
    }
    if run.samples is not None:
        scores["generation"] = run.generation(run.samples)
    if tokens is not None:
        if job.with_controls and job.samples is not None:
            scores["controls"].update(run.generation_controls(tokens))
        if prior is not None:
            scores["prior"] = score_prior(accelerator, prior, tokens, split)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        run.write(out, identity)
        write_json(out / "scores.json", scores)
    accelerator.wait_for_everyone()
    return scores
