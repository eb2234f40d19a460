import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd import clip_features
from video_vq.metrics.protocol import DEFAULT_PROTOCOL, PROTOCOLS, fvd_protocol, fvd_protocols
from video_vq.metrics.resize import network_input, prepare_frames, rows_read

# At 50 x 50 VideoGPT's rounding shows: the square becomes 225 x 224 and loses a row.
SIZES = [(64, 64), (48, 80), (90, 49), (240, 320), (224, 224), (230, 225), (50, 50)]


def random_clips(seed: int, num_clips: int, size_hw: tuple[int, int], num_frames: int = 16):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_clips, num_frames, *size_hw, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def interpolate_axis(values: np.ndarray, axis: int, new_size: int, half_pixel: bool) -> np.ndarray:
    """Interpolate linearly along one axis in float64, straight from the definition."""
    size = values.shape[axis]
    centre = 0.5 if half_pixel else 0.0
    position = np.maximum((np.arange(new_size) + centre) * size / new_size - centre, 0)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, size - 1)
    weight = (position - lower).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    return values.take(lower, axis) * (1 - weight) + values.take(upper, axis) * weight


def resized(video: np.ndarray, size_hw: tuple[int, int], half_pixel: bool) -> np.ndarray:
    video = interpolate_axis(video.astype(np.float64), 1, size_hw[0], half_pixel)
    return interpolate_axis(video, 2, size_hw[1], half_pixel)


def squash(video: np.ndarray) -> np.ndarray:
    return 2 * resized(video, (224, 224), half_pixel=True) / 255 - 1


def google(video: np.ndarray) -> np.ndarray:
    return 2 * resized(video, (224, 224), half_pixel=False) / 255 - 1


def videogpt_size(height: int, width: int) -> tuple[int, int]:
    scale = 224 / min(height, width)
    tall = (math.ceil(height * scale), 224)
    return (224, math.ceil(width * scale)) if height < width else tall


def videogpt(video: np.ndarray) -> np.ndarray:
    size = videogpt_size(*video.shape[1:3])
    video = resized(video, size, half_pixel=True)
    top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
    return video[:, top : top + 224, left : left + 224] / 255 - 0.5


def padded(video: np.ndarray) -> np.ndarray:
    return squash(np.concatenate([video, video[-1:].repeat(16 - len(video), axis=0)]))


# name: preprocessing of one clip t h w c, and the covariance's ddof.
REFERENCES = {
    "styleganv": (squash, 0),  # the resize inside its TorchScript file is assumed
    "google": (google, 1),
    "videogpt": (videogpt, 1),
    "tats": (squash, 1),
    "cd-fvd": (squash, 0),
    "larp": (squash, 0),
    "padded": (padded, 0),
}


def test_every_preset_has_a_reference_here():
    assert set(REFERENCES) == set(PROTOCOLS)


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("name", REFERENCES)
def test_network_input_is_that_of_the_convention(name, size_hw):
    clips = random_clips(0, 2, size_hw, num_frames=2)
    reference = np.stack([REFERENCES[name][0](clip) for clip in clips.numpy()])

    found = network_input(clips, replace(PROTOCOLS[name], num_frames=2))

    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.movedim(1, -1).numpy(), reference, atol=1e-4)


WHOLE = [protocol for protocol in PROTOCOLS.values() if protocol.pad_to is None]
HALF_PIXEL = [protocol.name for protocol in WHOLE if protocol.resize == "half-pixel"]


