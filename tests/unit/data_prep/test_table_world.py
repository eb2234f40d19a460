"""Tests of the synthetic table world: images, physics, and usefulness as a benchmark."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data_prep.table_world.motion import (
    CLASSES,
    DIRECTIONS,
    GRIPPER_LIFT,
    GRIPPER_RADIUS,
    NUM_GROUPS,
    clip_class_and_group,
    draw_style,
    draw_table,
    push_bodies,
)
from data_prep.table_world.render import VIEWS, render_clip

SEED = 11


@pytest.fixture(scope="module")
def clips():
    return [render_clip(SEED, index, num_frames=16, size=32) for index in range(128)]


def psnr(prediction, clip):
    error = np.square((prediction.astype(float) - clip) / 255).mean()
    return -10 * np.log10(error)


def cross_validated_accuracy(features, labels, folds=5):
    """Return the cross-validated accuracy of a ridge classifier."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    classes = np.unique(labels)
    targets = (labels[:, None] == classes).astype(float) - 1 / len(classes)
    order = np.random.default_rng(0).permutation(len(labels))
    right = 0
    for fold in range(folds):
        test, train = order[fold::folds], np.setdiff1d(order, order[fold::folds])
        gram = features[train] @ features[train].T + len(train) * np.eye(len(train))
        weights = features[train].T @ np.linalg.solve(gram, targets[train])
        right += int((classes[(features[test] @ weights).argmax(1)] == labels[test]).sum())
    return right / len(labels)


def mean_flow(frames):
    """Return a clip's mean displacement by least squares (Lucas and Kanade 1981), in pixels."""
    video = gaussian_filter(frames.astype(float).mean(-1), (0, 1, 1))
    middle, change = (video[1:] + video[:-1]) / 2, video[1:] - video[:-1]
    slopes = np.stack([np.gradient(middle, axis=2), np.gradient(middle, axis=1)], axis=-1)
    slopes, change = slopes.reshape(len(slopes), -1, 2), change.reshape(len(change), -1)
    flows = [
        np.linalg.lstsq(slope, -difference, rcond=None)[0]
        for slope, difference in zip(slopes, change, strict=True)
    ]
    return np.mean(flows, axis=0)


def test_a_clip_is_a_function_of_seed_and_index_alone(clips):
    again = render_clip(SEED, 5, num_frames=16, size=32)
    assert np.array_equal(again.frames, clips[5].frames)
    assert np.array_equal(again.actions, clips[5].actions)
    assert not np.array_equal(
        render_clip(SEED + 1, 5, num_frames=16, size=32).frames, clips[5].frames
    )


def test_no_two_clips_are_alike_not_even_in_their_first_frame(clips):
    first = np.stack([clip.frames[0].astype(float).ravel() for clip in clips])
    squares = np.square(first).sum(1)
    distance = squares[:, None] + squares[None] - 2 * first @ first.T
    np.fill_diagonal(distance, np.inf)
    assert distance.min() / first.shape[1] > 10**2  # mean square over pixels and channels


def test_classes_take_turns_and_every_group_has_every_class():
    found = [clip_class_and_group(index) for index in range(len(CLASSES) * NUM_GROUPS)]
    assert sorted(set(found)) == sorted((c, g) for c in CLASSES for g in range(1, 26))
    assert len(set(found)) == len(found)


def test_a_few_videos_have_groups_on_both_sides_of_the_split():
    groups = {clip_class_and_group(index)[1] for index in range(8)}
    assert min(groups) <= 7 < max(groups)


def test_test_groups_have_only_tables_that_training_groups_have():
    for seed in range(5):
        tables = [
            (style.material, style.palette)
            for style in (draw_style(seed, group) for group in range(1, NUM_GROUPS + 1))
        ]
        assert set(tables[:7]) <= set(tables[7:])


def test_the_first_frame_does_not_betray_the_class(clips):
    labels = np.array([clip.label for clip in clips])
    pixels = np.stack([clip.frames[0].astype(float).ravel() for clip in clips])
    # Chance is 1/4 with a standard deviation of 0.038 on 128 clips.
    assert cross_validated_accuracy(pixels, labels) < 0.36


def test_the_motion_tells_the_class(clips):
    labels = np.array([clip.label for clip in clips])
    flows = np.stack([mean_flow(clip.frames) for clip in clips])
    assert cross_validated_accuracy(flows, labels) >= 0.95


