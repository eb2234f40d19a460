"""Tests of samples that continue given frames, with a causal tokenizer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runs import SMALL_PRIOR, SMALL_TOKENIZER, make_clip_store

from video_vq.cli import main
from video_vq.errors import InputError
from video_vq.media.decode import FrameStream
from video_vq.media.encode import write_video
from video_vq.media.probe import probe
from video_vq.media.reading import Reading
from video_vq.media.resize import resize
from video_vq.media.sources import probe_video
from video_vq.models.prior import Prior
from video_vq.models.prior_config import NO_CLASS
from video_vq.models.sampling import sample_tokens
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.stages.continue_file import ContinueRequest, continued, last_frames
from video_vq.stages.decode_tokens import decode_grids
from video_vq.stages.given_frames import given_tokens
from video_vq.stores.clips import ClipStore

FRAMES = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    make_clip_store(folder / "clips", num_frames=FRAMES)
    causal = SMALL_TOKENIZER.replace("num_frames: 4", f"num_frames: {FRAMES}").replace(
        "channels: 8", "causal: true, channels: 8"
    )
    train(folder, folder / "clips", causal)
    return folder


def train(folder, clips, tokenizer: str) -> None:
    """Train a tokenizer `t` and a prior `p` in the folder."""
    (folder / "t.yaml").write_text(tokenizer)
    (folder / "p.yaml").write_text(SMALL_PRIOR)
    t, p, tokens = folder / "t", folder / "p", folder / "tokens"
    run("train-tokenizer", "--config", folder / "t.yaml", "--data", clips, "--out", t)
    run("encode", clips, "--tokenizer", t, "--out", tokens)
    run("train-prior", "--config", folder / "p.yaml", "--tokens", tokens, "--out", p)


def run(*arguments, expect: int = 0) -> None:
    assert main([str(argument) for argument in arguments]) == expect


def sample(made, out, *more, expect: int = 0) -> None:
    run(
        *("sample", "--prior", made / "p", "--tokenizer", made / "t", "--out", out),
        *("--given", made / "clips", *more),
        expect=expect,
    )


def test_a_sample_begins_with_the_given_frame_or_its_reconstruction(made, tmp_path):
    sample(made, tmp_path / "true", "--samples-per-clip", "2", "--batch-size", "4")
    as_codes = ("--given-as", "reconstruction")
    sample(made, tmp_path / "codes", "--samples-per-clip", "2", "--batch-size", "4", *as_codes)
    real, tokenizer = ClipStore(made / "clips"), VideoTokenizer.from_pretrained(made / "t")
    test = [place for place, video in enumerate(real.videos) if video.split == "test"]
    true, codes = ClipStore(tmp_path / "true"), ClipStore(tmp_path / "codes")
    assert len(true.videos) == len(codes.videos) == 2 * len(test)
    for number, video in enumerate(true.videos):
        given = real.videos[test[number // 2]]
        assert video.origin is not None
        assert (video.origin["given"], video.group, video.label) == (
            given.id,
            given.group,
            given.label,
        )
        clip = real.read(test[number // 2])
        assert np.array_equal(true.read(number)[0], clip[0])
        still = torch.from_numpy(clip[:1].repeat(FRAMES, axis=0))[None]
        expected = to_uint8(tokenizer.reconstruct(still))[0, 0].numpy().astype(int)
        assert np.abs(codes.read(number)[0].astype(int) - expected).max() <= 1
        assert np.array_equal(codes.read(number)[1:], true.read(number)[1:])
    pairs = range(0, len(true.videos), 2)
    assert any(not np.array_equal(true.read(n), true.read(n + 1)) for n in pairs)
    plan = true.plan
    assert (plan["given_frames"], plan["given_shown"], plan["given_data"]) == (
        1,
        "true",
        real.content_hash,
    )


def test_what_follows_does_not_hang_on_the_frames_that_follow_in_the_given_video(made, tmp_path):
    """Videos with equal first frames but different later frames lead to equal samples."""
    from video_vq.stores.clips import ClipStoreWriter, PreparedVideo

    real = ClipStore(made / "clips")
    writer = ClipStoreWriter(tmp_path / "other", (16, 16), {"kind": "changed"})

    def videos():
        for place, video in enumerate(real.videos):
            frames = real.read(place).copy()
            frames[1:] = 255 - frames[1:]
            yield PreparedVideo(video, [frames], {})

    writer.write_shard(0, videos())
    writer.finish(1, real.classes)
    sample(made, tmp_path / "a", "--batch-size", "4")
    run(
        *("sample", "--prior", made / "p", "--tokenizer", made / "t", "--out", tmp_path / "b"),
        *("--given", tmp_path / "other", "--batch-size", "4"),
    )
    a, b = ClipStore(tmp_path / "a"), ClipStore(tmp_path / "b")
    assert all(np.array_equal(a.read(n), b.read(n)) for n in range(len(a.videos)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--num", "99"), "there are 6 given clips, 6 videos x 1; raise --samples-per-clip"),
        (
            ("--given-frames", "2"),
            "--given-frames 2: expected 1 + a multiple of 2, the tokenizer's stride",
        ),
        (("--given-frames", "5"), "at most 3: its clips have 5 frames in all"),
        (("--given-split", "nowhere"), "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(made, tmp_path, capsys, more, message):
    sample(made, tmp_path / "out", *more, expect=1)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_sees_the_future_cannot_be_given_frames(
    made, clip_store, tmp_path, capsys
):
    train(tmp_path, clip_store, SMALL_TOKENIZER)
    capsys.readouterr()
    run(
        *("sample", "--prior", tmp_path / "p", "--tokenizer", tmp_path / "t"),
        *("--out", tmp_path / "out", "--given", clip_store),
        expect=1,
    )
    assert "this tokenizer is not causal" in capsys.readouterr().err


def write_file(path, frames: np.ndarray, fps: float = 10.0):
    write_video(path, frames, fps, quality=0)
    return path


def frames_of(path) -> np.ndarray:
    return np.stack(list(FrameStream(probe(path))))


def continue_(made, video, out, *more, expect: int = 0) -> None:
    run(
        *("continue", video, "--prior", made / "p", "--tokenizer", made / "t", "--out", out, *more),
        expect=expect,
    )


def test_a_users_video_of_any_size_and_rate_is_continued_from_its_end(made, tmp_path, capsys):
    random = np.random.default_rng(0)
    colours = random.integers(40, 220, (24, 1, 1, 3)).astype(np.uint8)
    frames = np.broadcast_to(colours, (24, 36, 48, 3)).copy()
    video = write_file(tmp_path / "in.mp4", frames, fps=20)  # the prior's clips have 10
    continue_(made, video, tmp_path / "new" / "out.mp4", "--given-frames", "3")
    found = frames_of(tmp_path / "new" / "out.mp4").astype(int)
    assert found.shape == (FRAMES, 18, 16, 3)
    given, bar = found[:, 2:], found[:, :2]
    expected = frames_of(video)[[18, 20, 22], :1, :1]
    assert np.abs(given[:3] - expected).max() <= 12  # through two lossy codecs
    assert bar[:3].max() < 40
    assert (bar[3:, ..., 0] > 120).all()
    assert "the last 3 frames" in capsys.readouterr().out
    assert probe(tmp_path / "new" / "out.mp4").fps == 10


def test_the_frames_of_an_array_are_continued_at_the_priors_rate(made, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (24, 36, 48, 3), np.uint8)
    np.save(tmp_path / "in.npy", frames)
    request = ContinueRequest(given_frames=3, reading=Reading(fps=20.0))
    prior, tokenizer = Prior.from_pretrained(made / "p"), VideoTokenizer.from_pretrained(made / "t")
    _, moments = continued(Accelerator(), prior, tokenizer, tmp_path / "in.npy", request)
    given = np.stack([moment[0] for moment in moments])[:3]
    size_hw = given.shape[1:3]
    assert np.array_equal(given, resize(frames[[18, 20, 22]], size_hw))
    with pytest.raises(InputError, match="give its rate with --source-fps"):
        last_frames(probe_video(tmp_path / "in.npy"), 3, 10.0, size_hw)


def test_a_continuation_is_the_sample_that_the_same_frames_in_a_store_give(made, tmp_path):
    tokenizer, accelerator = VideoTokenizer.from_pretrained(made / "t"), Accelerator()
    clip = ClipStore(made / "clips").read(0)
    video = write_file(tmp_path / "in.mp4", clip)
    request = ContinueRequest(given_frames=3, num=2, seed=5)
    prior = Prior.from_pretrained(made / "p")
    told, moments = continued(accelerator, prior, tokenizer, video, request)
    clips = np.stack(list(moments), axis=1)
    assert (told.num_given, told.num_made) == (3, FRAMES - 3)
    frames = frames_of(video)[-3:]
    assert np.array_equal(clips[:, :3], np.stack([frames, frames]))
    given = given_tokens(accelerator, tokenizer, frames[None], 1).expand(2, -1)
    labels = torch.full((2,), NO_CLASS)
    grids = sample_tokens(prior, [5, 6], labels, given, batch_size=2)
    expected = decode_grids(accelerator, tokenizer, grids, 2)
    assert np.array_equal(clips[:, 3:], expected[:, 3:])
    assert not np.array_equal(clips[0], clips[1])


def test_a_video_that_cannot_be_continued_is_refused(made, tmp_path, capsys):
    video = write_file(tmp_path / "in.mp4", np.zeros((2, 16, 16, 3), np.uint8))

    def refused(message: str, *more, of=video, expect: int = 1) -> None:
        capsys.readouterr()
        continue_(made, of, tmp_path / "out.mp4", *more, expect=expect)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out.mp4").exists()

    refused(
        "has 2 frames at 10 frames per second, the prior's rate; 3 are needed",
        "--given-frames",
        "3",
    )
    refused("--given-frames 2: expected 1 + a multiple of 2", "--given-frames", "2")
    refused("at most 3: its clips have 5 frames in all", "--given-frames", "7")
    refused(
        "--class 'up': is not one of the prior's 2 classes; they are left, right", "--class", "up"
    )
    refused("did you mean 'left'?", "--class", "lift")
    refused("this prior was trained without actions", "--actions", "x.csv")
    refused("none.mp4", of=tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    refused("text.mp4", of=tmp_path / "text.mp4")
    capsys.readouterr()
    prior = Prior.from_pretrained(made / "p")
    sizes = replace(prior.config.transformer, condition_dropout=0.0)
    steered = Prior(replace(prior.config, transformer=sizes))
    steered.facts = prior.facts
    steered.save_pretrained(tmp_path / "steered")
    # Of an option given twice the last counts.
    refused(
        "this prior needs a class: name one with --class (left, right)",
        *("--prior", tmp_path / "steered"),
    )
    capsys.readouterr()
    continue_(made, video, tmp_path / "out.gif", expect=1)
    before = video.read_bytes()
    continue_(made, video, video, expect=1)
    assert video.read_bytes() == before
    said = capsys.readouterr().err
    assert "a video ends in .mp4" in said
    assert "in.mp4: is the video itself; name another place" in said
