"""Tests of actions in token stores, training and sampling."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runs import SMALL_PRIOR
from trained import trained_tokenizer

from video_vq.cli import main
from video_vq.data.loader import read_grids
from video_vq.evaluation.likelihood import score_prior
from video_vq.models.prior import Prior, token_nats
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter

FRAMES, STRIDES_T = 6, 2  # the tokenizer's clips have 4 frames, its latent frames 2
DIMS = STRIDES_T * 2


def make_robot_store(path, seed: int = 0) -> ClipStore:
    """Write a clip store of squares that are moved by the actions; return the store."""
    writer = ClipStoreWriter(path, (16, 16), {"kind": "robot"}, {"actions": (2,)})

    def videos():
        for number in range(18):
            random = np.random.default_rng([seed, number])
            actions = random.choice([-3.0, 0.0, 3.0], (FRAMES, 2)).astype(np.float32)
            places = 6 + np.cumsum(actions, 0) - actions
            frames = np.zeros((FRAMES, 16, 16, 3), np.uint8)
            for t, (row, column) in enumerate(places.astype(int) % 12):
                frames[t, row : row + 4, column : column + 4] = 200
            split = ("train", "val", "test")[number % 3]
            video = Video(f"v{number:02d}", None, split, f"g{number:02d}", fps=5.0)
            yield PreparedVideo(video, [frames], {"actions": actions})

    writer.write_shard(0, videos())
    return writer.finish(1, [])


def run(*arguments, expect: int = 0) -> None:
    assert main([str(argument) for argument in arguments]) == expect


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("actions")
    clips = make_robot_store(folder / "clips")
    tokenizer = trained_tokenizer()
    tokenizer.save_pretrained(folder / "t")
    (folder / "p.yaml").write_text(SMALL_PRIOR)
    run("encode", clips.path, "--tokenizer", folder / "t", "--out", folder / "tokens", "--hop", 1)
    run(
        *("train-prior", "--config", folder / "p.yaml", "--tokens", folder / "tokens"),
        *("--out", folder / "p", "--tracker", "none", "optim.steps=20"),
        *("optim.lr=0.01", "run.average_decay=0.5"),
    )
    return folder


def sample(made, out, *more, expect: int = 0) -> None:
    run(
        *("sample", "--prior", made / "p", "--tokenizer", made / "t", "--out", out),
        *("--batch-size", 4, *more),
        expect=expect,
    )


def grids(path) -> list[np.ndarray]:
    store = ClipStore(path)
    return [store.read(place) for place in range(len(store.videos))]


def test_a_token_store_holds_what_is_done_on_the_way_to_each_latent_frame(made):
    clips, tokens = ClipStore(made / "clips"), TokenStore(made / "tokens")
    assert tokens.header.num_action_dims == DIMS
    seen = set()
    for row in range(len(tokens)):
        video, start, stride = tokens.window_of(row)
        actions = clips.read_array("actions", video, start, 3, stride)
        found = tokens.read_actions(row)
        assert found is not None
        assert found.tolist() == [[0, 0, *actions[0]], [*actions[1], *actions[2]]]
        seen.add(start)
    assert seen == {0, 1, 2}


def test_the_prior_takes_them_standardised_by_the_training_actions(made):
    prior, tokens = Prior.from_pretrained(made / "p"), TokenStore(made / "tokens")
    assert prior.config.num_action_dims == DIMS
    train = read_grids(tokens, tokens.rows("train").tolist()).actions
    assert train is not None
    train = train.numpy()
    assert prior.action_mean.numpy() == pytest.approx(train[:, 1].mean(0), abs=1e-5)
    assert prior.action_std.numpy() == pytest.approx(train[:, 1].std(0), rel=1e-5)


def test_the_rate_is_that_of_the_clips_with_their_own_actions(made):
    prior, tokens = Prior.from_pretrained(made / "p"), TokenStore(made / "tokens")
    scores = score_prior(Accelerator(), prior, tokens, "test")
    rows = tokens.rows("test").tolist()
    flat, _, actions = read_grids(tokens, rows).flat(torch.device("cpu"))
    with torch.no_grad():
        logits = prior(flat, None, actions)
    expected = -logits.log_softmax(-1).gather(-1, flat[..., None]).squeeze(-1) / np.log(2)
    assert scores["bits_per_token"] == pytest.approx(expected.mean().item(), rel=1e-5)
    curve = expected.view(len(rows), 2, -1).mean((0, 2)).tolist()
    assert scores["bits_per_token_by_latent_frame"] == pytest.approx(curve, rel=1e-5)
    for name, value in scores["predictors"].items():
        assert scores["gain"][name] == pytest.approx(value - scores["bits_per_token"])
        assert np.mean(scores["predictors_by_latent_frame"][name]) == pytest.approx(value)


def test_a_prior_learns_what_actions_do(tmp_path):
    """If the actions determine the last latent frame, its tokens cost almost no bits."""
    header = TokenHeader("0" * 64, 8, (2, 2, 2), 4, (16, 16), 5.0, (), None, {}, num_action_dims=1)
    random = np.random.default_rng(0)
    grids, done = random.integers(8, size=(600, 2, 2, 2)), random.integers(8, size=600)
    grids[:, 1] = done[:, None, None]
    actions = np.stack([np.zeros(600), done - 3.5], axis=1)[..., None]
    writer = TokenStoreWriter(tmp_path / "tokens", header)
    writer.write_shard(0, grids, np.stack([np.arange(600), *np.zeros((2, 600), int)], 1), actions)
    videos = [Video(f"{i}", None, ("train", "val")[i >= 500], f"{i}") for i in range(600)]
    tokens = writer.finish(1, videos)
    (tmp_path / "p.yaml").write_text(SMALL_PRIOR)
    run(
        *("train-prior", "--config", tmp_path / "p.yaml", "--tokens", tokens.path),
        *("--out", tmp_path / "p", "--tracker", "none", "optim.steps=100", "optim.batch_size=32"),
        *("optim.lr=0.01", "model.dropout=0", "run.average_decay=0.9", "run.validate_every=100"),
    )
    prior = Prior.from_pretrained(tmp_path / "p")
    first, last = score_prior(Accelerator(), prior, tokens, "val")["bits_per_token_by_latent_frame"]
    assert first == pytest.approx(3, abs=0.15)  # log2 8: uniformly random
    assert last < 0.2
    # With another clip's actions, the first token of the last frame is a surprise.
    batch = read_grids(tokens, tokens.rows("val").tolist()).flat(torch.device("cpu"))
    assert batch.actions is not None
    with torch.no_grad():
        logits = prior(batch.tokens, None, batch.actions.roll(1, 0))
    assert token_nats(logits, batch.tokens)[:, 4].mean() > 3


def test_samples_follow_the_actions_of_a_store_or_of_a_file(made, tmp_path):
    sample(made, tmp_path / "store", "--actions", made / "clips")
    found = ClipStore(tmp_path / "store")
    clips = ClipStore(made / "clips")
    test = [video.id for video in clips.videos if video.split == "test"]
    assert [(video.origin or {})["actions"] for video in found.videos] == test
    # The same numbers in a file: the same clips; others: other clips.
    rows = np.stack([clips.read_array("actions", clips.indices("test")[i], 0, 3) for i in range(6)])
    np.save(tmp_path / "rows.npy", rows)
    sample(made, tmp_path / "file", "--actions", tmp_path / "rows.npy")
    for one, other in zip(grids(tmp_path / "store"), grids(tmp_path / "file"), strict=True):
        assert np.array_equal(one, other)
    np.savetxt(tmp_path / "one.csv", rows[0], delimiter=",")
    sample(made, tmp_path / "csv", "--actions", tmp_path / "one.csv", "--num", 3)
    first, second, _ = grids(tmp_path / "csv")
    assert np.array_equal(first, grids(tmp_path / "store")[0])
    assert not np.array_equal(second, grids(tmp_path / "store")[1])


def test_two_ranks_sample_what_one_samples(made, tmp_path, preloaded):
    arguments = ["--tokenizer", made / "t", "--actions", made / "clips", "--samples-per-clip", "2"]
    common = ["sample", "--prior", made / "p", *arguments, "--batch-size", "4", "--out"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(*common, tmp_path / "one")
    torch.set_num_threads(threads)
    preloaded.ranks(2, "video-vq", *common, tmp_path / "two")
    one, two = (
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")
    )
    assert one == two
    assert one["plan"]["threads"] == 1
    assert one["plan"]["dtype"] == "float32"
    assert len(one["videos"]) == 12


def test_guidance_needs_them_and_without_any_condition_none_are_needed(made, tmp_path):
    sample(made, tmp_path / "guided", "--actions", made / "clips", "--guidance", 2)
    sample(made, tmp_path / "none", "--guidance", 0, "--num", 2)
    assert len(ClipStore(tmp_path / "none").videos) == 2


def write(path, values) -> str:
    np.save(path, values)
    return str(path)


def test_what_does_not_fit_is_refused(made, tmp_path, capsys):
    def refused(message: str, *more) -> None:
        capsys.readouterr()
        sample(made, tmp_path / "out", *more, expect=1)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    refused("this prior needs actions: name them with --actions")
    short = write(tmp_path / "short.npy", np.zeros((2, 2)))
    refused("holds 2 rows of actions, 3 lead from the first frame", "--actions", short)
    wide = write(tmp_path / "wide.npy", np.zeros((3, 3)))
    refused("holds 3 numbers of actions per frame, the prior was trained with 2", "--actions", wide)
    spoilt = write(tmp_path / "spoilt.npy", np.full((3, 2), np.inf))
    refused("holds a number that is not finite", "--actions", spoilt)
    text = write(tmp_path / "text.npy", np.array([["a"]]))
    refused("expected numbers of shape", "--actions", text)
    objects = write(tmp_path / "objects.npy", np.array([[{}]]))
    refused("actions cannot be read", "--actions", objects)
    flat = write(tmp_path / "flat.npy", np.zeros(4))
    refused("of shape (4,)", "--actions", flat)
    refused("actions cannot be read", "--actions", tmp_path / "none.csv")
    write(tmp_path / "a.npy", np.zeros((3, 2)))
    (tmp_path / "a.npy").rename(tmp_path / "a.txt")
    refused("expected a name ending in .npy or .csv", "--actions", tmp_path / "a.txt")
    refused("--num 7: there are 6 sequences of actions", "--actions", made / "clips", "--num", 7)
    refused("no video in split 'nowhere'", "--actions", made / "clips", "--given-split", "nowhere")


def test_actions_for_a_prior_without_any_are_refused(made, clip_store, tmp_path, capsys):
    run("encode", clip_store, "--tokenizer", made / "t", "--out", tmp_path / "tokens")
    run(
        *("train-prior", "--config", made / "p.yaml", "--tokens", tmp_path / "tokens"),
        *("--out", tmp_path / "p", "--tracker", "none", "optim.steps=1"),
    )
    capsys.readouterr()
    run(
        *("sample", "--prior", tmp_path / "p", "--tokenizer", made / "t", "--out", tmp_path / "s"),
        *("--actions", made / "clips"),
        expect=1,
    )
    assert "this prior was trained without actions" in capsys.readouterr().err
