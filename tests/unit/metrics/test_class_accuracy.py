"""Tests that the clip classifier distinguishes classes that differ only in motion."""

import numpy as np
import pytest
import torch

from video_vq.data.windows import Window, first_windows
from video_vq.evaluation.classes import class_accuracy
from video_vq.report.verdicts import _of_samples
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video

CLASSES = ("left", "right", "up", "down")
FRAMES = 6


def moving_square(label: str, random: np.random.Generator) -> np.ndarray:
    """Return a moving square that wraps around; any single frame could be of any class."""
    texture, colour = random.integers(0, 120, (16, 16, 3)), random.integers(150, 255, 3)
    row, column = random.integers(16, size=2)
    step = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[label]
    frames = np.empty((FRAMES, 16, 16, 3), np.uint8)
    for t in range(FRAMES):
        rows = (row + 2 * t * step[0] + np.arange(5)) % 16
        columns = (column + 2 * t * step[1] + np.arange(5)) % 16
        frames[t] = texture
        frames[t, rows[:, None], columns] = colour
    return frames


def make_store(path, shown: str, splits: dict[str, int], seed: int) -> ClipStore:
    """Write clips that show their label's motion ("own"), an "other" one or none ("still")."""
    writer = ClipStoreWriter(path, (16, 16), {"shown": shown})
    random = np.random.default_rng(seed)

    def videos():
        for split, count in splits.items():
            for number in range(count):
                label = CLASSES[number % 4]
                motion = CLASSES[(number + 1) % 4] if shown == "other" else label
                frames = moving_square(motion, random)
                if shown == "still":
                    frames = frames[:1].repeat(FRAMES, 0)
                name = f"{split}-{number:03d}"
                yield PreparedVideo(Video(name, label, split, name), [frames], {})

    writer.write_shard(0, videos())
    return writer.finish(1, CLASSES)


def all_windows(store: ClipStore) -> list[Window]:
    return first_windows(store, "test", FRAMES, 1)


def test_clips_that_show_their_class_are_told_apart_and_others_are_not(tmp_path):
    real = make_store(tmp_path / "real", "own", {"train": 160, "test": 40}, seed=0)
    found = {}
    for shown in ("other", "still"):
        samples = make_store(tmp_path / shown, shown, {"test": 40}, seed=1)
        before = torch.get_rng_state()
        found[shown] = class_accuracy(
            real, all_windows(real), samples, all_windows(samples), torch.device("cpu"), 0
        )
        assert torch.equal(torch.get_rng_state(), before)
    assert found["other"]["accuracy_real"] == found["still"]["accuracy_real"] >= 0.9
    assert found["other"]["accuracy_samples"] < 0.1
    assert 0.1 <= found["still"]["accuracy_samples"] <= 0.4  # chance is 0.25
    assert set(found["still"]["by_class_samples"]) == set(CLASSES)
    mean = np.mean(list(found["still"]["by_class_samples"].values()))
    assert found["still"]["accuracy_samples"] == pytest.approx(mean)
    gfvd = {"num_fake": 40, "num_real": 40}
    scores = {"gfvd": gfvd, "diversity": {"ratio": 1.0}, "classes": found["still"]}
    row = _of_samples(scores, "40 to 40")[-1]
    assert row.cells[0] == "class accuracy"
    assert "chance 0.250" in row.note


def test_where_nothing_is_to_be_told_apart_there_is_no_figure(tmp_path):
    real = make_store(tmp_path / "real", "own", {"train": 8, "test": 8}, seed=0)
    one = make_store(tmp_path / "one", "own", {"test": 1}, seed=1)
    windows, device = all_windows(real), torch.device("cpu")
    assert class_accuracy(real, windows, one, all_windows(one), device, 0) is None
    still = [window._replace(num_frames=1) for window in windows]
    assert class_accuracy(real, still, real, still, device, 0) is None
