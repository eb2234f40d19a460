"""Tests of the clips taken from each video, against lists written out clip by clip."""

from fractions import Fraction
from itertools import islice, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_vq.config import check_config
from video_vq.data.clip_config import ClipConfig
from video_vq.data.loader import ClipSequence, training_batches
from video_vq.data.order import EpochOrder
from video_vq.data.windows import (
    EpochClips,
    Window,
    first_windows,
    read_window,
    scoring_windows,
    usable_videos,
    windows_of_video,
)
from video_vq.errors import ConfigError, InputError
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video

LENGTHS = (7, 1, 13, 4, 21, 2, 9, 3, 30, 5)
SPLITS = ("train", "train", "val")


def frames_of(video: int) -> np.ndarray:
    """Return frames whose values are the number of the video and that of the frame."""
    frames = np.zeros((LENGTHS[video], 2, 2, 3), np.uint8)
    frames[..., 0] = video
    frames[..., 1] = np.arange(LENGTHS[video])[:, None, None]
    return frames


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ClipStore:
    writer = ClipStoreWriter(tmp_path_factory.mktemp("clips") / "store", (2, 2), {})
    for shard, members in enumerate((range(4), range(4, 10))):
        writer.write_shard(
            shard,
            [
                PreparedVideo(Video(f"v{n}", None, SPLITS[n % 3], f"g{n}"), [frames_of(n)], {})
                for n in members
            ],
        )
    return writer.finish(2, [])


def clip_configs() -> st.SearchStrategy[ClipConfig]:
    def build(num_frames, stride, windows, clips_per_video, hop, short_videos):
        return ClipConfig(
            num_frames=num_frames,
            stride=stride,
            windows=windows,
            clips_per_video=1 if windows == "all" else clips_per_video,
            hop=hop if windows == "all" else None,
            short_videos=short_videos,
        )

    return st.builds(
        build,
        st.integers(1, 8),
        st.integers(1, 5),
        st.sampled_from(["random", "uniform", "all"]),
        st.integers(1, 7),
        st.none() | st.integers(1, 9),
        st.sampled_from(["leave_out", "repeat_last", "loop"]),
    )