@pytest.mark.parametrize("size_hw", [*SIZES, (1, 1), (3, 90), (449, 448), (1920, 1088), (481, 853)])
@pytest.mark.parametrize("name", HALF_PIXEL)
def test_network_input_is_pytorchs_resize_of_whole_float_frames_to_the_bit(name, size_hw):
    protocol = replace(PROTOCOLS[name], num_frames=2)
    clips = random_clips(4, 1, size_hw, num_frames=2)
    new_size = (224, 224) if protocol.fit == "squash" else videogpt_size(*size_hw)
    frames = clips[0].movedim(-1, 1).float()
    if size_hw != new_size:
        frames = F.interpolate(frames, size=new_size, mode="bilinear", align_corners=False)
    top, left = (new_size[0] - 224) // 2, (new_size[1] - 224) // 2
    frames = frames[:, :, top : top + 224, left : left + 224]
    whole = (2.0 * frames / 255.0 - 1.0) * protocol.input_range
    assert torch.equal(network_input(clips, protocol)[0], whole.movedim(0, 1))


@pytest.mark.parametrize("name", ["styleganv", "google", "videogpt"])
def test_the_rows_that_a_resize_reads_are_all_that_it_needs(name):
    protocol = PROTOCOLS[name]
    heights = (*range(1, 1300, 7), 224, 448, 449, 672, 1080, 1920)
    for height in (*heights, 4320, 65535) if protocol.fit == "squash" else heights:
        width = max(2, height // 3) if protocol.fit == "crop" else 2
        whole = random_clips(height, 1, (height, width), num_frames=1)[0].float()
        rows = rows_read((height, width), [protocol])
        kept = torch.zeros_like(whole)
        kept[:, rows] = whole[:, rows]
        targets = torch.full((2, 1, 224, 224, 3), math.nan)
        for frames, target in zip((whole, kept), targets, strict=True):
            prepare_frames(frames, protocol, target)
        assert torch.equal(*targets), height


def test_of_full_hd_a_quarter_of_the_rows_is_read():
    assert len(rows_read((1920, 1080), [DEFAULT_PROTOCOL])) == 448
    assert len(rows_read((64, 64), [DEFAULT_PROTOCOL])) == 64
    several = [PROTOCOLS["styleganv"], PROTOCOLS["google"]]
    each = [set(rows_read((1920, 1080), [protocol])) for protocol in several]
    assert set(rows_read((1920, 1080), several)) == each[0] | each[1]


@pytest.mark.parametrize("name", ["styleganv", "google", "videogpt"])
def test_a_frame_does_not_depend_on_those_beside_it(name):
    clips = random_clips(5, 1, (700, 900), num_frames=3)  # more pixels than are resized at a time
    together = network_input(clips, replace(PROTOCOLS[name], num_frames=3))
    protocol = replace(PROTOCOLS[name], num_frames=1)
    alone = [network_input(clips[:, place : place + 1], protocol) for place in range(3)]
    assert torch.equal(together, torch.cat(alone, dim=2))


@pytest.mark.parametrize("name", REFERENCES)
def test_a_presets_score_is_that_of_its_convention(name, pooled_pixels):
    preprocess, ddof = REFERENCES[name]
    protocol = replace(PROTOCOLS[name], num_frames=2)  # to be fast
    real, fake = random_clips(1, 40, (20, 28), 2), random_clips(2, 30, (20, 28), 2) // 2
    sides = []
    for clips in (real, fake):
        prepared = np.stack([preprocess(clip) for clip in clips.numpy()])
        video = torch.from_numpy(prepared).movedim(-1, 1).float()
        values = pooled_pixels(video).double().numpy()
        sides.append((values.mean(0), np.cov(values, rowvar=False, ddof=ddof)))
    (mean_a, cov_a), (mean_b, cov_b) = sides
    root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    reference = np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * root)

    first, second = (
        Moments.of(clip_features(clips, pooled_pixels, protocol).numpy()) for clips in (real, fake)
    )
    found = frechet_distance(first, second, protocol.ddof)

    assert found == pytest.approx(reference, rel=1e-3)
    assert found == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("name", ["google", "larp"])
def test_float_clips_are_scored_unrounded_where_the_convention_does(name):
    clips = random_clips(3, 1, (20, 20)).float() * 0.37
    reference = REFERENCES[name][0](clips[0].numpy())
    found = network_input(clips, PROTOCOLS[name])[0].movedim(0, -1)
    np.testing.assert_allclose(found.numpy(), reference, atol=1e-4)


