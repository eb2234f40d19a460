"""Tests of the code in docs/token_format.md, run unchanged."""

import numpy as np
import pytest
from pages import code_of

from video_vq.data.hugging_face import token_dataset
from video_vq.errors import InputError
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter
from video_vq.stores.videos import Video


def make_tokens(path, classes=("left", "right"), num_action_dims: int = 3) -> TokenStore:
    header = TokenHeader(
        "0" * 64, 600, (2, 3, 4), 4, (16, 16), 10.0, classes, None, {}, num_action_dims
    )
    writer, random = TokenStoreWriter(path, header), np.random.default_rng(0)
    for shard, count in enumerate((5, 3)):
        rows = np.stack([random.integers(4, size=count), np.arange(count), np.full(count, 2)], 1)
        actions = random.normal(size=(count, 2, num_action_dims)) if num_action_dims else None
        writer.write_shard(shard, random.integers(600, size=(count, 2, 3, 4)), rows, actions)
    videos = [
        Video(f"v{n}", classes[n % 2] if classes else None, ("train", "test")[n // 2], f"g{n}")
        for n in range(4)
    ]
    return writer.finish(2, videos)


def test_ten_lines_of_numpy_read_what_the_store_holds(tmp_path, monkeypatch):
    store = make_tokens(tmp_path / "own" / "tokens")
    monkeypatch.chdir(tmp_path)
    lines = code_of("token_format.md", "numpy")
    assert len([line for line in lines.splitlines() if line and "import" not in line]) <= 10
    found: dict = {}
    exec(lines, found)  # our own page
    rows = store.rows("train").tolist()
    assert np.array_equal(found["tokens"], store.read_rows(rows).reshape(len(rows), -1))
    assert found["labels"].tolist() == [store.class_of(row) for row in rows]


def test_a_hugging_face_dataset_holds_what_the_store_holds(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    store = make_tokens(tmp_path / "own" / "tokens")
    dataset = token_dataset(store.path, "test", cache_dir=str(tmp_path / "cache"))
    rows = store.rows("test").tolist()
    assert len(dataset) == len(rows)
    assert dataset.features["label"].names == ["left", "right"]
    for row, values in zip(rows, dataset, strict=True):
        video, first_frame, stride = store.window_of(row)
        assert np.array_equal(values["tokens"], store.read(row))
        assert np.array_equal(values["actions"], np.asarray(store.read_actions(row)))
        assert (values["video"], values["first_frame"]) == (f"v{video}", first_frame)
        assert (values["label"], values["stride"]) == (store.class_of(row), stride)
    plain = make_tokens(tmp_path / "plain", (), 0)
    columns = token_dataset(plain.path, cache_dir=str(tmp_path / "cache")).column_names
    assert set(columns) == {"tokens", "video", "first_frame", "stride"}
    with pytest.raises(InputError, match="no tokens of split 'val'"):
        token_dataset(plain.path, "val")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(code_of("token_format.md", "datasets"), found)
    assert np.shape(found["sequences"][0]["input_ids"]) == (24,)


def test_without_the_package_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install .video-vq\[datasets\]"):
        token_dataset(make_tokens(tmp_path / "tokens").path)