def test_a_still_picture_does_not_win():
    random = np.random.default_rng(0)
    means, firsts = [], []
    for index in range(24):
        frames = render_clip(SEED, index, num_frames=30, size=64).frames
        start = int(random.integers(15))
        window = frames[start : start + 16]
        means.append(psnr(window.astype(float).mean(0), window))
        firsts.append(psnr(window[0], window))
    assert 17 < np.mean(means) < 21
    assert 13.5 < np.mean(firsts) < 18


@pytest.mark.parametrize("camera", ["aux1", "main"])
def test_a_small_picture_is_a_large_one_averaged(camera):
    small = render_clip(SEED, 3, num_frames=3, size=64, camera=camera).frames
    large = render_clip(SEED, 3, num_frames=3, size=256, camera=camera).frames.astype(float)
    averaged = large.reshape(3, 64, 4, 64, 4, 3).mean((2, 4))
    assert np.abs(averaged - small).mean() < 3


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7, 40])
def test_any_length_renders(num_frames):
    clip = render_clip(SEED, 0, num_frames=num_frames, size=16)
    assert clip.frames.shape == (num_frames, 16, 16, 3)
    assert clip.actions.shape == (num_frames, 4)
    assert clip.positions.shape == (num_frames, 3)


def test_actions_lead_from_each_position_to_the_next(clips):
    for clip in clips[:8]:
        arrived = clip.positions[:-1] + clip.actions[:-1, :3]
        np.testing.assert_allclose(arrived, clip.positions[1:], atol=1e-6)


def test_the_cameras_show_one_world_differently():
    views = [render_clip(SEED, 2, num_frames=10, camera=name) for name in ("aux1", "main")]
    assert np.array_equal(views[0].actions, views[1].actions)
    assert np.array_equal(views[0].positions, views[1].positions)
    assert psnr(views[0].frames, views[1].frames.astype(float)) < 20


def test_the_gripper_is_drawn_where_the_positions_say():
    index = next(i for i in range(100) if draw_table(SEED, i).style.palette == 0)  # brown table
    clip = render_clip(SEED, index, num_frames=24, size=64)
    camera = push_bodies(draw_table(SEED, index), 24).camera
    for frame, position, centre in zip(clip.frames, clip.positions, camera, strict=True):
        red, green, blue = frame.astype(int).transpose(2, 0, 1)
        rows, columns = np.nonzero((blue > 130) & (np.abs(red - green) < 12) & (blue >= green))
        x, y = (position[:2] - centre + 0.5) * 64
        y -= VIEWS["aux1"].rise * 64 * (position[2] + 0.26)  # the middle of the pale column
        assert abs(np.median(columns) + 0.5 - x) < 1.5
        assert abs(np.median(rows) + 0.5 - y) < 2.5


def test_the_gripper_comes_down_closes_and_leaves():
    for index in range(8):
        motion = push_bodies(draw_table(SEED, index), 30)
        height, opening = motion.gripper[:, 2], motion.opening
        assert height[0] == pytest.approx(GRIPPER_LIFT)
        assert height[-1] == pytest.approx(GRIPPER_LIFT)
        assert height[8:24] == pytest.approx(0)
        assert (opening[0], opening[-1]) == (1, 1)
        assert opening[10:22] == pytest.approx(0)


def test_every_clip_pushes_a_body_its_own_way():
    for index in range(40):
        scene = draw_table(SEED, index)
        motion = push_bodies(scene, 30)
        moved = motion.centres[-1] - motion.centres[0]
        along = moved @ np.array(DIRECTIONS[scene.label])
        assert along.max() > 0.2
        assert along.max() > -2 * along.min()


def test_bodies_overlap_neither_each_other_nor_the_lowered_gripper():
    for index in range(20):
        scene = draw_table(SEED, index)
        motion = push_bodies(scene, 30)
        reach = scene.radii[:, None] + scene.radii[None]
        for centres, gripper in zip(motion.centres, motion.gripper, strict=False):
            gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2) - reach
            assert gaps[~np.eye(len(reach), dtype=bool)].min() > -0.02
            if gripper[2] == 0:
                gap = np.linalg.norm(centres - gripper[:2], axis=1) - scene.radii
                assert gap.min() > GRIPPER_RADIUS - 0.02


def test_an_untouched_body_never_moves_and_a_pushed_one_slides_to_rest():
    scene = draw_table(SEED, 0)
    motion = push_bodies(scene, 30)
    speed = np.linalg.norm(np.diff(motion.centres, axis=0), axis=2)
    untouched = speed.max(0) == 0
    assert untouched.any()
    assert not untouched.all()
    assert (speed[-1] < 0.7 * speed.max(0))[~untouched].all()
