"""Scores a tokenizer, a prior and its samples, together with controls, in a single run."""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from video_vq.data.windows import read_window, usable_videos
from video_vq.environment import environment
from video_vq.errors import InputError
from video_vq.evaluation.codec_control import codec_scores, psnr_controls
from video_vq.evaluation.controls import (
    GenerationControls,
    generation_controls,
    reconstruction_controls,
)
from video_vq.evaluation.evaluation_job import EvaluationJob
from video_vq.evaluation.evaluation_setup import EvaluationSetup
from video_vq.evaluation.feature_file import write_features
from video_vq.evaluation.gallery import SHOWN, Clip, Gallery, some_of_each_class
from video_vq.evaluation.likelihood import score_prior
from video_vq.evaluation.reconstruction_scores import ReconstructionScores, score_reconstructions
from video_vq.evaluation.sample_scores import SampleScores, score_samples
from video_vq.evaluation.scored_clip import Cut
from video_vq.metrics.perceptual import TRUNKS, StLpips, load_st_lpips
from video_vq.models.priors import AnyPrior, load_prior
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stages.model_pair import require_same_tokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import write_json
from video_vq.stores.places import require_writable
from video_vq.stores.tokens import TokenStore
from video_vq.stores.videos import commonest_fps


def evaluate(
    accelerator: Accelerator, job: EvaluationJob, out: Path, identity: dict[str, Any]
) -> dict[str, Any]:
    """Score a tokenizer and, if given, samples and a prior; write and return the scores.

    All ranks must call this function.

    Args:
        out: output folder for scores, features and clips to show.
        identity: everything that determines the scores; see `identity_of_scores`.

    Raises:
        InputError: the data, models, tokens and samples do not match; the weights of ST-LPIPS are
            missing; `out` cannot be written; or the setup fails (see `EvaluationSetup`).
    """
    st_lpips = None
    if job.st_lpips is not None:
        st_lpips = load_st_lpips(job.st_lpips).to(accelerator.device)
    require_writable(out)
    tokens = None if job.tokens is None else TokenStore(job.tokens)
    prior = None
    if job.prior is not None:
        prior = load_prior(job.prior, device=accelerator.device)
    tokenizer = VideoTokenizer.from_pretrained(job.tokenizer, device=accelerator.device)
    _require_fit(job, tokenizer, tokens, prior, st_lpips)
    setup = EvaluationSetup(accelerator, job, tokenizer)
    copies = score_reconstructions(setup, st_lpips)
    controls = reconstruction_controls(setup) if job.with_controls else {}
    rate = None
    if tokens is not None and prior is not None:
        rate = score_prior(accelerator, prior, tokens, setup.split)
    codecs = None
    if job.with_codec:
        rates = {"tokens": copies.scores["bits_per_clip"]}
        if rate is not None and "bits_per_clip" in rate:  # a masked prior has no code length
            rates["prior"] = rate["bits_per_clip"]
        codecs = codec_scores(setup, st_lpips, rates)
        controls = {**controls, **psnr_controls(codecs)}
    samples = None if setup.samples is None else score_samples(setup, setup.samples)
    of_samples = None
    if tokens is not None and job.with_controls and samples is not None:
        of_samples = generation_controls(setup, tokens)
        controls = {**controls, **of_samples.scores}
    scores: dict[str, Any] = {
        "identity": identity,
        "environment": environment(),
        "made_by": {
            "data": setup.store.plan,
            "tokens": None if tokens is None else tokens.header.made_by,
        },
        "protocol": job.protocol.settings(),
        "network_sha256": setup.network.sha256,
        "data": setup.real.data_hash,
        "tokenizer": tokenizer.hash,
        "split": setup.split,
        "num_clips": len(setup.windows),
        "num_frames": setup.num_frames,
        "num_frames_in_fvd": setup.scored_frames,
        "frame_stride": setup.stride,
        "reconstruction": copies.scores,
        "floor": setup.floor(),
        "controls": controls,
        **({} if samples is None else {"generation": samples.scores}),
        **({} if codecs is None else {"codecs": codecs}),
        **({} if rate is None else {"prior": rate}),
    }
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        _write_clips(out, identity, setup, copies, samples, of_samples)
        write_json(out / "scores.json", scores)
    accelerator.wait_for_everyone()
    return scores


