"""Measures how often samples show the requested class, compared with real clips."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from video_vq.data.windows import Window, read_window
from video_vq.metrics.class_accuracy import BATCH, STEPS, predicted_classes, train_classifier
from video_vq.stores.clips import ClipStore


def class_accuracy(
    store: ClipStore,
    held_out: Sequence[Window],
    samples: ClipStore,
    sampled: Sequence[Window],
    device: torch.device,
    seed: int,
) -> dict[str, Any] | None:
    """Train a small classifier on the train split, and apply it to held-out clips and samples.

    The accuracy on held-out clips, rather than 1, is the reference for the accuracy on samples,
    because the classifier itself makes errors.

    Args:
        held_out: windows of held-out real clips.
        sampled: windows of the samples.

    Returns:
        The accuracies as JSON; None if the train split or the samples have fewer than two classes,
        no held-out clip has a class, or clips have a single frame.
    """
    num_frames = min(window.num_frames for window in (*held_out, *sampled))
    real = [window for window in held_out if store.videos[window.video].label is not None]
    made = [w for w in sampled if samples.videos[w.video].label in store.classes]
    stride, rule = held_out[0].stride, held_out[0].short_videos
    like = Window(0, 0, num_frames, stride, rule)
    trained = [
        index
        for index, video in enumerate(store.videos)
        if video.split == "train"
        and video.label is not None
        and (rule != "leave_out" or video.num_frames >= like.span)
    ]
    to_tell_apart = {store.videos[index].label for index in trained}
    asked = {samples.videos[window.video].label for window in made}
    if num_frames < 2 or not real or len(asked) < 2 or len(to_tell_apart) < 2:
        return None
    classes = store.classes
    classifier = train_classifier(_batches(store, trained, like, seed), len(classes), device, seed)

    def scored(of: ClipStore, windows: Sequence[Window]) -> tuple[float, dict[str, float]]:
        clips = [read_window(of, w._replace(num_frames=num_frames)) for w in windows]
        labels = np.array([classes.index(of.videos[w.video].label or "") for w in windows])
        right = predicted_classes(classifier, clips) == labels
        by_class = {classes[k]: float(right[labels == k].mean()) for k in np.unique(labels)}
        return float(right.mean()), by_class

    accuracy_real, by_class_real = scored(store, real)
    accuracy_samples, by_class_samples = scored(samples, made)
    return {
        "accuracy_real": accuracy_real,
        "accuracy_samples": accuracy_samples,
        "num_real": len(real),
        "num_samples": len(made),
        "num_classes": len(classes),
        "by_class_real": by_class_real,
        "by_class_samples": by_class_samples,
    }


def _batches(
    store: ClipStore, videos: list[int], like: Window, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of random clips with class indices; the seed determines all batches.

    Args:
        like: window with the length, stride and short-video rule of all clips.
    """
    random = np.random.default_rng([seed, 0xC1A])
    for _ in range(STEPS):
        picked = [videos[pick] for pick in random.integers(len(videos), size=BATCH)]
        starts = [max(1, store.videos[video].num_frames - like.span + 1) for video in picked]
        clips = [
            read_window(store, like._replace(video=video, start=int(random.integers(number))))
            for video, number in zip(picked, starts, strict=True)
        ]
        labels = [store.classes.index(store.videos[video].label or "") for video in picked]
        yield np.stack(clips), np.array(labels)
