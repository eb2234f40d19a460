"""Tests from a robot's records to samples that follow actions, for BAIR's TFRecords and LeRobot."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from robot_sets import FPS, write_robot_set
from runs import SMALL_PRIOR, SMALL_TOKENIZER

from data_prep.cli import main as prepare
from data_prep.tfrecord import encode_example, write_records
from video_vq.cli import main
from video_vq.data.loader import read_grids
from video_vq.evaluation.likelihood import score_prior
from video_vq.media.encode import write_video
from video_vq.models.prior import Prior
from video_vq.models.prior_config import SamplingSettings
from video_vq.models.sampling import sample_tokens
from video_vq.stages.continue_file import ContinueRequest, continued
from video_vq.stages.model_pair import load_pair
from video_vq.stores.clips import ClipStore, Video
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter

CLIP, SIZE = 5, 16  # frames, pixels
CAUSAL = SMALL_TOKENIZER.replace("num_frames: 4", f"num_frames: {CLIP}").replace(
    "backbone: {", "backbone: {causal: true, "
)


class Made(NamedTuple):
    """Paths of a user's stores and models after the last training, and the recorded actions."""

    clips: Path
    tokens: Path
    tokenizer: Path
    prior: Path
    recorded: dict[str, np.ndarray]


def run(*arguments, expect: int = 0) -> None:
    assert main([str(argument) for argument in arguments]) == expect


def write_bair(root: Path) -> dict[str, np.ndarray]:
    """Write records in BAIR's schema, in which actions move a square; return them by video."""
    recorded = {}
    for side, count in (("train", 14), ("test", 4)):
        records = []
        for number in range(count):
            random = np.random.default_rng([len(side), number])
            actions = np.zeros((9, 4), np.float32)
            actions[:, :2] = random.choice([-2.0, 0.0, 2.0], (9, 2))
            places = (6 + np.cumsum(actions, 0) - actions).astype(int) % 12
            example = {}
            for t, (row, column) in enumerate(places[:, :2]):
                frame = np.zeros((SIZE, SIZE, 3), np.uint8)
                frame[row : row + 4, column : column + 4] = 220
                for camera in ("main", "aux1"):
                    example[f"{t}/image_{camera}/encoded"] = [frame.tobytes()]
                example[f"{t}/action"] = actions[t]
                example[f"{t}/endeffector_pos"] = np.zeros(3, np.float32)
            records.append(encode_example(example))
            recorded[f"{side}/traj_0_to_{count - 1}/{number:04d}"] = actions
        folder = root / "softmotion30_44k" / side
        folder.mkdir(parents=True)
        write_records(folder / f"traj_0_to_{count - 1}.tfrecords", records)
    return recorded


def prepared(source: str, folder: Path) -> dict[str, np.ndarray]:
    """Prepare a clip store from BAIR or LeRobot data; return the recorded actions by video."""
    common = ["--out", str(folder / "clips"), "--workers", "1"]
    if source == "bair":
        recorded = write_bair(folder / "raw")
        assert prepare(["bair", str(folder / "raw"), "--val", "0.3", *common]) == 0
        return recorded
    made = write_robot_set(folder / "raw", tuple(7 + n % 5 for n in range(18)), tasks=("push",))
    camera = ["--camera", "top", "--size", str(SIZE)]
    assert prepare(["lerobot", str(made.root), *camera, *common]) == 0
    return {f"episode_{n:06d}": actions for n, actions in enumerate(made.actions)}


