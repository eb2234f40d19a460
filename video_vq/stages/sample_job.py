"""Which samples are asked for, what decides their bytes, and their mp4s; imports no torch."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from video_vq.media.encode import write_video
from video_vq.models.prior_config import SamplingSettings
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore

Dtype = Literal["float32", "bfloat16"]
Shown = Literal["true", "reconstruction"]
DEFAULT_NUMBER = 64
VIDEOS = "videos"  # folder of the mp4s in that of the samples
DEFAULT_FPS = 8.0  # for playing clips whose rate is unknown


class PromptRequest(NamedTuple):
    """Which frames are given.

    Attributes:
        path: a clip store.
        split: The split of the store that is continued.
        num_frames: given frames: 1 + a multiple of the tokenizer's stride in time.
        shown: whether a sample's given frames are the true ones or their reconstruction.
    """

    path: Path
    split: str
    num_frames: int
    shown: Shown


@dataclass(frozen=True)
class SampleRequest:
    """What is to be sampled.

    Attributes:
        num_samples: how many clips; None for 64, or for as many as there are given clips or
            sequences of actions.
        settings: temperature, top-k, top-p, guidance.
        label: a class name; None for all in turn, or the given videos'.
        seed: sample i is drawn with seed + i.
        batch_size: samples decoded in step.
        dtype: The dtype of the prior's weights, cache and products.
        given: whose first frames the samples continue; None for samples from nothing.
        actions: a clip store or a file with what is done; None for the given videos' own.
        actions_split: The split of that store.
        samples_per_clip: samples for each given video, and for each sequence of a store's actions.
    """

    num_samples: int | None = None
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    label: str | None = None
    seed: int = 0
    batch_size: int = 16
    dtype: Dtype = "float32"
    given: PromptRequest | None = None
    actions: Path | None = None
    actions_split: str = "test"
    samples_per_clip: int = 1


def sample_plan(
    request: SampleRequest,
    num_samples: int,
    prior_hash: str,
    tokenizer_hash: str,
    precision: str,
    threads: int | None,
) -> dict[str, Any]:
    """Return, as JSON, what decides the bytes of samples beside prompts and actions.

    Args:
        request: what is to be sampled.
        num_samples: how many.
        prior_hash, tokenizer_hash: The hashes of the models.
        precision: The precision of the decoder's products.
        threads: The number of CPU threads that compute; None for a GPU.
    """
    return {
        "kind": "samples",
        "prior": prior_hash,
        "tokenizer": tokenizer_hash,
        "settings": asdict(request.settings),
        "class": request.label,
        "num_samples": num_samples,
        "seed": request.seed,
        "batch_size": request.batch_size,
        "dtype": request.dtype,
        "precision": precision,
        "threads": threads,
    }


def missing_videos(store: ClipStore, folder: Path) -> list[int]:
    """Return the indices of a store's clips that are no mp4 in a folder yet; see `write_videos`."""
    return [
        index
        for index, video in enumerate(store.videos)
        if not (folder / f"{video.id}.mp4").exists()
    ]


def write_videos(store: ClipStore, folder: Path) -> None:
    """Write each clip of a store as an mp4; those that are there already are left alone."""
    folder.mkdir(exist_ok=True)
    missing = missing_videos(store, folder)
    with progress("writing mp4s", len(missing), "video") as bar:
        for index in missing:
            video = store.videos[index]
            frames = store.read(index)
            even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
            write_video(folder / f"{video.id}.mp4", even, video.fps or DEFAULT_FPS)
            bar.update()
