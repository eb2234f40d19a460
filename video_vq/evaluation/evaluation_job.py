"""The inputs of `evaluate`, and the identity of the scores. This module does not import torch."""

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from video_vq.data.clip_config import ShortVideos
from video_vq.errors import ConfigError, InputError
from video_vq.evaluation.generation_protocols import GenerationProtocol
from video_vq.facts import Facts, score
from video_vq.media.array_videos import is_array_file
from video_vq.media.codec import CODECS, available_codecs
from video_vq.media.decode import pyav_version
from video_vq.metrics.network_choice import network_name
from video_vq.metrics.protocol import FVDProtocol
from video_vq.models.model_folder import read_model_config, read_tokenizer_identity
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import read_json
from video_vq.stores.shards import MANIFEST, PARTS
from video_vq.stores.tokens import TokenStore

DEFAULT_NUM_CLIPS = 2048
SCORES = "scores.json"


@dataclass(frozen=True)
class EvaluationJob:
    """The inputs and options for evaluating a tokenizer and, optionally, a prior.

    Attributes:
        data: path of the clip store of real videos.
        tokenizer: folder of the tokenizer, or run folder that contains the tokenizer.
        protocol: FVD protocol.
        split: split of the clips and tokens; None for the split that `generation` specifies, or
            "test" if `generation` is None.
        num_clips: maximum number of real clips; None for the number that `generation` specifies, or
            2048 if `generation` is None.
        samples: path of a clip store of samples, for computing gFVD; None to skip gFVD.
        prior, tokens: paths of a prior and of the token store encoded from `data`; with both, the
            prior's rate is computed.
        with_controls: whether to also compute controls that the scores must beat.
        with_codec: whether the controls include video codecs at the tokenizer's bit budget.
        generation: published generation protocol that the samples must follow.
        st_lpips: trunk of the ST-LPIPS network; None to skip ST-LPIPS.
        short_videos: treatment of videos shorter than a clip.
        network: name of the FVD feature network, see `load_feature_network`; None for I3D.

    Raises:
        ConfigError: a prior is given without tokens, or a generation protocol without samples; or
            the split or the number of clips contradicts the generation protocol.
        InputError: codecs are requested, but the installed PyAV has no encoder for any codec.
    """

    data: Path
    tokenizer: Path
    protocol: FVDProtocol
    split: str | None = None
    num_clips: int | None = None
    samples: Path | None = None
    prior: Path | None = None
    tokens: Path | None = None
    with_controls: bool = False
    with_codec: bool = False
    generation: GenerationProtocol | None = None
    st_lpips: Literal["alex", "vgg"] | None = None
    short_videos: ShortVideos = "leave_out"
    network: str | None = None

    def __post_init__(self) -> None:
        if self.prior is not None and self.tokens is None:
            raise ConfigError("--prior needs --tokens, the token store that `video-vq encode` made")
        if self.with_codec and not available_codecs():
            encoders = ", ".join(facts.encoder for facts in CODECS.values())
            raise InputError(
                f"--controls codec: the FFmpeg of the installed PyAV has none of the encoders "
                f"{encoders}; install PyAV's own wheel (pip install --force-reinstall av), or "
                "leave `codec` out"
            )
        if self.generation is None:
            return
        if self.samples is None:
            raise ConfigError("--generation needs --samples, a clip store of samples")
        asked = {"--split": self.split, "--num": self.num_clips}
        for (flag, value), own in zip(asked.items(), self.split_and_number, strict=True):
            if value not in (None, own):
                raise ConfigError(
                    f"{flag} {value}: --generation {self.generation.name} takes {flag} {own}; "
                    f"leave {flag} out, or --generation"
                )

    @property
    def split_and_number(self) -> tuple[str, int]:
        """Return the split to score, and the maximum number of clips from this split."""
        if self.generation is not None:
            return self.generation.split, self.generation.num_real
        return self.split or "test", self.num_clips or DEFAULT_NUM_CLIPS


def identity_of_scores(job: EvaluationJob, precision: str) -> dict[str, Any]:
    """Return everything that determines the scores of a job, as JSON.

    Args:
        precision: precision of matrix products in the tokenizer and the prior.

    Raises:
        InputError: data, models, tokens or samples are missing or damaged.
    """
    split, num_clips = job.split_and_number
    tokenizer = read_tokenizer_identity(job.tokenizer)
    size_hw = tokenizer.facts.frame_size_hw
    samples = None if job.samples is None else _clip_store(job.samples, size_hw)
    identity = {
        "data": _clip_store(job.data, size_hw).content_hash,
        "tokenizer": tokenizer.hash,
        "samples": None if samples is None else samples.content_hash,
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
    if job.with_codec:
        identity["codecs"] = [*available_codecs(), pyav_version()]
    if job.network is not None:
        identity["network"] = network_name(job.network)
    return identity


def _clip_store(path: Path, frame_size_hw: tuple[int, int]) -> ClipStore:
    """Return a clip store, or raise an error that names the command for making a clip store."""
    if path.exists() and not any((path / name).exists() for name in (MANIFEST, PARTS)):
        size = "x".join(map(str, frame_size_hw))
        videos = path if path.is_dir() or is_array_file(path) else path.parent
        raise InputError(
            f"{path}: holds no {MANIFEST}, but evaluate needs a clip store; for videos, frame "
            f"folders or arrays, `data-prep folder {shlex.quote(str(videos))} --out STORE --size "
            f"{size} --val 0 --test 1` makes one, with all of them in split 'test'"
        )
    return ClipStore(path)


def finished_scores(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the scores in a folder if they were computed with this identity, or else None.

    If the identity names a network, the scores are never reused, because the network's code may
    have changed.
    """
    if "network" in identity:
        return None
    with suppress(InputError, OSError):
        before = read_json(out / SCORES, "scores")
        return before if before.get("identity") == identity else None
    return None


def describe_evaluation(path: Path) -> Facts | None:
    """Return the details of a scores folder for `video-vq info`; None for other kinds of scores."""
    scores = read_json(path / SCORES, "scores")
    if not {"reconstruction", "protocol", "num_clips"} <= scores.keys():
        return None
    copy = scores["reconstruction"]
    facts = {
        "scored": f"{int(scores['num_clips']):,} clips of split {scores['split']}",
        "tokenizer": str(scores["tokenizer"]),
        "PSNR, SSIM": f"{score(copy['psnr']['mean'])} dB, {score(copy['ssim']['mean'])}",
        "rFVD": score(copy["rfvd"]["value"]),
    }
    if "generation" in scores:
        facts["gFVD"] = score(scores["generation"]["gfvd"]["value"])
    if "prior" in scores:
        prior = scores["prior"]
        rate = "bits_per_token" if "bits_per_token" in prior else "bits_per_hidden_token"
        facts[rate.replace("_", " ")] = score(prior[rate])
    floor = scores["floor"]
    facts["FVD floor"] = (
        "too few clips"
        if floor is None
        else f"{score(floor['distance'])} at N = {int(floor['num_clips'])}"
    )
    facts["FVD protocol"] = str(scores["protocol"]["name"])
    facts["data"] = str(scores["data"])
    return facts
