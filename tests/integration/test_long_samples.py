"""Tests of samples longer than a clip: sliding windows, streamed decoding, constant memory."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runs import make_clip_store
from trained import (
    WINDOW,
    WINDOW_FRAMES,
    CausalModels,
    save_causal_models,
    trained_prior,
    trained_tokenizer,
)

from video_vq.cli import main
from video_vq.errors import InputError
from video_vq.media.encode import write_video
from video_vq.media.probe import probe
from video_vq.models.prior import Prior
from video_vq.models.prior_config import SamplingSettings
from video_vq.models.priors import make_sampler
from video_vq.models.tokenizer import to_uint8
from video_vq.stages.continue_file import ContinueRequest, continued
from video_vq.stages.long_samples import LongSampler, decoded_frames, window_actions
from video_vq.stages.model_pair import load_pair
from video_vq.stages.sample_length import SampleLength, latents_within, length_of_latents
from video_vq.stores.clips import ClipStore

FPS = 10.0


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> CausalModels:
    return save_causal_models(tmp_path_factory.mktemp("models"))


def make_long(
    models: CausalModels, num_latents: int, stride: int, batch_size: int = 2
) -> LongSampler:
    sampler = make_sampler(models.prior, SamplingSettings(), None, batch_size, torch.float32)
    config, facts = models.tokenizer.config, models.tokenizer.facts
    length = length_of_latents(num_latents, config, facts, stride)
    return LongSampler(Accelerator(), models.tokenizer, sampler, length, batch_size)


LABELS = torch.tensor([0, 1])


def test_a_sample_of_one_clip_is_the_plain_one(models):
    long = make_long(models, WINDOW, 2)
    (tokens,) = long.latents([3, 4], LABELS)
    assert torch.equal(tokens, long.sampler.draw([3, 4], LABELS))
    (shorter,) = make_long(models, 3, 2).latents([3, 4], LABELS)
    assert torch.equal(shorter, tokens[:, :3])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_window_goes_on_from_the_frame_where_it_begins_and_the_latents_after_it(models, stride):
    tokenizer, long = models.tokenizer, make_long(models, WINDOW + stride, stride)
    first, second = long.latents([3, 4], LABELS)
    frames = to_uint8(tokenizer.decode(first))[:, [2 * stride]]  # the last of latent frame `stride`
    anchor = tokenizer.encode(frames)
    given = torch.cat([anchor, first[:, stride + 1 :]], dim=1).flatten(1)
    expected = long.sampler.draw([3, 4], LABELS, given, window=1)
    assert torch.equal(second, expected[:, -stride:])
    assert not torch.equal(second, long.sampler.draw([3, 4], LABELS, given)[:, -stride:])


def test_each_sample_has_its_own_seed_and_any_length_begins_alike(models):
    long = make_long(models, 11, 2)
    parts = list(long.latents([3, 4], LABELS))
    assert [part.shape[1] for part in parts] == [4, 2, 2, 2, 1]
    tokens = torch.cat(parts, dim=1)
    swapped = torch.cat(list(long.latents([4, 3], LABELS.flip(0))), dim=1)
    assert torch.equal(swapped.flip(0), tokens)
    shorter = torch.cat(list(make_long(models, 7, 2).latents([3, 4], LABELS)), dim=1)
    assert torch.equal(shorter, tokens[:, :7])
    frames = np.concatenate(
        list(decoded_frames(Accelerator(), models.tokenizer, iter(parts))), axis=1
    )
    assert np.array_equal(frames, to_uint8(models.tokenizer.decode(tokens)).numpy())


def live_bytes() -> int:
    """Return the size of all live strided tensors in bytes, counting each storage once."""
    storages = {}
    for value in gc.get_objects():
        # `isinstance` would read the `__class__` of objects that then issue a warning.
        if issubclass(type(value), torch.Tensor) and value.layout == torch.strided:
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_what_is_alive_does_not_grow_with_the_length(models):
    long = make_long(models, 41, 1)
    chunks = decoded_frames(Accelerator(), models.tokenizer, long.latents([3, 4], LABELS))
    sizes, caches = [], set()
    for part in chunks:
        sizes.append(live_bytes())
        caches.add(tuple(long.sampler._held.keys.shape))  # type: ignore[union-attr]
        del part
    assert len(sizes) == 5
    assert max(sizes[2:]) <= max(sizes[:2])
    depth, heads, head_dim = 1, 2, 16
    assert caches == {(depth, 2, heads, WINDOW * 16, head_dim)}  # of one window, always


def test_windows_see_their_own_actions_and_none_at_their_first_frame():
    actions = torch.arange(1.0, 8.0)[None, :, None]
    length = SampleLength(13, 7, 4, 2)
    windows = [window_actions(actions, number, length)[0, :, 0].tolist() for number in range(3)]
    assert length.num_windows == 3
    assert windows == [[0, 2, 3, 4], [0, 4, 5, 6], [0, 6, 7, 0]]


@pytest.mark.parametrize(
    ("seconds", "is_first", "expected"),
    [(0.1, True, 1), (0.11, True, 2), (0.3, True, 2), (0.7, True, 4), (0.7, False, 4),
     (60.0, True, 301)],
)  # fmt: skip
def test_seconds_are_rounded_up_to_whole_latent_frames(seconds, is_first, expected):
    assert latents_within(seconds, FPS, 2, is_first) == expected


def sample(models: CausalModels, out: Path, *more, prior: str = "p", expect: int = 0) -> None:
    words = ("sample", "--prior", models.folder / prior, "--tokenizer", models.folder / "t")
    assert main([str(word) for word in (*words, "--out", out, *more)]) == expect


def test_seconds_of_one_clip_give_the_samples_of_clips(models, tmp_path):
    same = ("--num", 3, "--batch-size", 1)
    sample(models, tmp_path / "plain", *same)
    sample(models, tmp_path / "long", *same, "--seconds", WINDOW_FRAMES / FPS)
    plain, long = ClipStore(tmp_path / "plain"), ClipStore(tmp_path / "long")
    assert all(np.array_equal(plain.read(place), long.read(place)) for place in range(3))


@pytest.mark.parametrize("prior", ["p", "m"])
def test_killed_and_started_again_the_samples_are_the_same_bytes(
    models, tmp_path, monkeypatch, prior
):
    from video_vq.stages import sample_clips

    more = ("--num", 3, "--batch-size", 1, "--seconds", 1.5, "--window-stride", 2)
    sample(models, tmp_path / "whole", *more, prior=prior)
    decoded = sample_clips.decoded_frames
    calls = []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:  # in the second shard
            raise KeyboardInterrupt
        return decoded(*arguments)

    monkeypatch.setattr(sample_clips, "decoded_frames", killed)
    sample(models, tmp_path / "killed", *more, prior=prior, expect=130)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    calls.clear()
    calls.extend([1] * 2)
    sample(models, tmp_path / "killed", *more, prior=prior)
    assert len(calls) == 2 + 2  # what was committed is not made again
    manifests = [
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("whole", "killed")
    ]
    assert manifests[0] == manifests[1]
    store = ClipStore(tmp_path / "killed")
    assert {video.num_frames for video in store.videos} == {15}
    assert probe(tmp_path / "killed" / "videos" / "sample-000002.mp4").num_packets == 15
    first = (tmp_path / "killed" / "manifest.json").stat().st_mtime_ns
    sample(models, tmp_path / "killed", *more, prior=prior)  # finished
    assert (tmp_path / "killed" / "manifest.json").stat().st_mtime_ns == first
    sample(models, tmp_path / "killed", *more[:4], "--seconds", 2.5, prior=prior, expect=1)


def test_a_masked_priors_steps_are_part_of_the_plan(models, tmp_path):
    sample(models, tmp_path / "m", "--num", 2, prior="m")
    plan = ClipStore(tmp_path / "m").plan
    assert plan["parallel"] == {"steps": 12, "confidence_temperature": 4.5}
    sample(models, tmp_path / "m", "--num", 2, "--steps", 12, prior="m")
    sample(models, tmp_path / "m", "--num", 2, "--steps", 3, prior="m", expect=1)
    assert "parallel" not in make_plain(models, tmp_path / "p").plan


def make_plain(models: CausalModels, out: Path) -> ClipStore:
    sample(models, out, "--num", 1)
    return ClipStore(out)


def continue_(models: CausalModels, video: Path, out: Path, *more, expect: int = 0) -> None:
    words = ("continue", video, "--prior", models.folder / "p", "--tokenizer", models.folder / "t")
    assert main([str(word) for word in (*words, "--out", out, *more)]) == expect


def test_a_video_goes_on_for_as_long_as_is_asked(models, tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3)).astype(np.uint8)
    write_video(tmp_path / "in.mp4", frames, FPS)
    more = ("--given-frames", 3, "--seconds", 1.5)
    continue_(models, tmp_path / "in.mp4", tmp_path / "out.mp4", *more, "--num", 2)
    assert probe(tmp_path / "out.mp4").num_packets == 3 + 16  # 15 rounded up to latent frames
    assert "the last 3 frames" in (said := capsys.readouterr().out)
    assert "then 16 continued" in said
    continue_(models, tmp_path / "in.mp4", tmp_path / "one.mp4", "--given-frames", 3)
    assert probe(tmp_path / "one.mp4").num_packets == WINDOW_FRAMES


def test_given_frames_and_a_long_sample_that_continues_them(models, tmp_path):
    make_clip_store(tmp_path / "clips", num_frames=9)
    more = ("--given", tmp_path / "clips", "--given-frames", 3, "--seconds", 1.5, "--num", 2)
    sample(models, tmp_path / "out", *more, "--batch-size", 1)
    store, real = ClipStore(tmp_path / "out"), ClipStore(tmp_path / "clips")
    for place in range(2):
        given = real.read(real.indices("test")[place])
        found = store.read(place)
        assert len(found) == 15
        assert np.array_equal(found[:3], given[:3])
        assert not np.array_equal(found[3], found[4])
    short = ("--given", tmp_path / "clips", "--given-frames", 3, "--seconds", 0.3)
    sample(models, tmp_path / "none", *short, expect=1)


def test_actions_steer_the_windows_that_they_fall_into_and_nothing_before(models, tmp_path):
    sizes = replace(models.prior.config, num_action_dims=2)
    prior = Prior(sizes)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    prior.facts = models.prior.facts
    prior.eval().save_pretrained(tmp_path / "a")
    frames = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3)).astype(np.uint8)
    write_video(tmp_path / "in.mp4", frames, FPS)
    loaded = load_pair(Accelerator(), tmp_path / "a", models.folder / "t")

    def made(rows: np.ndarray) -> np.ndarray:
        np.save(tmp_path / "rows.npy", rows)
        request = ContinueRequest(1, actions=tmp_path / "rows.npy", seconds=1.4, seed=3)
        told, moments = continued(Accelerator(), *loaded, tmp_path / "in.mp4", request)
        clip = np.stack(list(moments))
        assert told.num_made == len(clip) - 1 == 14
        return clip

    rows = np.random.default_rng(1).normal(size=(14, 1))
    changed = rows.copy()
    changed[10:] += 3  # on the way to frame 11, with which latent frame 6 begins
    first, second = made(rows), made(changed)
    assert np.array_equal(first[:11], second[:11])
    assert not np.array_equal(first[11:], second[11:])
    with pytest.raises(InputError, match="holds 13 rows of actions, 14 lead from the first frame"):
        made(rows[:13])


def test_what_does_not_fit_is_refused(models, tmp_path, capsys):
    def refused(
        message: str, *more, prior: str = "p", folder: CausalModels = models, expect: int = 1
    ) -> None:
        sample(folder, tmp_path / "out", *more, prior=prior, expect=expect)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    refused("--window-stride needs --seconds", "--window-stride", 2, expect=2)
    refused("--window-stride 4: expected 1 to 3", "--seconds", 2, "--window-stride", 4)
    refused("--steps and --confidence-temperature are for masked priors", "--steps", 4)
    refused("65 steps for a clip of 64 tokens", "--steps", 65, prior="m")
    still = trained_tokenizer()
    still.save_pretrained(tmp_path / "other" / "t")
    prior = trained_prior()
    prior.facts = replace(prior.facts, tokenizer_hash=still.hash)
    prior.save_pretrained(tmp_path / "other" / "p")
    other = models._replace(folder=tmp_path / "other")
    refused("--seconds needs a causal tokenizer", "--seconds", 2, folder=other)
    with pytest.raises(SystemExit):
        sample(models, tmp_path / "out", "--seconds", 0)
    assert "expected a number above 0, below a million" in capsys.readouterr().err