@pytest.fixture(scope="module", params=["bair", "lerobot"])
def made(request, tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    recorded = prepared(request.param, folder)
    (folder / "t.yaml").write_text(CAUSAL)
    (folder / "p.yaml").write_text(SMALL_PRIOR)
    found = Made(folder / "clips", folder / "tokens", folder / "t", folder / "p", recorded)
    run(
        *("train-tokenizer", "--config", folder / "t.yaml", "--data", found.clips),
        *("--out", found.tokenizer, "--tracker", "none"),
    )
    run(
        *("encode", found.clips, "--tokenizer", found.tokenizer),
        *("--out", found.tokens, "--hop", 1),
    )
    run(
        *("train-prior", "--config", folder / "p.yaml", "--tokens", found.tokens),
        *("--out", found.prior, "--tracker", "none", "optim.steps=30", "optim.lr=0.01"),
        "run.average_decay=0.5",
    )
    return found


def sample(made: Made, out: Path, *more, expect: int = 0) -> list[np.ndarray]:
    run(
        *("sample", "--prior", made.prior, "--tokenizer", made.tokenizer, "--out", out),
        *("--given", made.clips, "--batch-size", 4, *more),
        expect=expect,
    )
    store = ClipStore(out)
    return [store.read(place) for place in range(len(store.videos))]


def test_the_tokens_hold_the_recorded_actions(made):
    clips, tokens = ClipStore(made.clips), TokenStore(made.tokens)
    assert {video.split for video in clips.videos} == {"train", "val", "test"}
    assert {video.id for video in clips.videos} == made.recorded.keys()
    for row in range(len(tokens)):
        place, start, _ = tokens.window_of(row)
        recorded = made.recorded[clips.videos[place].id]
        found = tokens.read_actions(row)
        assert found is not None
        assert not found[0].any()  # the first latent frame is the first frame: nothing led to it
        assert np.array_equal(found[1:].reshape(CLIP - 1, -1), recorded[start : start + CLIP - 1])


def test_the_commands_say_that_there_are_actions(made, tmp_path, capsys):
    dims = 2 * next(iter(made.recorded.values())).shape[1]
    run("encode", made.clips, "--tokenizer", made.tokenizer, "--out", tmp_path / "tokens")
    expected = f"{dims} numbers of actions for each latent frame"
    assert expected in capsys.readouterr().out
    for path in (made.tokens, made.prior / "prior"):
        run("info", path)
        assert f"{dims} numbers for each latent frame" in capsys.readouterr().out


def test_samples_follow_the_given_videos_own_actions_or_others(made, tmp_path):
    clips = ClipStore(made.clips)
    own = sample(made, tmp_path / "own", "--temperature", 0.5)
    test = [clips.videos[place] for place in clips.indices("test")]
    assert len(own) == len(test) > 0
    origin = [video.origin or {} for video in ClipStore(tmp_path / "own").videos]
    assert [(one["given"], one["actions"]) for one in origin] == [(v.id, v.id) for v in test]
    for place, clip in zip(clips.indices("test"), own, strict=True):
        assert np.array_equal(clip[0], clips.read(place, 0, 1)[0])
    rows = np.stack([made.recorded[video.id][: CLIP - 1] for video in test])
    np.save(tmp_path / "same.npy", rows)
    np.save(tmp_path / "other.npy", 3 - rows)
    file = ("--temperature", 0.5, "--actions")
    same = sample(made, tmp_path / "same", *file, tmp_path / "same.npy")
    other = sample(made, tmp_path / "other", *file, tmp_path / "other.npy")
    assert all(np.array_equal(a, b) for a, b in zip(own, same, strict=True))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(own, other, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(own, other, strict=True))


def test_each_continuation_of_a_video_follows_its_own_actions(made, tmp_path):
    clips = ClipStore(made.clips)
    place = clips.indices("test")[0]
    write_video(tmp_path / "in.mp4", clips.read(place), clips.videos[place].fps or FPS)
    recorded = made.recorded[clips.videos[place].id][: CLIP - 1]
    np.savetxt(tmp_path / "one.csv", recorded, delimiter=",")
    np.save(tmp_path / "three.npy", np.stack([recorded, 3 - recorded, recorded * 0 + 2]))

    def clips_of(file: str) -> np.ndarray:
        request = ContinueRequest(given_frames=1, num=3, actions=tmp_path / file)
        models = load_pair(Accelerator(), made.prior, made.tokenizer)
        _, moments = continued(Accelerator(), *models, tmp_path / "in.mp4", request)
        return np.stack(list(moments), axis=1)

    alike, each = clips_of("one.csv"), clips_of("three.npy")
    assert np.array_equal(alike[0], each[0])
    assert np.array_equal(alike[:, 0], each[:, 0])
    assert not np.array_equal(alike[1:], each[1:])


def test_actions_that_do_not_fit_a_continuation_are_refused(made, tmp_path, capsys):
    clips = ClipStore(made.clips)
    write_video(tmp_path / "in.mp4", clips.read(0), FPS)
    dims = clips.arrays["actions"][0]
    np.save(tmp_path / "three.npy", np.zeros((3, CLIP - 1, dims)))
    np.save(tmp_path / "short.npy", np.zeros((CLIP - 2, dims)))

    def refused(*more) -> str:
        command = ("continue", tmp_path / "in.mp4", "--prior", made.prior, "--given-frames", 1)
        run(*command, "--tokenizer", made.tokenizer, "--out", tmp_path / "no.mp4", *more, expect=1)
        assert not (tmp_path / "no.mp4").exists()
        return capsys.readouterr().err

    wanted = f"{CLIP - 1} rows of {dims} numbers"
    assert f"name a .npy or .csv with --actions, {wanted}" in refused()
    assert f"expected a .npy or .csv file of {wanted}" in refused("--actions", made.clips)
    short = refused("--actions", tmp_path / "short.npy")
    assert f"holds {CLIP - 2} rows of actions" in short
    assert f"give {wanted}" in short
    for num in (2, 4):
        many = refused("--actions", tmp_path / "three.npy", "--num", num)
        assert "holds 3 sequences of actions; give --num as many" in many


PLACES, MOVES = 8, (-1, 0, 1)


def write_ring(path: Path, num_grids: int) -> TokenStore:
    """Write walks of three frames on a ring, with places as tokens and moves as actions."""
    header = TokenHeader(
        "0" * 64, PLACES, (3, 1, 2), 3, (16, 16), 5.0, (), None, {}, num_action_dims=1
    )
    random = np.random.default_rng(0)
    moves = random.choice(MOVES, (num_grids, 3))
    moves[:, 0] = 0
    places = (random.integers(PLACES, size=(num_grids, 1)) + moves.cumsum(1)) % PLACES
    grids = np.repeat(places[:, :, None, None], 2, axis=3)
    rows = np.stack([np.arange(num_grids), *np.zeros((2, num_grids), int)], axis=1)
    writer = TokenStoreWriter(path, header)
    writer.write_shard(0, grids, rows, moves[..., None])
    split = ("train", "val")
    videos = [Video(f"{n}", None, split[n % 8 == 0], f"{n}") for n in range(num_grids)]
    return writer.finish(1, videos)


def test_a_world_whose_next_frame_is_a_function_of_the_action_is_learned_exactly(tmp_path):
    """From every place, every pair of moves leads to the right frames."""
    tokens = write_ring(tmp_path / "tokens", 600)
    (tmp_path / "p.yaml").write_text(SMALL_PRIOR)
    run(
        *("train-prior", "--config", tmp_path / "p.yaml", "--tokens", tokens.path),
        *("--out", tmp_path / "p", "--tracker", "none", "optim.steps=250", "optim.batch_size=32"),
        *("optim.lr=0.01", "model.dropout=0", "model.condition_dropout=0"),
        *("run.average_decay=0.9", "run.validate_every=250", "run.checkpoint_every=250"),
    )
    prior = Prior.from_pretrained(tmp_path / "p")
    starts, first, second = (
        torch.tensor(column)
        for column in zip(
            *((p, a, b) for p in range(PLACES) for a in MOVES for b in MOVES), strict=True
        )
    )
    actions = torch.stack([torch.zeros_like(first), first, second], dim=1)[..., None].float()
    drawn = sample_tokens(
        prior,
        list(range(len(starts))),
        None,
        starts[:, None].expand(-1, 2),
        actions,
        SamplingSettings(top_k=1),
    )
    expected = torch.stack([starts, starts + first, starts + first + second], dim=1) % PLACES
    assert torch.equal(drawn, expected[..., None, None].expand(-1, -1, 1, 2))
    # The first place costs log2 of the number of places in bits, the later places cost nothing.
    scores = score_prior(Accelerator(), prior, tokens, "val")
    rate = scores["bits_per_token_by_latent_frame"]
    assert rate[0] == pytest.approx(np.log2(PLACES) / 2, abs=0.1)
    assert max(rate[1:]) < 0.1
    # Given a different move, the recorded frame has a probability of almost zero.
    batch = read_grids(tokens, tokens.rows("val").tolist()).flat(torch.device("cpu"))
    assert batch.actions is not None
    wrong = torch.where(batch.actions == 1, -1.0, batch.actions + 1)
    with torch.no_grad():
        own, other = (
            prior(batch.tokens, None, done).softmax(-1).gather(-1, batch.tokens[..., None])
            for done in (batch.actions, wrong)
        )
    assert own[:, 2].min() > 0.9
    assert other[:, 2].max() < 0.1
