"""Tests of inputs from Python: natural inputs work, other inputs give one clear message.

Table-driven tests disable the runtime type checks of the other tests, as users run without them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from trained import trained_prior, trained_tokenizer

from video_vq.errors import InputError
from video_vq.metrics.class_accuracy import ClipClassifier
from video_vq.metrics.code_usage import CodeUsage
from video_vq.metrics.frechet import Moments
from video_vq.metrics.fvd import clip_features
from video_vq.metrics.fvd_metric import FrechetVideoDistance
from video_vq.metrics.grouped import GroupedFeatures
from video_vq.metrics.i3d import I3D
from video_vq.metrics.kernel import kernel_distance
from video_vq.metrics.motion import flicker_per_clip, motion_energy_ratio_per_clip
from video_vq.metrics.perceptual import StLpips, st_lpips_per_clip
from video_vq.metrics.predictors import score_predictors, token_entropy
from video_vq.metrics.protocol import fvd_protocol
from video_vq.metrics.reconstruction import psnr_per_clip, ssim_per_clip
from video_vq.metrics.resize import network_input
from video_vq.metrics.uncertainty import (
    difference_interval,
    fvd_at_infinity,
    jackknife_error,
)
from video_vq.models import sampling
from video_vq.models.tokenizer import VideoTokenizer, to_pixels, to_uint8
from video_vq.nn.inputs import check_unit_range

LARP = fvd_protocol("larp")
sample_tokens: Any = sampling.sample_tokens  # takes more than its annotations say it should
Call = Callable[[Any], Any]


torch.manual_seed(0)
ST_LPIPS = StLpips("alex")  # of no trained weights; what it takes does not depend on them
for _head in ST_LPIPS.heads:
    _head.data.fill_(1.0)


class Means(nn.Module):
    """A feature network without weights: each channel's mean, and the square of the mean."""

    def forward(self, video: Tensor) -> Tensor:
        means = video.mean((2, 3, 4))
        return torch.cat([means, means**2], 1)


@pytest.fixture(autouse=True)
def as_for_users() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    return trained_tokenizer()


