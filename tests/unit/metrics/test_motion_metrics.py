import math

import pytest
import torch

from video_vq.errors import InputError
from video_vq.metrics.motion import (
    boundary_change_per_clip,
    boundary_flicker_per_clip,
    flicker_per_clip,
    latent_starts,
    motion_energy_ratio_per_clip,
)

SCORES = (motion_energy_ratio_per_clip, flicker_per_clip)


def moving_ramp(velocity: int, num_frames: int = 6) -> torch.Tensor:
    """Return a ramp of 3 gray levels per pixel that moves right: |Δ| is 3·velocity everywhere."""
    columns = torch.arange(20) - velocity * torch.arange(num_frames)[:, None]
    frames = 90 + 3 * columns
    assert frames.min() >= 0
    assert frames.max() <= 255
    clip = frames[:, None, :, None].expand(-1, 8, -1, 3)
    return clip.to(torch.uint8)[None].contiguous()


def random_clips(seed: int, shape: tuple[int, ...] = (3, 5, 6, 7, 3)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("velocity", [1, 2, 4])
def test_a_translation_at_another_speed_has_the_square_of_the_speeds_as_its_energy_ratio(velocity):
    original = moving_ramp(2)
    ratio = motion_energy_ratio_per_clip(moving_ramp(velocity), original)
    assert ratio.item() == pytest.approx((velocity / 2) ** 2, abs=1e-15)


@pytest.mark.parametrize(("velocity", "added"), [(1, 0), (2, 0), (4, 6)])
def test_flicker_is_the_change_that_was_added_and_never_the_change_that_is_missing(velocity, added):
    assert flicker_per_clip(moving_ramp(velocity), moving_ramp(2)).item() == added


def test_a_perfect_copy_has_ratio_one_and_no_flicker():
    clips = random_clips(0)
    assert motion_energy_ratio_per_clip(clips, clips).tolist() == [1, 1, 1]
    assert flicker_per_clip(clips, clips).tolist() == [0, 0, 0]


def test_a_frozen_copy_has_ratio_zero_and_no_flicker():
    original = random_clips(1)
    frozen = original[:, :1].expand_as(original)
    assert motion_energy_ratio_per_clip(frozen, original).tolist() == [0, 0, 0]
    assert flicker_per_clip(frozen, original).tolist() == [0, 0, 0]


def test_an_error_that_stays_the_same_in_all_frames_is_neither_motion_nor_flicker():
    original = moving_ramp(2)
    pattern = random_clips(2, (1, 1, 8, 20, 3)) // 4
    spoilt = original + pattern
    assert motion_energy_ratio_per_clip(spoilt, original).item() == 1
    assert flicker_per_clip(spoilt, original).item() == 0


def test_the_ratio_of_a_still_original_is_undefined_and_touches_no_other_clip():
    original = random_clips(3)
    original[1] = original[1, :1]
    for copy in (original, random_clips(4)):
        values = motion_energy_ratio_per_clip(copy, original)
        assert values.isnan().tolist() == [False, True, False]


def test_a_still_original_whose_copy_alternates_flickers_by_the_difference():
    original = torch.full((1, 5, 4, 4, 3), 100, dtype=torch.uint8)
    copy = original.clone()
    copy[:, ::2] += 7
    assert flicker_per_clip(copy, original).item() == 7
    copy[:, :, 2:] = 100  # the lower half stands still again
    assert flicker_per_clip(copy, original).item() == 3.5


def test_noise_on_a_still_original_flickers_by_its_closed_form():
    sigma = 5.0
    original = torch.full((1, 9, 64, 64, 3), 128.0, dtype=torch.float64)
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(5)).double()
    flicker = flicker_per_clip(original + sigma * noise, original).item()
    assert flicker == pytest.approx(2 * sigma / math.sqrt(math.pi), rel=0.01)


def test_noise_adds_twice_its_variance_to_the_motion_energy():
    sigma = 5.0
    original = torch.full((1, 9, 64, 64, 3), 80.0, dtype=torch.float64)
    original += 10.0 * torch.arange(9.0).view(9, 1, 1, 1)  # Δ is 10 everywhere
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(6)).double()
    ratio = motion_energy_ratio_per_clip(original + sigma * noise, original).item()
    assert ratio == pytest.approx(1 + 2 * sigma**2 / 10**2, rel=0.01)


def test_float_clips_score_like_the_uint8_clips_of_the_same_values():
    clips, original = random_clips(7), random_clips(8)
    for score in SCORES:
        assert torch.equal(score(clips.float(), original), score(clips, original))


def test_a_clips_motion_score_does_not_depend_on_its_batch():
    clips, original = random_clips(9), random_clips(10)
    for score in SCORES:
        values = score(clips, original)
        assert values.dtype == torch.float64
        assert torch.equal(score(clips[1:2], original[1:2]), values[1:2])


def test_one_frame_does_not_move():
    clips = random_clips(11, (2, 1, 4, 4, 3))
    for score in SCORES:
        with pytest.raises(InputError, match="at least 2 frames"):
            score(clips, clips)
        with pytest.raises(InputError, match="equal shapes"):
            score(clips[:0], clips[:0])


def stepping(changes: list[int]) -> torch.Tensor:
    """Return a gray clip that changes by the given levels per frame, alternately up and down."""
    signs = torch.tensor([(-1) ** place for place in range(len(changes))])
    levels = 128 + torch.cat([torch.zeros(1), (torch.tensor(changes) * signs).cumsum(0)])
    return levels.to(torch.uint8)[None, :, None, None, None].expand(1, -1, 4, 4, 3)


def test_latent_frames_begin_at_multiples_of_the_stride_after_a_causal_first_frame():
    assert list(latent_starts(9, 4, is_causal=True)) == [1, 5]
    assert list(latent_starts(12, 4, is_causal=False)) == [4, 8]
    assert list(latent_starts(4, 4, is_causal=False)) == []


def test_flicker_at_boundaries_is_the_copys_ratio_of_changes_over_the_originals():
    starts = latent_starts(9, 4, is_causal=True)
    original = stepping([2, 4, 4, 4, 2, 4, 4, 4])
    copy = stepping([9, 3, 3, 3, 9, 3, 3, 3])
    assert boundary_change_per_clip(original, starts).item() == 0.5
    assert boundary_change_per_clip(copy, starts).item() == 3
    assert boundary_flicker_per_clip(copy, original, starts).item() == 6
    assert boundary_flicker_per_clip(original, original, starts).item() == 1
    calm = stepping([0, 3, 3, 3, 0, 3, 3, 3])
    assert boundary_flicker_per_clip(calm, original, starts).item() == 0


def test_flicker_at_boundaries_is_undefined_where_one_side_stands_still():
    moving, starts = stepping([2, 4, 2, 4]), [1, 3]
    for still in (stepping([2, 0, 2, 0]), stepping([0, 4, 0, 4]), stepping([0, 0, 0, 0])):
        assert boundary_flicker_per_clip(moving, still, starts).isnan().all()
    assert boundary_flicker_per_clip(stepping([2, 0, 2, 0]), moving, starts).isnan().all()


@pytest.mark.parametrize("starts", [[], [1, 2, 3, 4], [0], [5]])
def test_boundaries_that_leave_nothing_to_compare_are_refused(starts):
    with pytest.raises(InputError, match="boundaries"):
        boundary_change_per_clip(stepping([2, 4, 2, 4]), starts)
