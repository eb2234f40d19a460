"""Scores of samples: gFVD, class accuracy, memorization and diversity."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from video_vq.data.windows import Window, read_window
from video_vq.evaluation.classes import class_accuracy
from video_vq.evaluation.evaluation_setup import SEED, EvaluationSetup
from video_vq.evaluation.features import Clip, FeatureSet, store_features
from video_vq.evaluation.gallery import SHOWN, Neighbour, some_of_each_class
from video_vq.evaluation.generation_protocols import as_scored
from video_vq.evaluation.memorisation import diversity, memorisation
from video_vq.stores.clips import ClipStore


class SampleScores(NamedTuple):
    """The scores of the samples, with their features and some clips to show.

    Attributes:
        scores: scores as JSON.
        features: features of the scored samples.
        shown: a few samples of each class.
        neighbours: the samples nearest to a training clip, each with that clip.
    """

    scores: dict[str, Any]
    features: FeatureSet
    shown: dict[str | None, list[Clip]]
    neighbours: list[Neighbour]


def score_samples(setup: EvaluationSetup, store: ClipStore) -> SampleScores:
    """Score the samples of an evaluation."""
    protocol, windows = setup.generation_protocol, setup.sample_windows
    num_samples = len(windows)
    if protocol is None:
        windows = windows[: len(setup.windows)]
    fake = store_features(store, windows, setup.extractor, "sampled", None, setup.accelerator)
    held_out = setup.scored_windows
    scores: dict[str, Any] = {
        "gfvd": setup.fvd(fake),
        "protocol": None if protocol is None else as_scored(protocol, setup.store.simulated),
        "diversity": diversity(setup.real.of(setup.protocol), fake.of(setup.protocol)),
        "num_samples": num_samples,
        "samples": store.plan,
        # The classifier's accuracy on its own training clips would be meaningless.
        "classes": None
        if setup.split == "train"
        else class_accuracy(setup.store, held_out, store, windows, setup.accelerator.device, SEED),
    }
    neighbours: list[Neighbour] = []
    if setup.split != "train" and any(video.split == "train" for video in setup.store.videos):
        clips = [store.read(window.video, 0, setup.scored_frames) for window in windows]
        scores["memorisation"], neighbours = _memorised(setup, clips, held_out)
    shown = some_of_each_class(
        (store.videos[window.video].label, lambda video=window.video: _whole(store, video, setup))
        for window in sorted(windows, key=lambda window: window.video)
    )
    return SampleScores(scores, fake, shown, neighbours)


def _memorised(
    setup: EvaluationSetup, clips: Sequence[Clip], held_out: Sequence[Window]
) -> tuple[dict[str, Any], list[Neighbour]]:
    scores, nearest, train = memorisation(
        setup.store, clips, held_out, setup.scored_frames, setup.stride
    )
    return scores, [
        Neighbour(
            clips[place],
            read_window(setup.store, train[nearest.place[place]]),
            float(nearest.distance[place]),
        )
        for place in np.argsort(nearest.distance)[:SHOWN]
    ]


def _whole(store: ClipStore, video: int, setup: EvaluationSetup) -> Clip:
    """Return a sample, cut or extended with its last frame to the length of a real clip."""
    clip = store.read(video)
    return clip[np.arange(setup.num_frames).clip(max=len(clip) - 1)]