def levels(num: int = 2, num_frames: int = 16, size: int = 24) -> Tensor:
    """Return clips b t h w 3 of random uint8 values."""
    generator = torch.Generator().manual_seed(0)
    shape = (num, num_frames, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def fvd_update(clips: Any) -> Tensor:
    metric = FrechetVideoDistance(Means(), 6, LARP)
    metric.update(clips, real=True)
    return metric.real_sum


def first_argument(score: Callable[..., Any]) -> Call:
    return lambda clips: score(clips, levels())


def second_argument(score: Callable[..., Any]) -> Call:
    return lambda clips: score(levels(), clips)


SCORES = {
    "psnr": psnr_per_clip,
    "ssim": ssim_per_clip,
    "motion": motion_energy_ratio_per_clip,
    "flicker": flicker_per_clip,
    "st_lpips": lambda clips, real: st_lpips_per_clip(clips, real, ST_LPIPS),
}
# Every function that takes pixels in 0…255 and float.
LEVELS: dict[str, Call] = {
    "fvd": fvd_update,
    "clip_features": lambda clips: clip_features(clips, Means(), LARP),
    "network_input": lambda clips: network_input(clips, LARP),
    **{f"{name}, clips": first_argument(score) for name, score in SCORES.items()},
    **{f"{name}, reference": second_argument(score) for name, score in SCORES.items()},
}
OTHER_RANGES = {
    "[0, 1]": (lambda x: x / 255, r"as pixels in \[0, 1\] do; multiply them by 255"),
    "[-1, 1]": (lambda x: x / 127.5 - 1, r"in \[-1, 1\], pass \(x \+ 1\) \* 127\.5"),
    "16 bit": (lambda x: x * 257, "found values from 0 to 65535; clamp"),
    "overshoot": (lambda x: x * 1.1 - 10, "clamp them, or round"),
    "NaN": (lambda x: x * float("nan"), "found values from nan"),
    "bool": (lambda x: x > 127, r"found torch\.bool"),
}


@pytest.mark.parametrize("other", OTHER_RANGES)
@pytest.mark.parametrize("entrance", LEVELS)
def test_pixels_of_another_range_than_0_to_255_are_refused(entrance, other):
    if other == "bool" and entrance in ("fvd", "clip_features", "network_input"):
        message = "found torch.bool; round"
    else:
        message = OTHER_RANGES[other][1]
    with pytest.raises(InputError, match=message):
        LEVELS[entrance](OTHER_RANGES[other][0](levels().float()))


BLACK = torch.zeros(2, 16, 24, 24, 3)
RIGHT = {
    "uint8": levels(),
    "float": levels().float(),
    "float64": levels().double(),
    "float16": levels().half(),
    "black": BLACK,
    "black uint8": BLACK.byte(),
    "nearly black uint8": BLACK.byte() + 1,
    "one dark clip": torch.cat([levels(1).float(), BLACK[:1] + 0.7]),
    "numpy": levels().numpy(),
    "numpy float": levels().float().numpy(),
    "numpy, read only": np.frombuffer(levels().numpy().tobytes(), np.uint8).reshape(BLACK.shape),
    "numpy, mirrored": levels().flip(3).numpy()[:, :, :, ::-1],
    "numpy, big-endian": levels().numpy().astype(">f4"),
}


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("entrance", LEVELS)
def test_pixels_in_0_to_255_of_every_kind_are_taken_alike(entrance, right):
    pixels = RIGHT[right]
    array = pixels.numpy() if isinstance(pixels, Tensor) else pixels
    # As float64; but floats so dark that they would be taken for pixels in [0, 1] as uint8.
    same = torch.from_numpy(array.astype(np.uint8 if array.max() == 1 else np.float64))
    found = LEVELS[entrance](pixels)
    torch.testing.assert_close(found, LEVELS[entrance](same), equal_nan=True)


def test_a_dark_clip_is_dark_wherever_its_batch_is_cut():
    clips = torch.cat([BLACK + 0.5, levels().float()])
    found = clip_features(clips, Means(), LARP, batch_size=1)
    assert torch.equal(found, clip_features(clips, Means(), LARP, batch_size=4))


# Every function that takes pixels in [-1, 1] or uint8, and what differs from `encode`.
UNIT: dict[str, Callable[[VideoTokenizer], Call]] = {
    "encode": lambda model: model.encode,
    "reconstruct": lambda model: model.reconstruct,
    "latents": lambda model: model.latents,
    "forward": lambda model: model,
    "forward, training": lambda model: model.train(),
}


@pytest.mark.parametrize("entrance", UNIT)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x, r"as pixels in \[0, 1\] do; pass 2 \* x - 1"),
        (lambda x: x * 255, r"x / 127\.5 - 1"),
        (lambda x: x * float("nan"), "NaN"),
        (lambda x: x * 3 - 1.5, r"lies in \[-1, 1\], found"),
        (lambda x: x.long(), r"found torch\.int64"),
        (lambda x: x > 0.5, r"found torch\.bool"),
        (lambda x: (x * 255).byte(), r"permute\(video, \(0, 2, 3, 4, 1\)\)"),
        (lambda x: x.movedim(1, 4), r"permute\(video, \(0, 4, 1, 2, 3\)\)"),
        (lambda x: x[0], r"video\[None\]"),
    ],
)
def test_videos_of_another_range_or_order_are_refused(entrance, change, message):
    video = torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    model = trained_tokenizer()
    with pytest.raises(InputError, match=message):
        UNIT[entrance](model)(change(video))


def test_a_stream_of_another_range_is_refused_and_a_fade_to_white_inside_one_is_not():
    model = trained_tokenizer(causal=True)
    bright = torch.rand(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        list(model.encode_stream([bright[:, :, :1], bright]))
    video = torch.cat([bright[:, :, :1] * 2 - 1, bright], dim=2)
    chunks = [video[:, :, :1], video[:, :, 1:]]
    assert torch.equal(torch.cat(list(model.encode_stream(chunks)), 1), model.encode(video))


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_stream_gives_what_encode_gives_however_bright_its_first_chunk_is(first):
    model = trained_tokenizer(causal=True)
    bright = torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(0))
    video = torch.cat([bright[:, :, :5], bright[:, :, 5:] * 2 - 1], dim=2)
    chunks = [video[:, :, :first], video[:, :, first:]]
    assert torch.equal(torch.cat(list(model.encode_stream(chunks)), 1), model.encode(video))


