"""Converts a video's per-frame actions to actions per latent frame, which steer a prior.

Row f of a store's `actions` is the action between frames f and f + 1 of a video.
"""

import numpy as np
from jaxtyping import Float

from video_vq.errors import InputError
from video_vq.stores.clips import ClipStore

ARRAY = "actions"  # the array's name in a clip store


def num_actions(num_frames: int, stride: int) -> int:
    """Return the number of action rows between a clip's first and last frames."""
    return (num_frames - 1) * stride


def num_action_dims(row_dims: int, stride: int, frames_per_latent: int) -> int:
    """Return the number of action values that lead to one latent frame, over all rows."""
    return row_dims * stride * frames_per_latent


def latent_actions(
    rows: Float[np.ndarray, "r d"], stride: int, frames_per_latent: int, latent_frames: int
) -> Float[np.ndarray, "t a"]:
    """Return the concatenated actions that lead to the frames of each latent frame.

    A latent frame covers `frames_per_latent` frames, and `stride` rows lead to each frame. Values
    before the first row are 0: the actions before the clip's first frame are unknown, and a causal
    tokenizer's first latent frame covers only that frame.

    Args:
        rows: actions between the clip's first and last frames, `num_actions` rows.
        stride: number of video frames from one frame of the clip to the next.
        frames_per_latent: the tokenizer's stride in time.
        latent_frames: number of latent frames, t.

    Returns:
        Array of float32, with a = `num_action_dims`.
    """
    places = latent_frames * frames_per_latent * stride
    padded = np.zeros((places, rows.shape[1]), np.float32)
    padded[places - len(rows) :] = rows
    return padded.reshape(latent_frames, -1)


def actions_of_window(
    store: ClipStore,
    video: int,
    start: int,
    num_frames: int,
    stride: int,
    frames_per_latent: int,
    latent_frames: int,
) -> Float[np.ndarray, "t a"]:
    """Return the latent actions of one clip in a store.

    Raises:
        InputError: the store has no actions, or an action is not finite.
    """
    row_dims = row_dims_of(store)
    if not row_dims:
        raise InputError(
            f"{store.path}: holds no actions; prepare data that has them "
            "(`data-prep bair`), or give a file of actions"
        )
    count = num_actions(num_frames, stride)
    rows = np.zeros((0, row_dims), np.float32)
    # The actions of frames that pad a short video are unknown, and set to 0.
    known = min(count, store.videos[video].num_frames - 1 - start)
    if known:
        rows = store.read_array(ARRAY, video, start, known).reshape(known, row_dims)
    if not np.isfinite(rows).all():
        raise InputError(
            f"{store.path}: an action of video {store.videos[video].id!r} is not finite; "
            "prepare the data again"
        )
    rows = np.concatenate([rows, np.zeros((count - known, row_dims), np.float32)])
    return latent_actions(rows, stride, frames_per_latent, latent_frames)


def row_dims_of(store: ClipStore) -> int:
    """Return the number of values in each action row of a store; 0 if the store has no actions."""
    return int(np.prod(store.arrays[ARRAY])) if ARRAY in store.arrays else 0
