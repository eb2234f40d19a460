"""Exports a token store as a Hugging Face Dataset; requires `video-vq[datasets]`."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from video_vq.errors import InputError
from video_vq.stores.tokens import TokenStore


def token_dataset(path: str | Path, split: str | None = None, cache_dir: str | None = None) -> Any:
    """Return a token store as a `datasets.Dataset`, one row per clip.

    The columns are `tokens` (t h w, or t h w level if a position has several codes), `video`,
    `first_frame` and `stride`; also `label` (a ClassLabel, -1 for no class) if the store has
    classes, and `actions` (t a) if the store has actions.

    Args:
        path: path of the token store.
        split: train, val or test; None for all splits.
        cache_dir: folder in which `datasets` caches a copy of the store; None for the default
            cache. A store whose contents have changed is read again.

    Raises:
        InputError: `datasets` is not installed, the store cannot be used, or the split has no
            tokens.
    """
    store = TokenStore(path)
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise InputError(
            'the package datasets is not installed; pip install "video-vq[datasets]", or read the '
            "arrays with numpy (docs/token_format.md)"
        ) from None
    header = store.header
    columns: dict[str, Any] = {
        "tokens": _array(datasets, header.token_shape)(header.token_shape, header.dtype.name),
        "video": datasets.Value("string"),
        "first_frame": datasets.Value("int64"),
        "stride": datasets.Value("int64"),
    }
    if header.classes:
        columns["label"] = datasets.ClassLabel(names=list(header.classes))
    if header.num_action_dims:
        columns["actions"] = datasets.Array2D(header.actions_shape, "float32")
    store.rows(split)  # an unknown split is refused before anything is written
    made = datasets.Dataset.from_generator(
        _rows,
        features=datasets.Features(columns),
        cache_dir=cache_dir,
        gen_kwargs={"path": str(path), "split": split, "content_hash": store.content_hash},
    )
    return made.with_format("numpy")


def _array(datasets: Any, shape: tuple[int, ...]) -> Any:
    return getattr(datasets, f"Array{len(shape)}D")


def _rows(path: str, split: str | None, content_hash: str) -> Iterator[dict[str, Any]]:
    store = TokenStore(path)
    assert store.content_hash == content_hash
    for row in store.rows(split).tolist():
        _, first_frame, stride = store.window_of(row)
        values: dict[str, Any] = {
            "tokens": store.read(row),
            "video": store.video_of(row).id,
            "first_frame": first_frame,
            "stride": stride,
        }
        if store.header.classes:
            values["label"] = store.class_of(row)
        if (actions := store.read_actions(row)) is not None:
            values["actions"] = actions
        yield values