def test_a_stream_of_another_range_gives_the_codes_of_its_pieces_before_it_is_refused():
    model = trained_tokenizer(causal=True)
    bright = torch.rand(1, 3, 33, 16, 16, generator=torch.Generator().manual_seed(0))
    codes = model.encode_stream([bright])
    assert next(codes).shape[0] == 1
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        list(codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("entrance", UNIT)
def test_bright_clips_are_taken_as_the_floats_that_they_become_too(entrance, dtype):
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(150, 255, (1, 4, 16, 16, 3), dtype=torch.uint8, generator=generator)
    results = []
    for video in (clips, to_pixels(clips).to(dtype)):
        found = UNIT[entrance](trained_tokenizer())(video)
        results.append(found if isinstance(found, Tensor) else found.video)
    assert results[0].shape == results[1].shape
    assert dtype != torch.float32 or torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("lowest", [0, 1, 100])
def test_levels_divided_by_255_are_pixels_of_0_to_1_however_they_are_rounded(lowest, dtype):
    clips = torch.arange(lowest, 256, dtype=torch.float64).expand(1, 3, 1, 1, -1)
    with pytest.raises(InputError, match=r"as pixels in \[0, 1\] do"):
        check_unit_range((clips / 255).to(dtype))
    with pytest.raises(InputError, match=r"as pixels in \[0, 1\] do"):
        check_unit_range((clips / 255 + 1e-3).clamp(max=1).to(dtype))


@pytest.mark.parametrize("level", [-1.0, 0.0, 0.5, 1.0])
def test_videos_of_one_grey_are_taken(level, tokenizer):
    assert tokenizer.encode(torch.full((1, 3, 4, 16, 16), level)).shape == (1, 2, 4, 4)


def test_the_range_is_looked_at_in_the_first_video_of_a_training():
    model = trained_tokenizer().train()
    video = torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"2 \* x - 1"):
        model(video)
    model(2 * video - 1)
    model(video)  # a GPU would have to wait for every look
    with pytest.raises(InputError, match=r"2 \* x - 1"):
        model.eval()(video)


@pytest.mark.parametrize("entrance", UNIT)
def test_videos_of_every_kind_are_taken_alike(entrance):
    clips = levels(1, 4, 16)
    pixels = clips.permute(0, 4, 1, 2, 3).double() / 127.5 - 1

    def result(video: Any) -> Tensor:
        found = UNIT[entrance](trained_tokenizer())(video)
        return found if isinstance(found, Tensor) else found.video

    expected = result(pixels.float())
    for same in (clips, clips.numpy(), pixels, pixels.numpy(), pixels.float().numpy()):
        torch.testing.assert_close(result(same), expected, atol=1e-5, rtol=0)


NETWORKS = {
    "I3D": (lambda x: I3D()(x), torch.zeros(1, 3, 9, 224, 224)),
    "ST-LPIPS": (lambda x: ST_LPIPS(x, x), torch.zeros(2, 3, 32, 32)),
    "ST-LPIPS, reference": (lambda x: ST_LPIPS(x * 0, x), torch.zeros(2, 3, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_refuse_levels_where_they_take_minus_1_to_1(name):
    network, video = NETWORKS[name]
    with pytest.raises(InputError, match=r"\[-1, 1\], found 0\.\.255"):
        network(torch.where(torch.arange(video.shape[-1]) > 3, 255.0, video))
    with pytest.raises(InputError, match=r"in \[-1, 1\].*found torch\.uint8"):
        network(video.byte())


def test_a_loss_may_look_at_what_a_network_makes_outside_the_range():
    made = torch.full((1, 3, 32, 32), 1.5, requires_grad=True)
    loss = ST_LPIPS(made, torch.zeros(1, 3, 32, 32)).sum()
    loss.backward()
    with torch.no_grad():  # and so may what validates it
        assert torch.equal(ST_LPIPS(made.detach(), torch.zeros(1, 3, 32, 32)).sum(), loss)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_pixels(torch.rand(1, 4, 16, 16, 3)), "takes uint8 clips"),
        (lambda: to_uint8(torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8)), "takes floats in"),
        (lambda: ClipClassifier(2)(torch.rand(1, 4, 16, 16, 3)), "takes uint8 clips"),
    ],
)
def test_helpers_refuse_the_other_kind_of_pixels(call, message):
    with pytest.raises(InputError, match=message):
        call()