def written_out(config: ClipConfig, split: str, seed: int, epoch: int) -> list[tuple[int, int]]:
    """Return (video, start) of every clip of an epoch, in the order of the clips' numbers."""
    found: list[tuple[int, int]] = []
    members = [video for video in range(len(LENGTHS)) if SPLITS[video % 3] == split]
    usable = []
    for video in members:
        starts = [
            start
            for start in range(LENGTHS[video])
            if start + (config.num_frames - 1) * config.stride < LENGTHS[video]
        ]
        if not starts and config.short_videos != "leave_out":
            starts = [0]
        if starts:
            usable.append((video, starts))
    for video, starts in usable:
        if config.windows == "all":
            hop = config.num_frames * config.stride if config.hop is None else config.hop
            found += [(video, start) for start in starts if start % hop == 0]
        elif config.windows == "uniform" and min(config.clips_per_video, len(starts)) == 1:
            found.append((video, starts[(len(starts) - 1) // 2]))
        elif config.windows == "uniform":
            count = min(config.clips_per_video, len(starts))
            for number in range(count):
                exact = Fraction(number, count - 1) * (len(starts) - 1)
                found.append((video, starts[int(exact + Fraction(1, 2))]))
        else:
            found += [(video, -1)] * config.clips_per_video
    if config.windows == "random":
        places = np.random.default_rng([seed, epoch, 0xDA7A]).permutation(len(found)).tolist()
        starts_of = dict(usable)
        for item, (video, _) in enumerate(found):
            position = epoch * len(found) + places.index(item)
            draw = np.random.default_rng([seed, position, 0x317D])
            found[item] = (video, starts_of[video][int(draw.integers(len(starts_of[video])))])
    return found


@settings(max_examples=300, deadline=None)
@given(clip_configs(), st.sampled_from(["train", "val"]), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_holds_the_clips_that_a_list_of_them_holds(store, config, split, seed, epoch):
    expected = written_out(config, split, seed, epoch)
    if not expected:
        with pytest.raises(InputError, match="no video of split"):
            EpochClips(store, split, config, seed)
        return
    dataset = ClipSequence(store, split, config, seed)
    count = len(dataset.clips)
    assert count == len(expected)
    shown = [dataset.window(position) for position in range(epoch * count, (epoch + 1) * count)]
    assert sorted((window.video, window.start) for window in shown) == sorted(expected)
    if config.windows != "random":
        assert len(set(expected)) == count
        numbered = [(window.video, window.start) for window in dataset.clips.all()]
        assert numbered == expected


@settings(max_examples=200, deadline=None)
@given(clip_configs(), st.sampled_from(["train", "val"]))
def test_a_video_alone_gives_the_clips_that_an_epoch_takes_from_it(store, config, split):
    members = [video for video in range(len(LENGTHS)) if SPLITS[video % 3] == split]
    alone = [
        (window.video, window.start)
        for video in members
        for window in windows_of_video(config, video, f"v{video}", LENGTHS[video])
    ]
    epoch = written_out(config, split, 0, 0)
    if config.windows != "random":
        assert alone == epoch
        return
    assert len(set(alone)) == len(alone) <= len(epoch)
    assert {video for video, _ in alone} == {video for video, _ in epoch}
    for video, start in alone:
        assert 0 <= start <= max(0, LENGTHS[video] - config.span)


@settings(max_examples=300, deadline=None)
@given(clip_configs(), st.integers(0, 40))
def test_a_clip_shows_its_video_or_what_the_rule_makes_of_a_short_one(store, config, position):
    if config.short_videos == "leave_out" and config.span > max(LENGTHS):
        return
    clips = EpochClips(store, None, config, seed=1)
    window = clips(position % len(clips), position)
    whole = list(frames_of(window.video))
    if config.short_videos == "repeat_last":
        whole += [whole[-1]] * 100
    elif config.short_videos == "loop":
        whole *= 100
    expected = np.stack(whole[window.start :: config.stride][: config.num_frames])
    assert np.array_equal(read_window(store, window), expected)


@pytest.mark.parametrize("short_videos", ["leave_out", "repeat_last", "loop"])
def test_a_clip_inside_its_video_reads_its_own_frames_alone(store, monkeypatch, short_videos):
    asked = []
    read = ClipStore.read
    monkeypatch.setattr(
        ClipStore, "read", lambda self, *window: asked.append(window) or read(self, *window)
    )
    for start, num_frames, stride in ((0, 30, 1), (9, 11, 2), (29, 1, 7)):
        window = Window(8, start, num_frames, stride, short_videos)  # of 30 frames, to the last
        assert np.array_equal(read_window(store, window), frames_of(8)[start::stride][:num_frames])
        assert asked.pop() == (8, start, num_frames, stride)
    if short_videos != "leave_out":
        read_window(store, Window(8, 9, 12, 2, short_videos))
        assert asked == [(8,)]


def test_a_short_video_without_a_rule_is_never_read(store):
    with pytest.raises(ValueError, match="not inside video 'v1' of 1 frames"):
        read_window(store, Window(1, 0, 4, 1))


def test_every_start_of_a_video_is_equally_likely_and_each_epoch_draws_anew(store):
    config = ClipConfig(num_frames=24)  # video 8 alone is long enough: 7 starts
    dataset = ClipSequence(store, "val", config, seed=0)
    drawn = [dataset.window(position).start for position in range(7000)]
    counts = np.bincount(drawn, minlength=7)
    assert len(counts) == 7
    # chi-square with 6 degrees of freedom: 22.5 is exceeded once in a thousand seeds
    assert ((counts - 1000) ** 2 / 1000).sum() < 22.5
    assert len(set(drawn[:20])) > 1


def test_uniform_clips_cover_a_video_from_end_to_end(store):
    def starts(count: int) -> list[int]:
        config = ClipConfig(num_frames=10, windows="uniform", clips_per_video=count)
        clips = EpochClips(store, "val", config, seed=0).all()
        return [window.start for window in clips if window.video == 8]

    assert starts(1) == [10]
    assert starts(2) == [0, 20]
    assert starts(3) == [0, 10, 20]
    assert starts(5) == [0, 5, 10, 15, 20]
    assert starts(21) == starts(100) == list(range(21))


WORLDS = [(world, workers) for world, workers in product((1, 2, 3, 4), (0, 1, 2))]


@pytest.mark.parametrize(("world_size", "num_workers"), WORLDS)
@pytest.mark.parametrize(
    "config",
    [
        ClipConfig(num_frames=3, stride=2, clips_per_video=2, short_videos="loop"),
        ClipConfig(num_frames=4, windows="all", hop=2, short_videos="repeat_last"),
    ],
    ids=["random", "all"],
)
def test_ranks_and_workers_change_no_clip_of_any_step(store, config, world_size, num_workers):
    accumulation, batch_size, first, last = 2, 24, 3, 6
    items = written_out(config, "train", 5, 0)
    dataset = ClipSequence(store, "train", config, seed=5)
    expected = []
    for position in range(first * batch_size, last * batch_size):
        epoch, inside = divmod(position, len(items))
        item = np.random.default_rng([5, epoch, 0xDA7A]).permutation(len(items))[inside]
        video, start = written_out(config, "train", 5, epoch)[item]
        window = Window(video, start, config.num_frames, config.stride, config.short_videos)
        expected.append(read_window(store, window))
    found: list[list[np.ndarray]] = [[] for _ in range((last - first) * accumulation)]
    for rank in range(world_size):
        batches = training_batches(
            dataset,
            first_step=first,
            last_step=last,
            rank=rank,
            batch_size=batch_size,
            accumulation=accumulation,
            world_size=world_size,
            num_workers=num_workers,
        )
        for micro_batch, batch in enumerate(batches):
            assert batch.clips.dtype == torch.uint8
            found[micro_batch] += list(batch.clips.numpy())
    clips = [clip for micro_batch in found for clip in micro_batch]
    assert np.array_equal(np.stack(clips), np.stack(expected))


def test_to_begin_at_a_late_step_reads_nothing_that_came_before(store, monkeypatch):
    shuffled, windows = [], []
    shuffle, window = EpochOrder._shuffle, ClipSequence.window
    monkeypatch.setattr(
        EpochOrder, "_shuffle", lambda self, epoch: shuffled.append(epoch) or shuffle(self, epoch)
    )
    monkeypatch.setattr(
        ClipSequence, "window", lambda self, place: windows.append(place) or window(self, place)
    )
    config = ClipConfig(num_frames=2)
    dataset = ClipSequence(store, "train", config, seed=0)
    step, late = 10**12, {"rank": 0, "accumulation": 1, "world_size": 1, "num_workers": 0}
    batches = training_batches(dataset, first_step=step, last_step=step + 100, batch_size=2, **late)
    first = next(iter(batches))
    assert windows == [2 * step, 2 * step + 1]
    assert len(shuffled) <= 2
    again = training_batches(dataset, first_step=step - 2, last_step=step + 1, batch_size=2, **late)
    assert torch.equal(next(islice(again, 2, None)).clips, first.clips)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 8), st.integers(1, 4), st.none() | st.integers(1, 40), st.integers(0, 3),
    st.sampled_from(["leave_out", "repeat_last", "loop"]),
)  # fmt: skip
def test_clips_of_a_score_never_overlap_and_short_videos_give_one(
    store, num_frames, stride, count, seed, short_videos
):
    span = (num_frames - 1) * stride + 1
    found = scoring_windows(store, None, num_frames, stride, count, seed, short_videos)
    every = scoring_windows(store, None, num_frames, stride, None, seed, short_videos)
    assert found == every[:count]
    per_video = {
        video: sorted(window.start for window in every if window.video == video)
        for video in range(len(LENGTHS))
    }
    for video, starts in per_video.items():
        short = LENGTHS[video] < span
        assert len(starts) == (short_videos != "leave_out" if short else LENGTHS[video] // span)
        assert all(after - before >= span for before, after in pairwise(starts))
        assert not starts or starts[-1] + span <= max(LENGTHS[video], span)
    usable = sum(bool(starts) for starts in per_video.values())
    assert len({window.video for window in every[:usable]}) == usable
    firsts = first_windows(store, None, num_frames, stride, short_videos)
    assert [window.video for window in firsts] == usable_videos(
        store, None, num_frames, stride, short_videos
    )


def test_the_clips_of_a_score_begin_anywhere_that_leaves_room_for_all(store):
    # Video 8 has 30 frames: three clips of 9 and 3 frames to spare, before, after or both.
    firsts = [
        min(w.start for w in scoring_windows(store, "val", 9, 1, None, seed) if w.video == 8)
        for seed in range(400)
    ]
    counts = np.bincount(firsts)
    assert len(counts) == 4
    # chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand
    assert ((counts - 100) ** 2 / 100).sum() < 16.3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"hop": 2}, r"hop \(2\) is for windows: all, found windows: random"),
        ({"windows": "all", "clips_per_video": 2}, r"clips_per_video \(2\) is for windows: random"),
        ({"windows": "every"}, "windows: Input should be 'random', 'uniform' or 'all'"),
        ({"short_videos": "pad"}, "short_videos: Input should be 'leave_out', 'repeat_last'"),
        ({"hop": 0, "windows": "all"}, "hop: .*greater than or equal to 1"),
        ({"window": "all"}, "window: no such setting; did you mean 'windows'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        check_config(ClipConfig, settings, "data")
