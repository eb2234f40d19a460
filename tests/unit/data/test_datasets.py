"""Tests of clips and tokens in PyTorch DataLoaders, with any number of workers."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from video_vq.data.datasets import ClipDataset, TokenDataset
from video_vq.data.windows import read_window
from video_vq.errors import InputError
from video_vq.stores.clips import ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.tokens import TokenHeader, TokenStoreWriter

LENGTHS = (6, 3, 9, 5)  # the last is of the val split


def frames_of(video: int) -> np.ndarray:
    """Return frames whose values are the number of the video and that of the frame."""
    frames = np.zeros((LENGTHS[video], 2, 2, 3), np.uint8)
    frames[..., 0] = video
    frames[..., 1] = np.arange(LENGTHS[video])[:, None, None]
    return frames


def actions_of(video: int) -> np.ndarray:
    return np.arange(LENGTHS[video], dtype=np.float32)[:, None] + 100 * video


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    writer = ClipStoreWriter(path, (2, 2), {}, {"actions": (1,)})
    videos = [
        PreparedVideo(
            Video(f"v{n}", ("left", "right", None)[n % 3], "val" if n == 3 else "train", f"g{n}"),
            [frames_of(n)],
            {"actions": actions_of(n)},
        )
        for n in range(4)
    ]
    writer.write_shard(0, videos)
    writer.finish(1, ["left", "right"])
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tokens"
    header = TokenHeader("0" * 64, 600, (2, 3, 4), 4, (16, 16), 10.0, ("a", "b"), None, {}, 3)
    writer, random = TokenStoreWriter(path, header), np.random.default_rng(0)
    for shard, count in enumerate((5, 3)):
        rows = np.stack([np.arange(count) % 2, np.arange(count), np.full(count, 2)], 1)
        actions = random.normal(size=(count, 2, 3))
        writer.write_shard(shard, random.integers(600, size=(count, 2, 3, 4)), rows, actions)
    writer.finish(2, [Video("v0", "b", "train", "g0"), Video("v1", None, "test", "g1")])
    return path


def shown(items: Any) -> list[tuple[int, int]]:
    return [(int(item.video), int(item.first_frame)) for item in items]


def test_items_are_the_clips_of_a_split_with_what_is_known_of_them(clips):
    dataset = ClipDataset(clips, num_frames=3)
    assert shown(dataset) == [(0, 0), (0, 3), (1, 0), (2, 0), (2, 3), (2, 6)]
    assert len(dataset) == 6
    for item in dataset:
        frames = slice(item.first_frame, item.first_frame + 3)
        assert torch.equal(item.clip, torch.from_numpy(frames_of(item.video)[frames]))
        assert np.array_equal(item.arrays["actions"], actions_of(item.video)[frames])
        assert item.label == (0, 1, -1)[item.video]
    assert shown([dataset[-1]]) == [(2, 6)]
    for outside in (6, -7):
        with pytest.raises(IndexError, match="of a dataset of 6"):
            dataset[outside]
    assert shown(ClipDataset(dataset.store, "val", num_frames=2, hop=3)) == [(3, 0), (3, 3)]
    assert {item.video for item in ClipDataset(clips, None, num_frames=3)} == {0, 1, 2, 3}


def test_a_short_video_is_filled_up_with_its_actions(clips):
    dataset = ClipDataset(clips, num_frames=8, short_videos="loop")
    assert shown(dataset) == [(0, 0), (1, 0), (2, 0)]
    assert dataset[1].arrays["actions"].flatten().tolist() == [
        *(100, 101, 102, 100, 101, 102, 100, 101)
    ]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("ours", [True, False])
def test_a_loader_batches_them_by_itself_and_by_our_collate(clips, workers, ours):
    dataset = ClipDataset(clips, num_frames=3)
    collate = dataset.collate if ours else None
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate))
    assert [tuple(batch.clip.shape) for batch in batches] == [(4, 3, 2, 2, 3), (2, 3, 2, 2, 3)]
    assert batches[0].clip.dtype == torch.uint8
    assert torch.equal(torch.cat([batch.clip for batch in batches])[3], dataset[3].clip)
    assert torch.cat([batch.label for batch in batches]).tolist() == [0, 0, 1, -1, -1, -1]
    assert batches[1].arrays["actions"].shape == (2, 3, 1)


def test_random_windows_follow_seed_and_epoch_also_in_workers_that_live_on(clips):
    def dataset(seed: int = 0) -> ClipDataset:
        settings: Any = {"windows": "random", "clips_per_video": 8, "seed": seed}
        return ClipDataset(clips, num_frames=2, **settings)

    plain, read = dataset(), []
    loader = DataLoader(dataset(), batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 2):
        plain.set_epoch(epoch)
        loader.dataset.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        read.append(shown(loader))
        assert read[-1] == shown(plain)
        assert [video for video, _ in read[-1]] == [0] * 8 + [1] * 8 + [2] * 8
    assert read[0] != read[1] != read[2] != read[0]
    assert read[0] != shown(dataset(1))
    plain.set_epoch(0)
    assert shown(plain) == read[0]


def test_workers_that_are_spawned_get_the_place_of_the_data_and_not_the_data(clips, tokens):
    datasets: list[Any] = [ClipDataset(clips, num_frames=3), TokenDataset(tokens)]
    for dataset in datasets:
        _ = dataset[0], dataset[1]  # the files are mapped
        sent = pickle.dumps(dataset)
        again = pickle.loads(sent)
        assert repr(list(again)) == repr(list(dataset))
    large = TokenDataset(tokens)
    large.store._tokens = [np.zeros((10_000, 2, 3, 4), np.uint16)]
    assert len(pickle.dumps(large)) < 10_000


def test_a_transform_sees_each_clip_and_what_it_returns_is_batched(clips, tokens):
    dataset = ClipDataset(clips, num_frames=3, transform=lambda clip: clip.float().mean((1, 2, 3)))
    assert next(iter(DataLoader(dataset, batch_size=6))).clip.shape == (6, 3)
    flat = TokenDataset(tokens, None, transform=torch.flatten)
    assert next(iter(DataLoader(flat, batch_size=8))).tokens.shape == (8, 24)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda clip: clip[: 1 + clip[0, 0, 0, 0]], r"Tensor of \(1, .*, Tensor of \(2, "),
        (lambda clip: Path("clip"), "the transform returned PosixPath"),
    ],
)
def test_items_that_make_no_batch_are_named(clips, transform, message):
    dataset = ClipDataset(clips, num_frames=3, transform=transform)
    with pytest.raises(InputError, match=message):
        list(DataLoader(dataset, batch_size=6, collate_fn=dataset.collate))


def test_token_items_are_the_rows_of_a_split(tokens):
    dataset = TokenDataset(tokens)
    store = dataset.store
    rows = store.rows("train").tolist()
    assert (dataset.codebook_size, dataset.grid_thw, dataset.classes) == (
        600,
        (2, 3, 4),
        ("a", "b"),
    )
    assert len(dataset) == len(rows) == 5
    batch = next(iter(DataLoader(dataset, batch_size=5, collate_fn=dataset.collate)))
    assert batch.tokens.dtype == torch.int64
    assert np.array_equal(batch.tokens, store.read_rows(rows))
    assert batch.label.tolist() == [1] * 5
    for actions, row in zip(batch.actions, rows, strict=True):
        assert np.array_equal(actions, np.asarray(store.read_actions(row)))
    assert {item.label for item in TokenDataset(tokens, "test")} == {-1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: ClipDataset(path / "nothing"), "no such folder; make a clip store with"),
        (lambda path: ClipDataset(path, "test"), "no video in split 'test'; it has train, val"),
        (lambda path: ClipDataset(path, num_frames=99), "the longest has 9"),
        (lambda path: ClipDataset(path, num_frames=0), "ClipDataset: 1 problem"),
        (lambda path: ClipDataset(path, windows="random", hop=2), "hop .* is for windows: all"),
        (lambda path: TokenDataset(path), "is a 'video-vq clips' store, expected"),
    ],
)
def test_what_is_wrong_is_said(clips, call, message):
    with pytest.raises(InputError, match=message):
        call(clips)


def test_a_clip_of_the_dataset_is_that_of_its_window(clips):
    dataset = ClipDataset(clips, num_frames=2, stride=2, windows="uniform", clips_per_video=3)
    for index in range(len(dataset)):
        found = read_window(dataset.store, dataset.window(index))
        assert np.array_equal(dataset[index].clip, found)