def _write_clips(
    out: Path,
    identity: dict[str, Any],
    setup: EvaluationSetup,
    copies: ReconstructionScores,
    samples: SampleScores | None,
    of_samples: GenerationControls | None,
) -> None:
    gallery = Gallery(copies.pairs)
    sets = {"real": setup.real, "reconstructed": copies.features}
    if samples is not None:
        gallery = gallery._replace(
            sampled=samples.shown,
            of_class=_real_of_classes(setup, samples.shown),
            neighbours=samples.neighbours,
        )
        sets["sampled"] = samples.features
    if of_samples is not None:
        drawn = list(of_samples.drawn[:SHOWN])
        gallery = gallery._replace(controls={"tokens per position": drawn})
    fps = commonest_fps(setup.store.videos)
    rate = None if fps is None else fps / setup.stride
    gallery.write(out / "gallery", {"scores": identity}, rate)
    gallery.write_sheet(out, rate)
    cut = Cut(setup.scored_frames, setup.stride)
    for name, features in sets.items():
        write_features(out / f"features-{name}.safetensors", features, setup.network, cut)


def _real_of_classes(
    setup: EvaluationSetup, classes: Collection[str | None]
) -> dict[str | None, list[Clip]]:
    """Return a few scored real clips of each class; `None` stands for all other classes."""
    labels = [setup.store.videos[window.video].label for window in setup.windows]
    return some_of_each_class(
        (label if label in classes else None, partial(read_window, setup.store, window))
        for label, window in zip(labels, setup.windows, strict=True)
        if label in classes or None in classes
    )


def _require_fit(
    job: EvaluationJob,
    tokenizer: VideoTokenizer,
    tokens: TokenStore | None,
    prior: AnyPrior | None,
    st_lpips: StLpips | None,
) -> None:
    """Reject models and stores that do not match, before anything is computed."""
    store, (split, _) = ClipStore(job.data), job.split_and_number
    if job.samples is not None and ClipStore(job.samples).frame_size_hw != store.frame_size_hw:
        raise InputError(
            f"{job.samples}: frames of {ClipStore(job.samples).frame_size_hw}, the data's are "
            f"{store.frame_size_hw}; score samples of a model trained on this data"
        )
    if tokens is not None:
        require_tokens_of(store, tokens, prior)
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
        usable_videos(*train)  # raises if there are no clips for k-means
    if st_lpips is not None:
        least = TRUNKS[st_lpips.trunk].min_size
        height, width = store.frame_size_hw
        if min(height, width) < least:
            raise InputError(
                f"{store.path}: ST-LPIPS on {st_lpips.trunk} needs frames of at least {least} x "
                f"{least} pixels, found {height} x {width}; leave --st-lpips out"
            )


def require_tokens_of(store: ClipStore, tokens: TokenStore, prior: AnyPrior | None) -> None:
    """Reject tokens encoded from another clip store, and a prior trained on other tokens.

    Raises:
        InputError: the clip store, the tokens and the prior do not match.
    """
    if tokens.header.data_hash != store.content_hash:
        raise InputError(
            f"{tokens.path}: was not encoded from {store.path}; "
            f"run `video-vq encode {store.path} --tokenizer … --out …` first"
        )
    if prior is not None:
        model, header = prior.config, tokens.header
        if model.vocabulary != header.vocabulary:
            raise InputError(
                f"the prior models codes of {model.vocabulary} values per position, those of "
                f"{tokens.path} have {header.vocabulary}; train a prior on these tokens"
            )
        ours = (prior.facts.classes, model.grid_thw, model.num_action_dims)
        theirs = (header.classes, header.grid_thw, header.num_action_dims)
        if ours != theirs:
            raise InputError(
                f"the prior was trained on classes, grid and numbers of actions {ours}, "
                f"{tokens.path} has {theirs}; train a prior on these tokens"
            )