def pictures(num: int) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in levels(1, num, 16)[0].numpy()]


FEATURES = np.random.default_rng(0).normal(size=(40, 2))
GRIDS = np.random.default_rng(0).integers(0, 8, (4, 2, 3, 3))
SETS = [GroupedFeatures(FEATURES + shift, [f"{n}" for n in range(40)]) for shift in (0, 1, 2)]


def of_sets(score: Callable[..., Any], num: int) -> Call:
    return lambda features: score(
        GroupedFeatures(features, SETS[0].groups), *SETS[1:num], ddof=1, seed=0
    )


# Every public entrance that takes an array, with one that is right.
ARRAYS: dict[str, tuple[Call, Any]] = {
    **{name: (call, levels().numpy()) for name, call in LEVELS.items()},
    **{
        name: (lambda x, name=name: UNIT[name](trained_tokenizer())(x), levels(1, 4, 16).numpy())
        for name in UNIT
    },
    "encode_stream": (
        lambda x: list(trained_tokenizer(causal=True).encode_stream([x])),
        levels(1, 3, 16).numpy(),
    ),
    "decode": (lambda x: trained_tokenizer().decode(x), np.zeros((1, 2, 4, 4), np.int64)),
    "to_pixels": (to_pixels, levels(1, 3, 16).numpy()),
    "to_uint8": (to_uint8, np.zeros((1, 3, 2, 4, 4))),
    "decode_stream": (
        lambda x: list(trained_tokenizer(causal=True).decode_stream([x])),
        np.zeros((1, 2, 4, 4), np.uint16),
    ),
    "prior": (lambda x: trained_prior()(x, np.array([0])), np.zeros((1, 32), np.int32)),
    "prior, labels": (
        lambda x: trained_prior()(torch.zeros(2, 32, dtype=torch.long), x),
        np.array([0, 1]),
    ),
    "seeds": (lambda x: sample_tokens(trained_prior(), x, [0, 1]), np.array([1, 2])),
    "labels": (lambda x: sample_tokens(trained_prior(), [1, 2], x), np.array([0, 1])),
    "given": (
        lambda x: sample_tokens(trained_prior(), [1], [0], given=x),
        np.zeros((1, 16), np.uint16),
    ),
    "code usage": (lambda x: CodeUsage(8).update(x), GRIDS),
    "moments": (Moments.of, FEATURES),
    "kernel, real": (lambda x: kernel_distance(x, FEATURES), FEATURES),
    "kernel, fake": (lambda x: kernel_distance(FEATURES, x), FEATURES),
    "difference": (of_sets(difference_interval, 3), FEATURES),
    "jackknife": (of_sets(jackknife_error, 2), FEATURES),
    "fvd at infinity": (of_sets(fvd_at_infinity, 2), FEATURES),
    "predictors": (lambda x: score_predictors(x, GRIDS, 8), GRIDS),
    "predictors, held-out": (lambda x: score_predictors(GRIDS, x, 8), GRIDS),
    "token entropy": (lambda x: token_entropy(x, 8), GRIDS),
    "metric's features": (
        lambda x: FrechetVideoDistance(Means(), 2, LARP).update_features(x, real=True),
        FEATURES,
    ),
}
STRANGE: dict[str, tuple[Callable[[], Any], str]] = {
    "path": (lambda: Path("clip.mp4"), "found the path 'clip.mp4'; read what it holds"),
    "str": (lambda: "clip.mp4", "found the path 'clip.mp4'; read what it holds"),
    "pictures": (lambda: pictures(2), r"a list of Image; join them first: np\.stack"),
    "tensors": (lambda: [torch.zeros(2), torch.zeros(2)], r"join them first: torch\.stack"),
    "picture": (lambda: pictures(1)[0], r"found Image; np\.asarray\(it\)"),
    "None": (lambda: None, "found NoneType"),
    "objects": (lambda: np.array([object()]), "an array of object; give numbers"),
    "number": (lambda: 3.5, "found float"),
}


