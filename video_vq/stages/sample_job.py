"""A sampling job, with its plan and its mp4 files. This module does not import torch."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from video_vq.config import check_config
from video_vq.errors import InputError
from video_vq.machine import asked_precision, is_recorded_number_of_threads
from video_vq.media.encode import write_frames
from video_vq.models.model_folder import CONFIG, read_model_config
from video_vq.models.prior_config import ParallelSettings, PriorConfig, PriorKind, SamplingSettings
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import difference
from video_vq.stores.shards import sealed_plan

Dtype = Literal["float32", "bfloat16"]
Shown = Literal["true", "reconstruction"]
DEFAULT_NUMBER = 64
VIDEOS = "videos"  # subfolder of the sample store that contains the mp4 files
DEFAULT_FPS = 8.0  # frame rate of clips whose rate is unknown
FRAMES_AT_ONCE = 256


class FramesToGive(NamedTuple):
    """The frames of real videos that samples continue.

    Attributes:
        path: folder of the clip store.
        split: split of the store whose videos are continued.
        num_frames: number of given frames, 1 + a multiple of the tokenizer's stride in time.
        shown: "true" if samples show the given frames themselves, "reconstruction" if samples show
            a reconstruction of the given frames.
    """

    path: Path
    split: str
    num_frames: int
    shown: Shown


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Settings for drawing samples from a prior.

    Attributes:
        settings: temperature, top-k, top-p and guidance.
        parallel: steps and confidence for a masked prior; None for the defaults, or for a prior of
            a different kind.
        label: name of the class; None for the classes of the given videos, for all classes in turn
            if no videos are given, or, in a continuation, for no class.
        seed: seed of the first sample; sample i is drawn with seed + i.
        dtype: dtype of the prior's weights, cache and matrix products.
        actions: path of a clip store or file with actions; None for the actions of the given
            videos, or, in a continuation, for no actions.
        seconds: duration of each sample, or of the frames that a continuation adds, rounded up to
            whole latent frames; None for the length of a clip, including given frames.
        window_stride: number of latent frames that each window after the first adds; None for half
            the number in a clip.
    """

    settings: SamplingSettings = field(default_factory=SamplingSettings)
    parallel: ParallelSettings | None = None
    label: str | None = None
    seed: int = 0
    dtype: Dtype = "float32"
    actions: Path | None = None
    seconds: float | None = None
    window_stride: int | None = None


@dataclass(frozen=True)
class SampleJob(Drawing):
    """A sampling job: the samples, the models and the output folder.

    Attributes:
        prior, tokenizer: folders of the models, or the run folders that contain them.
        out: folder of the clip store.
        num_samples: number of samples; None for all samples that the given clips and actions allow,
            or for 64 if there is no such limit.
        batch_size: number of samples that are drawn and decoded together.
        given: the frames that the samples continue; None for samples without given frames.
        actions_split: split of the clip store that provides the actions.
        samples_per_clip: number of samples for each given video, or for each video of the clip
            store that provides the actions.
    """

    prior: Path
    tokenizer: Path
    out: Path
    num_samples: int | None = None
    batch_size: int = 16
    given: FramesToGive | None = None
    actions_split: str = "test"
    samples_per_clip: int = 1

    def for_kind(self, kind: PriorKind) -> "SampleJob":
        """Return the job, with default `parallel` settings added if a masked prior needs them."""
        if kind == "masked" and self.parallel is None:
            return replace(self, parallel=ParallelSettings())
        return self

    def plan(
        self,
        num_samples: int,
        prior_hash: str,
        tokenizer_hash: str,
        precision: str,
        threads: int | None,
    ) -> dict[str, Any]:
        """Return the settings that determine the samples, except given frames and actions, as JSON.

        Args:
            precision: precision of the decoder's matrix products.
            threads: number of CPU threads; None for a GPU.
        """
        return {
            "kind": "samples",
            "prior": prior_hash,
            "tokenizer": tokenizer_hash,
            "settings": asdict(self.settings),
            "class": self.label,
            "num_samples": num_samples,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "precision": precision,
            "threads": threads,
            **({} if self.parallel is None else {"parallel": asdict(self.parallel)}),
            **({} if self.seconds is None else {"seconds": self.seconds}),
            **({} if self.window_stride is None else {"window_stride": self.window_stride}),
        }


def finished_samples(job: SampleJob) -> ClipStore | None:
    """Return a job's clip store if it is known to be finished with the job's plan, else None.

    A job with given frames or actions cannot be checked here. A job with a missing mp4 file is
    unfinished: the command itself writes the file, under the lock.
    """
    plan = sealed_plan(job.out)
    if plan is None or job.given is not None or job.actions is not None:
        return None
    with suppress(InputError, OSError):
        found = read_model_config(job.prior, "prior")
        config = check_config(PriorConfig, found.model, str(found.folder / CONFIG))
        if config.num_action_dims and job.settings.guidance:
            return None
        threads = plan.get("threads")
        number = job.num_samples or DEFAULT_NUMBER
        models = found.hash, read_model_config(job.tokenizer, "tokenizer").hash
        expected = job.for_kind(config.transformer.kind).plan(
            number, *models, asked_precision(), threads
        )
        if is_recorded_number_of_threads(threads) and not difference(plan, expected):
            store = ClipStore(job.out)
            return None if missing_videos(store, job.out / VIDEOS) else store
    return None


def missing_videos(store: ClipStore, folder: Path) -> list[int]:
    """Return the indices of clips that have no mp4 file in a folder; see `write_videos`."""
    return [
        index
        for index, video in enumerate(store.videos)
        if not (folder / f"{video.id}.mp4").exists()
    ]


def write_videos(store: ClipStore, folder: Path) -> None:
    """Write each clip of a store as an mp4 file; existing files are not changed."""
    folder.mkdir(exist_ok=True)
    missing = missing_videos(store, folder)
    with progress("writing mp4s", len(missing), "video") as bar:
        for index in missing:
            video = store.videos[index]
            frames = _even_frames(store, index)
            write_frames(folder / f"{video.id}.mp4", frames, video.fps or DEFAULT_FPS)
            bar.update()


def _even_frames(store: ClipStore, index: int) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
    """Yield a video's frames, cropped to an even height and width and read in chunks."""
    height, width = (side // 2 * 2 for side in store.frame_size_hw)
    total = store.videos[index].num_frames
    for start in range(0, total, FRAMES_AT_ONCE):
        yield from store.read(index, start, min(FRAMES_AT_ONCE, total - start))[:, :height, :width]
