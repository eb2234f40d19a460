"""Tests that a token store returns what was written and rejects what does not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from video_vq.errors import InputError
from video_vq.stores.files import canonical_json, damage, write_array
from video_vq.stores.shards import write_sealed
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter, usual_rate
from video_vq.stores.videos import Skipped, Video

GRID = (2, 3, 1)
HEADER = TokenHeader(
    tokenizer_hash="a" * 64,
    codebook_size=10,
    grid_thw=GRID,
    num_frames=4,
    frame_size_hw=(12, 4),
    fps=10.0,
    classes=("left", "right"),
    data_hash=None,
    made_by={"hop": 2},
    num_action_dims=2,
)
VIDEOS = (
    Video("v0", "right", "train", "g0", fps=10.0),
    Video("v1", None, "val", "g1", fps=20.0),
    Video("v2", "left", "val", "g2", fps=20.0),
)
COUNTS = (2, 0, 3)
ROWS = np.array([[0, 0, 1], [0, 4, 1], [2, 0, 2], [1, 3, 1], [2, 2, 2]])


def grids(number: int, size: int = 10) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(0, size, (number, *GRID))
    if number:
        tokens[0, 0, 0, 0], tokens[-1, -1, -1, -1] = 0, size - 1
    return tokens


def actions_of(number: int) -> np.ndarray:
    return np.arange(number * 4, dtype=np.float64).reshape(number, 2, 2) / 7


def begin(path: Path, header: TokenHeader = HEADER, decoded: bool = True) -> TokenStoreWriter:
    """Write three shards, of which the middle one is empty; return the writer."""
    writer = TokenStoreWriter(path, header)
    tokens, actions = grids(5, header.codebook_size), actions_of(5)
    first = 0
    for shard, count in enumerate(COUNTS):
        some = slice(first, first + count)
        writer.write_shard(
            shard,
            tokens[some],
            ROWS[some],
            actions[some] if header.num_action_dims else None,
            [Skipped(f"s{shard}", f"s{shard}.avi", "is no video")] if shard else [],
            {shard: None if shard == 1 else 12.5} if decoded else {},
            [{"id": f"v{shard}", "note": "odd"}] if shard == 2 else [],
        )
        first += count
    return writer


def make(path: Path, header: TokenHeader = HEADER) -> TokenStore:
    return begin(path, header).finish(len(COUNTS), VIDEOS)


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the manifest and seal it again, as only another program would."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    edit(manifest)
    write_sealed(path / "manifest.json", manifest)


def test_grids_rows_and_actions_come_back(tmp_path):
    store = make(tmp_path / "tokens")
    assert store.header == HEADER
    assert len(store) == 5
    assert [count for count, _ in store.shards] == list(COUNTS)
    for row in range(5):
        assert store.read(row).dtype == np.uint16
        assert np.array_equal(store.read(row), grids(5)[row])
        actions = store.read_actions(row)
        assert actions is not None
        assert actions.dtype == np.float32
        assert np.array_equal(actions, actions_of(5)[row].astype(np.float32))
        assert store.window_of(row) == tuple(ROWS[row])
        assert store.video_of(row).id == f"v{ROWS[row, 0]}"
    assert [store.class_of(row) for row in range(5)] == [1, 1, 0, -1, 0]
    some = store.read_rows([4, 0, 2])
    assert some.dtype == np.int64
    assert np.array_equal(some, grids(5)[[4, 0, 2]])
    assert store.rows("train").tolist() == [0, 1]
    assert store.rows("val").tolist() == [2, 3, 4]
    assert store.rows(None).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="no tokens of split 'test'; it has train, val"):
        store.rows("test")


def test_a_store_without_actions_says_nothing_of_them(tmp_path):
    store = make(tmp_path / "tokens", replace(HEADER, num_action_dims=0))
    assert store.read_actions(0) is None
    assert store.header.num_action_dims == 0
    assert "action" not in (tmp_path / "tokens/manifest.json").read_text()
    assert sorted(path.name for path in (tmp_path / "tokens").glob("*.npy")) == [
        f"{name}-{shard:05d}.npy" for name in ("rows", "tokens") for shard in range(3)
    ]


def test_what_was_left_out_is_kept_until_the_end(tmp_path):
    writer = begin(tmp_path / "tokens")
    assert [writer.is_committed(shard) for shard in range(4)] == [True, True, True, False]
    assert not writer.is_complete
    assert writer.num_grids(4) == 5
    assert writer.skipped(0) == []
    assert writer.skipped(2) == [{"id": "s2", "path": "s2.avi", "reason": "is no video"}]
    store = writer.finish(3, VIDEOS)
    assert [video.fps for video in store.videos[:3]] == [12.5, None, 12.5]
    assert writer.is_complete
    assert store.num_skipped == 2
    assert store.notes == ({"id": "v2", "note": "odd"},)
    lines = (tmp_path / "tokens/skipped.jsonl").read_bytes()
    entries = [{"id": f"s{n}", "path": f"s{n}.avi", "reason": "is no video"} for n in (1, 2)]
    assert lines == b"".join(canonical_json(entry) + b"\n" for entry in entries)
    before = (tmp_path / "tokens/manifest.json").read_bytes()
    assert writer.finish(3, ()).content_hash == store.content_hash
    assert (tmp_path / "tokens/manifest.json").read_bytes() == before


def test_only_the_owner_clears_what_another_rank_is_writing(tmp_path):
    begin(tmp_path / "tokens")
    partial = tmp_path / "tokens/tokens-00003.npy.partial"
    partial.write_bytes(b"half")
    TokenStoreWriter(tmp_path / "tokens", HEADER, owner=False)
    assert partial.exists()
    TokenStoreWriter(tmp_path / "tokens", HEADER)
    assert not partial.exists()


def test_every_file_is_vouched_for(tmp_path):
    path = tmp_path / "tokens"
    store = make(path)
    files = store.files()
    there = {entry.name for entry in path.iterdir()} - {"manifest.json"}
    assert set(files) == there
    assert len(files) == 3 * 3 + 1
    assert all(damage(path / name, sha256) is None for name, sha256 in files.items())
    change(path, lambda manifest: manifest.pop("skipped_sha256"))
    assert set(TokenStore(path).files()) == there - {"skipped.jsonl"}


def test_the_hash_of_a_store_names_its_tokens_videos_and_tokenizer(tmp_path):
    hashes = [make(tmp_path / "a").content_hash, make(tmp_path / "b").content_hash]
    assert hashes[0] == hashes[1]
    hashes.append(make(tmp_path / "c", replace(HEADER, tokenizer_hash="b" * 64)).content_hash)
    hashes.append(begin(tmp_path / "d").finish(3, (*VIDEOS[:2], VIDEOS[0])).content_hash)
    writer = TokenStoreWriter(tmp_path / "e", HEADER)
    writer.write_shard(0, grids(5)[::-1], ROWS, actions_of(5))
    hashes.append(writer.finish(1, VIDEOS).content_hash)
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("size", "dtype"), [(2, np.uint16), (65_536, np.uint16), (65_537, np.uint32)]
)
def test_tokens_take_two_bytes_as_long_as_they_fit(tmp_path, size, dtype):
    store = make(tmp_path / "tokens", replace(HEADER, codebook_size=size))
    assert store.read(0).dtype == dtype
    assert int(store.read_rows(range(5)).max()) == size - 1


WRONG = {
    "grids of another shape": (grids(2)[:, :1], ROWS[:2], actions_of(2), "do not fit"),
    "a row too many": (grids(2), ROWS[:3], actions_of(2), "do not fit"),
    "rows of two numbers": (grids(2), ROWS[:2, :2], actions_of(2), "do not fit"),
    "a token below 0": (grids(2) - 1, ROWS[:2], actions_of(2), r"outside 0\.\.9"),
    "a token too high": (grids(2, 11), ROWS[:2], actions_of(2), r"outside 0\.\.9"),
    "no actions": (grids(2), ROWS[:2], None, r"shape \(2, 2, 2\)"),
    "actions of one grid": (grids(2), ROWS[:2], actions_of(1), r"shape \(2, 2, 2\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_the_header_is_not_written(tmp_path, what):
    tokens, rows, actions, message = WRONG[what]
    writer = TokenStoreWriter(tmp_path / "tokens", HEADER)
    with pytest.raises(ValueError, match=message):
        writer.write_shard(0, tokens, rows, actions)
    assert not writer.is_committed(0)
    assert not list((tmp_path / "tokens").glob("*.npy*"))


def test_actions_that_the_header_does_not_announce_are_not_written(tmp_path):
    writer = TokenStoreWriter(tmp_path / "tokens", replace(HEADER, num_action_dims=0))
    with pytest.raises(ValueError, match="shape None of the header"):
        writer.write_shard(0, grids(2), ROWS[:2], actions_of(2))


def rewrite(name: str, array: np.ndarray) -> Callable[[Path], Any]:
    return lambda path: write_array(path / name, array)


def edit(function: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return lambda path: change(path, function)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit(lambda m: m.pop("plan")), "the manifest is damaged .KeyError: 'plan'.*encode again"),
        (edit(lambda m: m["plan"].update(more=1)), "the manifest is damaged .TypeError"),
        (edit(lambda m: m["plan"].update(classes=["up", "right"])), "unknown class 'left'"),
        (edit(lambda m: m["plan"].update(grid_thw=None)), "the manifest is damaged .TypeError"),
        (edit(lambda m: m["shards"][0].update(count=1)), "shards and manifest disagree on lengths"),
        (edit(lambda m: m["shards"][0].update(sha256="x")), "the manifest is damaged .ValueError"),
        (rewrite("rows-00000.npy", ROWS[:2] - [-3, 0, 0]), "rows point to missing videos"),
        (edit(lambda m: m["videos"].pop()), "rows point to missing videos"),
        (rewrite("rows-00000.npy", ROWS[:1]), "shards and manifest disagree on lengths"),
        (rewrite("rows-00000.npy", ROWS[:2] - [1, 0, 0]), "rows point to missing videos"),
        (rewrite("tokens-00000.npy", grids(1).astype(np.uint16)), "not every grid has actions"),
        (rewrite("actions-00002.npy", actions_of(2).astype(np.float32)), "not every grid has act"),
        (rewrite("tokens-00000.npy", grids(2)), r"tokens-00000\.npy: expected rows of .* uint16"),
        (lambda path: (path / "rows-00001.npy").unlink(), r"rows-00001\.npy: no such file"),
    ],
)
def test_a_store_that_no_writer_wrote_is_refused(tmp_path, spoil, message):
    make(tmp_path / "tokens")
    spoil(tmp_path / "tokens")
    with pytest.raises(InputError, match=message):
        TokenStore(tmp_path / "tokens")


def test_a_token_or_an_action_that_cannot_be_is_refused_when_it_is_read(tmp_path):
    store = make(tmp_path / "tokens")
    tokens, actions = grids(3).astype(np.uint16), actions_of(3).astype(np.float32)
    tokens[1, 0, 0, 0] = 10
    actions[2, 1, 0] = np.inf
    write_array(store.path / "tokens-00002.npy", tokens)
    write_array(store.path / "actions-00002.npy", actions)
    store = TokenStore(store.path)
    with pytest.raises(InputError, match="row 3 holds token 10, the codebook has 10; encode again"):
        store.read(3)
    assert np.array_equal(store.read(4), tokens[2])
    with pytest.raises(InputError, match="an action of row 4 is not finite"):
        store.read_actions(4)
    assert store.read_actions(3) is not None


def test_a_rate_that_only_decoding_shows_is_that_of_most_training_videos(tmp_path):
    header = replace(HEADER, fps=None)
    assert make(tmp_path / "decoded", header).header.fps == 12.5
    assert begin(tmp_path / "a", header, False).finish(3, VIDEOS).header.fps == 10.0
    no_train = tuple(replace(video, split="val") for video in VIDEOS)
    assert begin(tmp_path / "b", header, False).finish(3, no_train).header.fps == 20.0
    assert usual_rate(VIDEOS, 4) == 2.5
    assert usual_rate([replace(video, fps=None) for video in VIDEOS], 1) is None
    writer = TokenStoreWriter(tmp_path / "c", header)
    writer.write_shard(0, grids(2), ROWS[:2] * [1, 1, 5], actions_of(2))
    assert writer.finish(1, VIDEOS).header.fps == 2.0
    assert len(TokenStoreWriter(tmp_path / "d", header).finish(0, VIDEOS)) == 0


def test_rows_that_end_a_shard_and_begin_the_next_are_told_apart(tmp_path):
    writer = TokenStoreWriter(tmp_path / "tokens", HEADER)
    for shard in range(4):
        tokens = np.full((2, *GRID), 2 * shard)
        tokens[1] += 1
        writer.write_shard(shard, tokens, ROWS[:2], actions_of(2) + shard)
    store = writer.finish(4, VIDEOS)
    assert store.read_rows(range(8))[:, 0, 0, 0].tolist() == list(range(8))
    shifts = [np.asarray(store.read_actions(row)) - actions_of(2)[row % 2] for row in range(8)]
    assert [round(float(shift.mean())) for shift in shifts] == [0, 0, 1, 1, 2, 2, 3, 3]