@pytest.mark.parametrize("name", ["styleganv", "videogpt", "tats", "cd-fvd"])
def test_float_clips_are_refused_where_the_convention_rounds(name):
    with pytest.raises(InputError, match="round them to uint8"):
        network_input(random_clips(3, 1, (20, 20)).float(), PROTOCOLS[name])


@pytest.mark.parametrize("value", [-1.0, 256.0, math.nan, math.inf])
def test_float_clips_outside_the_pixel_range_are_refused(value):
    clips = torch.zeros(1, 16, 8, 8, 3)
    clips[0, 3, 2, 1, 0] = value
    with pytest.raises(InputError, match=r"0\.\.255"):
        network_input(clips, PROTOCOLS["larp"])


def test_seventeen_frames_are_another_metric():
    with pytest.raises(InputError, match="scores 16 frames, found clips of 17"):
        network_input(random_clips(0, 1, (8, 8), num_frames=17), DEFAULT_PROTOCOL)
    assert network_input(random_clips(0, 1, (8, 8), num_frames=17), PROTOCOLS["google"]).shape == (
        1,
        3,
        17,
        224,
        224,
    )


@pytest.mark.parametrize("shape", [(1, 16, 8, 8, 1), (16, 8, 8, 3), (0, 16, 8, 8, 3)])
def test_what_is_no_rgb_clip_is_refused(shape):
    clips = torch.zeros(shape, dtype=torch.uint8)
    if clips.ndim == 5:
        with pytest.raises(InputError, match="RGB clips of b t h w 3"):
            network_input(clips, DEFAULT_PROTOCOL)


def test_a_misspelt_preset_is_suggested():
    with pytest.raises(
        InputError, match=r"no FVD protocol 'al'; known: .*larp, padded, all; did you mean 'all'"
    ):
        fvd_protocols("google, al")
    assert fvd_protocols("google, tats,google") == (PROTOCOLS["google"], PROTOCOLS["tats"])
    with pytest.raises(InputError, match="did you mean 'styleganv'"):
        fvd_protocol("stylegan-v")
    assert fvd_protocol("tats") is PROTOCOLS["tats"]


def test_short_clips_are_padded_under_a_name_that_never_meets_another():
    short = random_clips(0, 1, (8, 8), num_frames=5)
    with pytest.raises(InputError, match=r"found clips of 5; .* take --protocol padded"):
        network_input(short, DEFAULT_PROTOCOL)
    with pytest.raises(InputError, match="for clips of fewer than 9 frames, found 9"):
        network_input(random_clips(0, 1, (8, 8), num_frames=9), PROTOCOLS["padded"])
    assert PROTOCOLS["padded"] not in fvd_protocols("all")
    assert PROTOCOLS["padded"].preparation not in {protocol.preparation for protocol in WHOLE}
    line = PROTOCOLS["padded"].describe((4, 4), num_frames=5)
    assert line.startswith(
        "padded FVD, which is not FVD (padded): 5 frames, the last repeated up to 16 frames"
    )
    # What earlier scores say of their protocol still matches.
    assert "pad_to" not in DEFAULT_PROTOCOL.settings()


def test_no_two_presets_have_the_same_settings_line():
    lines = {protocol.describe() for protocol in PROTOCOLS.values()}
    assert len(lines) == len(PROTOCOLS)
    for protocol in PROTOCOLS.values():
        assert protocol.name in protocol.describe()
        assert protocol.settings()["ddof"] == protocol.ddof


def test_presets_that_differ_in_the_covariance_alone_share_their_features():
    assert PROTOCOLS["tats"].feature_settings() == PROTOCOLS["cd-fvd"].feature_settings()
    assert PROTOCOLS["tats"].feature_settings() != PROTOCOLS["google"].feature_settings()
    assert PROTOCOLS["tats"].settings() != PROTOCOLS["cd-fvd"].settings()
