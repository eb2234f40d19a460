"""Scores of a tokenizer and its prior's samples, beside controls computed in the same run."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from video_vq.data.clip_config import ShortVideos
from video_vq.data.windows import usable_videos
from video_vq.environment import environment
from video_vq.evaluation.finished import finished_scores, identity_of_scores
from video_vq.evaluation.fit import require_fit, require_large_enough, require_same_tokenizer
from video_vq.evaluation.generation_protocols import GenerationProtocol
from video_vq.evaluation.likelihood import score_prior
from video_vq.evaluation.scoring import Evaluation
from video_vq.metrics.perceptual import StLpips
from video_vq.metrics.protocol import FVDProtocol
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import write_json
from video_vq.stores.places import require_writable
from video_vq.stores.tokens import TokenStore


def evaluate(
    accelerator: Accelerator,
    data: Path,
    tokenizer_path: Path,
    out: Path,
    protocol: FVDProtocol,
    split: str = "test",
    num_clips: int = 2048,
    samples: Path | None = None,
    prior_path: Path | None = None,
    tokens_path: Path | None = None,
    with_controls: bool = False,
    generation: GenerationProtocol | None = None,
    st_lpips: StLpips | None = None,
    short_videos: ShortVideos = "leave_out",
) -> dict[str, Any]:
    """Score a tokenizer, and a prior when its samples or its tokens are named.

    Args:
        out: folder for scores.json and the sheets.
        samples: a clip store of samples: adds gFVD.
        prior_path, tokens_path: a prior and the token store of `data`: add the rate.
        with_controls: compute in the same run what the scores must beat.
        generation: a published protocol that the samples must follow; it decides the split and
            the number of clips.
        st_lpips: the perceptual network, None to leave its score out.
        short_videos: what becomes of those shorter than a clip.

    Raises:
        InputError: data, models, tokens and samples do not belong together, or see `Evaluation`.
    """
    if generation is not None:
        split, num_clips = generation.split, generation.num_real
    identity = identity_of_scores(
        data,
        tokenizer_path,
        protocol,
        split,
        num_clips,
        samples,
        prior_path,
        tokens_path,
        with_controls,
        generation,
        None if st_lpips is None else st_lpips.trunk,
        short_videos,
        accelerator.mixed_precision,
    )
    if (before := finished_scores(out, identity)) is not None:
        return before
    require_writable(out)
    tokens = None if tokens_path is None else TokenStore(tokens_path)
    prior = None
    if prior_path is not None:
        prior = Prior.from_pretrained(prior_path, device=accelerator.device)
    tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
    require_fit(ClipStore(data), samples, tokens, prior)
    if tokens is not None:
        require_same_tokenizer(tokenizer, tokens.header.tokenizer_hash, str(tokens_path))
    if prior is not None:
        require_same_tokenizer(tokenizer, prior.facts.tokenizer_hash, str(prior_path))
    if tokens is not None:
        if prior is not None:
            tokens.rows(split)
        if prior is not None or (with_controls and samples is not None):
            tokens.rows("train")
    if with_controls and not tokenizer.config.backbone.causal:
        facts = tokenizer.facts
        train = (ClipStore(data), "train", facts.num_frames, facts.stride, short_videos)
        usable_videos(*train)  # what k-means learns from
    if st_lpips is not None:
        require_large_enough(ClipStore(data), st_lpips)
    run = Evaluation(
        accelerator,
        data,
        tokenizer,
        split,
        num_clips,
        protocol,
        samples,
        generation,
        short_videos=short_videos,
    )
    scores: dict[str, Any] = {
        "identity": identity,
        "environment": environment(),
        "made_by": {
            "data": run.store.plan,
            "tokens": None if tokens is None else tokens.header.made_by,
        },
        "protocol": protocol.settings(),
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
        "controls": run.reconstruction_controls() if with_controls else {},
    }
    if run.samples is not None:
        scores["generation"] = run.generation(run.samples)
    if tokens is not None:
        if with_controls and samples is not None:
            scores["controls"].update(run.generation_controls(tokens))
        if prior is not None:
            scores["prior"] = score_prior(accelerator, prior, tokens, split)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        run.write(out, identity)
        write_json(out / "scores.json", scores)
    accelerator.wait_for_everyone()
    return scores
