"""Tests of the arrangement of actions by latent frame."""

import numpy as np
import pytest

from video_vq.data.actions import (
    actions_of_window,
    latent_actions,
    num_action_dims,
    num_actions,
)
from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video


def numbered(count: int) -> np.ndarray:
    """Return rows whose values identify the row and the column; none is 0."""
    return 10.0 * np.arange(1, count + 1, dtype=np.float32)[:, None] + np.arange(2)


def test_a_causal_latent_frame_has_the_actions_on_the_way_through_its_frames():
    rows = numbered(num_actions(num_frames=5, stride=1))
    found = latent_actions(rows, 1, 2, 3)  # frame 0 | frames 1, 2 | frames 3, 4
    assert found.dtype == np.float32
    assert found.shape == (3, num_action_dims(2, 1, 2))
    assert found.tolist() == [[0, 0, 0, 0], [10, 11, 20, 21], [30, 31, 40, 41]]


def test_a_latent_frame_that_is_not_causal_has_those_that_lead_to_its_frames():
    found = latent_actions(numbered(num_actions(4, 1)), 1, 2, 2)  # frames 0, 1 | frames 2, 3
    assert found.tolist() == [[0, 0, 10, 11], [20, 21, 30, 31]]


def test_with_a_stride_no_action_between_two_frames_is_lost():
    rows = numbered(num_actions(num_frames=3, stride=3))
    assert len(rows) == 6
    found = latent_actions(rows, 3, 1, 3)
    assert found.shape == (3, num_action_dims(2, 3, 1))
    assert found[0].tolist() == [0] * 6
    assert found[1:].ravel().tolist() == rows.ravel().tolist()


def test_a_clip_of_one_frame_has_none():
    assert latent_actions(numbered(0), 2, 1, 1).tolist() == [[0] * 4]


@pytest.fixture
def store(tmp_path) -> ClipStore:
    writer = ClipStoreWriter(tmp_path / "clips", (4, 4), {}, {"actions": (2,)})
    frames, actions = np.zeros((9, 4, 4, 3), np.uint8), numbered(9)
    spoilt = actions.copy()
    spoilt[4, 1] = np.nan
    writer.write_shard(
        0,
        [
            PreparedVideo(Video(name, None, "train", name), [frames], {"actions": rows})
            for name, rows in (("sound", actions), ("spoilt", spoilt))
        ],
    )
    return writer.finish(1, [])


def test_a_window_of_a_store_has_the_rows_from_its_first_frame_to_its_last(store):
    found = actions_of_window(store, 0, 2, 3, 2, 1, 3)  # frames 2, 4, 6: rows 2 to 5
    assert found.tolist() == [[0] * 4, [30, 31, 40, 41], [50, 51, 60, 61]]
    assert actions_of_window(store, 0, 8, 1, 1, 1, 1).tolist() == [[0, 0]]


def test_an_action_that_is_not_finite_and_a_store_without_any_are_refused(store, tmp_path):
    assert np.isfinite(actions_of_window(store, 1, 5, 3, 1, 1, 3)).all()
    with pytest.raises(InputError, match="'spoilt' is not finite"):
        actions_of_window(store, 1, 2, 4, 1, 1, 4)
    writer = ClipStoreWriter(tmp_path / "still", (4, 4), {})
    frames = np.zeros((9, 4, 4, 3), np.uint8)
    writer.write_shard(0, [PreparedVideo(Video("v", None, "train", "v"), [frames], {})])
    with pytest.raises(InputError, match="holds no actions"):
        actions_of_window(writer.finish(1, []), 0, 0, 3, 1, 1, 3)