@pytest.mark.parametrize("entrance", ARRAYS)
def test_arrays_and_tensors_are_taken_alike(entrance):
    call, array = ARRAYS[entrance]
    # torch has no sums of uint16; tokens come in it from disk.
    tensor = torch.from_numpy(array.astype(np.int64) if array.dtype == np.uint16 else array)
    results = [repr(call(same)) for same in (array, tensor)]
    assert results[0] == results[1]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("entrance", ARRAYS)
def test_what_is_no_array_gets_one_sentence(entrance, strange):
    make, message = STRANGE[strange]
    if strange == "None" and entrance == "given":
        return  # nothing is given: that is right
    if strange == "None" and entrance in ("prior, labels", "labels"):
        message = "needs class labels"
    with pytest.raises(InputError, match=message) as refused:
        ARRAYS[entrance][0](make())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("entrance", ["decode", "prior", "labels", "given", "seeds", "code usage"])
def test_numbers_that_are_no_integers_are_refused_as_codes(entrance):
    call, array = ARRAYS[entrance]
    for kind in (np.float32, np.bool_):
        with pytest.raises(InputError, match=r"(must be|expected) integers, found torch\."):
            call(array.astype(kind))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trained_prior()(torch.zeros(1, 2, 4, 4).long(), [0]), r"pass grid\.flatten\(1\)"),
        (
            lambda: sample_tokens(trained_prior(), [1], [0], given=torch.zeros(1, 1, 4, 4).long()),
            r"pass grid\.flatten\(1\)",
        ),
        (lambda: sample_tokens(trained_prior(), [1], 0), "class labels: expected .* found int"),
        (lambda: sample_tokens(trained_prior(), 5), "seeds: expected .* found int"),
        (lambda: sample_tokens(trained_prior(), [1], [[0]]), "found a list of list"),
        (lambda: sample_tokens(trained_prior(), [1], [0], actions=[[0.0]]), "actions: expected"),
        (lambda: trained_prior()(torch.zeros(2, 32).long(), [0]), "one for each of 2 clips"),
        (lambda: trained_tokenizer().decode(torch.tensor(3)), "a non-empty grid b t h w"),
        (
            lambda: list(trained_tokenizer(causal=True).decode_stream([torch.tensor(3)])),
            "a non-empty grid b t h w",
        ),
    ],
)
def test_shapes_that_callers_mistake_get_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("entrance", ["prior, labels", "labels", "seeds"])
def test_lists_of_truth_values_are_no_integers_nor_are_tuples_and_mixtures(entrance):
    for given in ([True, False], (np.True_, np.False_), [0, True]):
        with pytest.raises(
            InputError, match=r"expected integers, found a (list|tuple) with booleans"
        ):
            ARRAYS[entrance][0](given)


@pytest.mark.parametrize("entrance", ["prior, labels", "labels"])
@pytest.mark.parametrize("large", [2**63 + 1, -(2**63) - 1, np.uint64(2**63)])
def test_integers_of_more_than_64_bits_get_one_sentence(entrance, large):
    with pytest.raises(InputError, match=f"expected integers of 64 bits, found {large}"):
        ARRAYS[entrance][0]([0, large])


def test_labels_and_seeds_are_taken_as_lists_ranges_and_tensors():
    prior = trained_prior()
    expected = sample_tokens(prior, [0, 1], torch.tensor([0, 1]))
    for seeds, labels in (
        (range(2), [0, 1]),
        (torch.arange(2), np.array([0, 1], np.uint8)),
        (np.arange(2, dtype=np.uint64), (0, 1)),
        ([np.int64(0), np.int64(1)], range(2)),
    ):
        assert torch.equal(sample_tokens(prior, seeds, labels), expected)
    with pytest.raises(InputError, match="seed 9223372036854775808: expected 0 to"):
        sample_tokens(prior, [2**63], [0])
