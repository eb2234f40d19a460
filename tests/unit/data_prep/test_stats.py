"""Tests of `data-prep stats` against plain computations over all values."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from data_prep.cli import main
from data_prep.stats import statistics_of, table
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Skipped, Video

LENGTHS = (1, 300, 7, 12)  # one is longer than what is read at once
LABELS = ("run", "run", "walk", None)
SPLITS = ("train", "train", "test", "train")
GROUPS = ("a", "a", "b", "b")


def frames_of(number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    frames = random.integers(3 * number, 200, (LENGTHS[number], 4, 6, 3), dtype=np.uint8)
    frames[2:5] = frames[1:2]  # three that repeat the one before, where there are so many
    return frames


def actions_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(number, 1, (LENGTHS[number], 2)).astype(np.float32)


@pytest.fixture
def store(tmp_path) -> ClipStore:
    writer = ClipStoreWriter(tmp_path / "store", (4, 6), {}, {"actions": (2,)})
    videos = [
        PreparedVideo(
            Video(f"v{n}", LABELS[n], SPLITS[n], GROUPS[n], fps=(25.0, None)[n % 2]),
            [frames_of(n)],
            {"actions": actions_of(n)},
        )
        for n in range(4)
    ]
    writer.write_shard(0, videos[:3], [Skipped("x", "x.avi", "is no video")])
    writer.write_shard(1, videos[3:])
    return writer.finish(2, ["run", "walk"])


def test_frames_that_a_fixed_rate_repeats_are_counted_or_called_unknown(tmp_path):
    def made(name: str, fps: float | None, repeated: list[int | None]) -> ClipStore:
        writer = ClipStoreWriter(tmp_path / name, (4, 6), {"fps": fps})
        origins = [{} if count is None else {"repeated": count} for count in repeated]
        writer.write_shard(
            0,
            [
                PreparedVideo(
                    Video(f"v{n}", None, SPLITS[n], GROUPS[n], fps=fps, origin=origins[n]),
                    [frames_of(n)],
                    {},
                )
                for n in range(4)
            ],
        )
        return writer.finish(1, [])

    counted = made("counted", 25.0, [0, 100, 0, 4])
    found = statistics_of(counted)
    assert {name: split.upsampled for name, split in found.splits.items()} == {
        "train": 104,
        "test": 0,
    }
    # 104 of 1 + 300 + 12.
    assert "repeats   33.2% of train: frames that a fixed rate repeats" in table(found)
    # A store from before the count was written down: the same data, but nobody can say.
    older = made("older", 25.0, [0, None, None, 4])
    assert older.content_hash == counted.content_hash
    assert "repeats   unknown of train, unknown of test: " in table(statistics_of(older))
    assert "repeats " not in table(statistics_of(made("no repeats", 25.0, [0, 0, 0, 0])))
    own_rate = statistics_of(made("own rate", None, [None] * 4))
    assert own_rate.splits["train"].upsampled == 0
    assert "repeats " not in table(own_rate)


def test_pixels_are_those_of_a_plain_count_over_all_frames(store):
    found = statistics_of(store)
    for split in ("train", "test"):
        members = [n for n in range(4) if SPLITS[n] == split]
        values = np.concatenate([frames_of(n) for n in members]).astype(np.float64).reshape(-1, 3)
        pixels = found.pixels[split]
        assert np.allclose(pixels.mean, values.mean(0), rtol=1e-13)
        assert np.allclose(pixels.variance, values.var(0), rtol=1e-12)
        assert pixels.smallest == tuple(values.min(0))
        assert pixels.largest == tuple(values.max(0))
        assert pixels.at_limits == pytest.approx(((values == 0) | (values == 255)).mean())
        repeats = [np.array_equal(a, b) for n in members for a, b in pairs(frames_of(n))]
        assert pixels.repeated_frames == np.mean(repeats)


def pairs(frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(frames[1:], frames[:-1], strict=True))


def test_variance_is_exact_where_a_sum_in_float64_would_lose_it(tmp_path):
    writer = ClipStoreWriter(tmp_path / "store", (64, 64), {})
    frames = np.full((256, 64, 64, 3), 255, np.uint8)
    frames[0, 0, 0] = 254
    writer.write_shard(0, [PreparedVideo(Video("v", None, "train", "v"), [frames], {})])
    (pixels,) = statistics_of(writer.finish(1, [])).pixels.values()
    number = 256 * 64 * 64
    assert pixels.variance == (1 / number - 1 / number**2,) * 3


def test_videos_classes_and_groups_are_counted(store):
    found = statistics_of(store)
    assert (found.skipped, found.frame_size_hw) == (1, (4, 6))
    assert found.pixel_bytes == sum(LENGTHS) * 4 * 6 * 3
    assert found.fps == {"25": 2, "unknown": 2}
    train = found.splits["train"]
    assert (train.videos, train.frames, train.groups, train.largest_group) == (3, 313, 2, 2)
    assert train.lengths.smallest == 1
    assert train.lengths.median == 12
    assert train.lengths.largest == 300
    assert found.classes == {
        "run": {"train": 2, "test": 0},
        "walk": {"train": 0, "test": 1},
        "": {"train": 1, "test": 0},
    }
    assert found.balance == pytest.approx((2 / 3 * math.log(3 / 2) + math.log(3) / 3) / math.log(2))
    assert found.groups_in_two_splits == ("b",)
    assert "warning: group 'b' is in more than one split" in table(found)


def test_arrays_have_the_range_of_their_finite_values(tmp_path):
    rows = np.array([[1, np.nan], [3, np.nan], [np.inf, np.nan], [5, np.nan]], np.float32)
    writer = ClipStoreWriter(tmp_path / "store", (2, 2), {}, {"poses": (2,)})
    frames = np.zeros((4, 2, 2, 3), np.uint8)
    video = PreparedVideo(Video("v", None, "train", "v"), [frames], {"poses": rows})
    writer.write_shard(0, [video])
    found = statistics_of(writer.finish(1, []))
    poses = found.arrays["poses"]
    assert (poses.smallest, poses.largest, poses.mean) == ((1.0, None), (5.0, None), (3.0, None))
    assert poses.deviation == (pytest.approx(np.std([1, 3, 5])), None)
    assert poses.not_finite == 5
    assert "5 values are not finite" in table(found)
    json.dumps(found.to_json(), allow_nan=False)


def test_the_command_prints_a_table_json_and_a_picture(store, tmp_path, capsys):
    from PIL import Image

    sheet = tmp_path / "sheet.png"
    assert main(["stats", str(store.path), "--sheet", str(sheet)]) == 0
    shown = capsys.readouterr().out
    assert "balance 0.918" in shown
    assert f"contact sheet: {sheet}" in shown
    with Image.open(sheet) as image:
        assert image.width > 3 * 6
    assert main(["stats", str(store.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["frames"] == 313


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["nowhere"], "nowhere: no such folder; make a clip store with"),
        (["STORE", "--sheet", "sheet.jpg"], "the contact sheet's name must end in .png"),
        (["STORE", "--sheet", "no/such/sheet.png"], "there is no folder no/such"),
    ],
)
def test_what_is_wrong_is_said(store, capsys, options, told):
    options = [str(store.path) if word == "STORE" else word for word in options]
    assert main(["stats", *options]) == 1
    assert told in capsys.readouterr().err


def test_a_damaged_shard_is_named(store, capsys):
    shard = Path(store.path) / "frames-00000.npy"
    shard.write_bytes(shard.read_bytes()[:50])
    assert main(["stats", str(store.path)]) == 1
    assert f"{shard}: not a readable .npy array" in capsys.readouterr().err


def test_a_class_named_to_harm_a_terminal_is_escaped(tmp_path, capsys):
    writer = ClipStoreWriter(tmp_path / "store", (2, 2), {})
    video = Video("v", "\x1b[2J", "train", "v")
    writer.write_shard(0, [PreparedVideo(video, [np.zeros((2, 2, 2, 3), np.uint8)], {})])
    writer.finish(1, ["\x1b[2J"])
    for options in ((), ("--json",)):
        assert main(["stats", str(tmp_path / "store"), *options]) == 0
        assert "\x1b" not in capsys.readouterr().out
