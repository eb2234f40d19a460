"""Tests that `video-vq info` recognizes all files of video-vq quickly and trusts none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import make_clip_store
from safetensors.torch import save_file
from trained import scores_of, trained_prior, trained_tokenizer

from video_vq.cli import main
from video_vq.errors import InputError
from video_vq.inspect.describe import describe
from video_vq.media.encode import write_video
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import sha256_json
from video_vq.stores.shards import HASH
from video_vq.stores.tokens import TokenHeader, TokenStoreWriter
from video_vq.training.run_folder import RunFolder

CONFIG = {"optim": {"steps": 20}}


def token_writer(path: Path, store: ClipStore) -> TokenStoreWriter:
    header = TokenHeader(
        "0" * 64, 32, (2, 4, 4), 4, (16, 16), 10.0, store.classes, store.content_hash, {"hop": 4}
    )
    writer = TokenStoreWriter(path, header)
    grids = np.arange(6 * 32).reshape(6, 2, 4, 4) % 32
    writer.write_shard(0, grids, np.array([(video, 0, 1) for video in range(6)]))
    return writer


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Return a folder with stores, a model, unfinished and finished runs, and scores."""
    root = tmp_path_factory.mktemp("written")
    store = make_clip_store(root / "clips")
    token_writer(root / "tokens", store).finish(1, store.videos)
    token_writer(root / "begun", store)
    trained_prior().save_pretrained(root / "prior")
    facts = {"data": store.content_hash, "precision": "no", "world_size": 1, "threads": 1}
    run = RunFolder(root / "run", "tokenizer", CONFIG, facts, is_main=True)
    run.log(10, {"loss/all": 0.5})
    tensors = {"model": {"a": torch.zeros(2, 3)}, "averages": {"a": torch.zeros(2, 3)}}
    state = {"step": 10, "skipped_steps": 1, "best": [-27.5, 5]}
    run.checkpoints.save(10, tensors, state)
    shutil.copytree(root / "run", root / "done")
    model_hash = trained_tokenizer().save_pretrained(root / "done" / "tokenizer")
    (root / "scores").mkdir()
    (root / "scores" / "scores.json").write_text(json.dumps(scores_of(model_hash)))
    return root


def test_what_lies_beside_a_file_of_tensors_is_not_read(tmp_path):
    save_file({"w": torch.zeros(2, 3)}, tmp_path / "weights.safetensors")
    np.save(tmp_path / "videos.npy", np.zeros((2, 3, 4, 4, 3), np.float32))
    found = describe(tmp_path / "weights.safetensors")
    assert found.what == "tensors"
    assert "in" not in found.facts
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(InputError, match=r"notes\.json: was not written by video-vq"):
        describe(tmp_path / "notes.json")


def test_upper_case_suffixes_name_the_same_kinds(tmp_path):
    videos = np.zeros((2, 3, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", videos)
    np.savez(tmp_path / "b.npz", videos=videos)
    save_file({"w": torch.zeros(2, 3)}, tmp_path / "c.safetensors")
    for path in list(tmp_path.iterdir()):
        expected = describe(path).what
        path = path.rename(path.with_suffix(path.suffix.upper()))
        assert describe(path).what == expected


CHECKPOINT = "run/state/step_0000010"


@pytest.mark.parametrize(
    ("name", "what", "expected"),
    [
        ("clips", "a finished clip store", ["of 16 x 16", "train ", "left, right"]),
        ("tokens", "a finished token store", ["2 x 4 x 4 of 32", "4 frames of 16 x 16 at 10 fps"]),
        ("begun", "an unfinished token store", ["shards done  1", "clips done   6", "again"]),
        ("prior", "a prior", ["width 32, depth 1, 2 heads", "left, right", "6 steps"]),
        ("done/tokenizer", "a tokenizer", ["2 x 4 x 4 of 32", "160 bits per clip, 153.6 times"]),
        ("run", "the run folder of a tokenizer", ["at step 10 of 20", "not yet", "world_size 1"]),
        ("done", "the run folder of a tokenizer", ["finished: step 20 of 20"]),
        (
            "run/state",
            "the checkpoints of a run",
            ["PSNR 27.5 dB at step 5", "1 of 6 numbers (F32)"],
        ),
        (CHECKPOINT, "a checkpoint to resume from", ["PSNR 27.5 dB at step 5", "3, together"]),
        ("scores", "an evaluation", ["256 clips of split test", "27.250 dB", "12.125 at N = 128"]),
        ("clips/manifest.json", "a file of a finished clip store", ["of 16 x 16"]),
        ("clips/frames-00000.npy", "an array", ["uint8", "in     a finished clip"]),
        ("begun/parts/shard-00000.json", "a file of an unfinished token store", ["again"]),
        ("run/metrics.jsonl", "a file of the run folder of a tokenizer", ["at step 10 of 20"]),
        (f"{CHECKPOINT}/averages.safetensors", "tensors", ["1 of 6 numbers", "a checkpoint"]),
        (f"{CHECKPOINT}/state.json", "a file of a checkpoint to resume from", ["steps skipped"]),
        ("scores/scores.json", "a file of an evaluation", ["styleganv"]),
    ],
)
def test_each_thing_is_named_in_at_most_ten_lines(written, name, what, expected, capsys):
    assert main(["info", str(written / name)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{written / name}: {what}\n")
    for part in expected:
        assert part in out, part
    assert len(out.splitlines()) <= 10
    assert max(map(len, out.splitlines())) <= 160
    assert main(["info", "--json", str(written / name)]) == 0
    assert json.loads(capsys.readouterr().out)["what"] == what


def test_other_things_are_refused_with_a_list_of_what_is_known(written, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"format": "cookies"}')
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "config.json", other):
        assert main(["info", str(path)]) == 1
        error = capsys.readouterr().err
        assert "was not written by video-vq; `video-vq info` knows a clip store" in error
        assert len(error.replace(str(path), "").split()) < 40
    assert main(["info", str(tmp_path / "none")]) == 1
    assert "no such file or folder; `video-vq info` knows" in capsys.readouterr().err
    # A folder that holds such things is described by them.
    assert main(["info", str(written)]) == 0
    told = capsys.readouterr().out
    assert "a folder that holds" in told
    assert "a finished clip store" in told
    assert len(told.splitlines()) <= 10


@pytest.mark.parametrize(
    ("name", "fps", "codec"),
    [
        ("a.mp4", 24, "h264, in mov,mp4,m4a,3gp,3g2,mj2"),
        ("b.avi", 10, "mpeg4, in avi"),
        ("c.webm", 30000 / 1001, "vp9, in matroska,webm"),
        ("D.MKV", 12.5, "h264, in matroska,webm"),
    ],
)
def test_a_video_file_is_told_by_size_rate_length_and_codec(tmp_path, capsys, name, fps, codec):
    write_video(tmp_path / name, np.zeros((9, 32, 48, 3), np.uint8), fps)
    assert main(["info", str(tmp_path / name)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == f"{tmp_path / name}: a video"
    told = dict(row.split(maxsplit=1) for row in rows)
    assert told["frames"] == "9 of 32 x 48"
    assert float(told["fps"]) == pytest.approx(fps, abs=1e-3)
    assert told["length"] == f"{9 / fps:.2f} seconds"
    assert told["codec"] == codec
    assert told["size"] == f"{(tmp_path / name).stat().st_size / 1e6:.2f} MB"
    assert main(["info", "--json", str(tmp_path / name)]) == 0
    assert json.loads(capsys.readouterr().out)["codec"] == codec


def test_a_folder_of_videos_is_told_and_what_makes_a_store_of_it(tmp_path, capsys):
    for name in ("left/a.mp4", "right/b.mp4"):
        (tmp_path / name).parent.mkdir()
        write_video(tmp_path / name, np.zeros((2, 16, 16, 3), np.uint8), 10)
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}: a folder of videos\n  videos    2, together 0.0 MB\n")
    assert "classes   left, right" in out
    assert f"next      data-prep folder {tmp_path} --out clips" in out


def test_why_a_folder_of_videos_cannot_be_described_is_said(tmp_path, capsys, monkeypatch):
    linked, locked = tmp_path / "linked", tmp_path / "locked"
    (locked / "inside").mkdir(parents=True)
    linked.mkdir()
    (tmp_path / "outside.mp4").write_bytes(b"")
    (linked / "a.mp4").symlink_to(tmp_path / "outside.mp4")
    assert main(["info", str(linked)]) == 1
    assert "the first: a.mp4: a link that leads out of the folder" in capsys.readouterr().err
    usual = os.scandir

    def refuse(path):  # as without the right to list, which root always has
        if Path(path).name == "inside":
            raise PermissionError(13, "Permission denied", path)
        return usual(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["info", str(locked)]) == 1
    assert "inside: cannot be listed (Permission denied)" in capsys.readouterr().err


def test_a_file_that_only_is_named_like_a_video_is_said_to_be_none(tmp_path, capsys):
    (tmp_path / "a.mp4").write_text("hello")
    assert main(["info", str(tmp_path / "a.mp4")]) == 1
    assert "is not a video file that FFmpeg understands" in capsys.readouterr().err


JSON_FILES = (
    "clips/manifest.json",
    "tokens/manifest.json",
    "begun/parts/plan.json",
    "begun/parts/shard-00000.json",
    "prior/config.json",
    "run/run.json",
    "run/metrics.jsonl",
    f"{CHECKPOINT}/manifest.json",
    f"{CHECKPOINT}/state.json",
    "scores/scores.json",
)
WRONG = (None, -1, 1e400, "x\x1b[2J", [[]], {"a": None}, "9" * 5000)


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_value_of_a_wrong_type_is_a_message_and_never_a_traceback(written, tmp_path, name):
    folder = written / name.split("/")[0]
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    file = tmp_path / name
    whole = json.loads(file.read_text().splitlines()[0]) if name.endswith("l") else None
    whole = whole or json.loads(file.read_text())
    outcomes = []
    for place in _places(whole):
        for wrong in WRONG:
            file.write_text(json.dumps(_sealed(_replaced(whole, place, wrong))) + "\n")
            outcomes.append(_outcome(file.parent, file))
    for text in ("", "{", "[1]", "nul", "[" * 100_000, '{"a": ' * 100_000, "\ud800"):
        file.write_text(text + "\n", errors="surrogatepass")
        outcomes.append(_outcome(file.parent, file))
    assert any(isinstance(outcome, InputError) for outcome in outcomes)


def _places(value: dict) -> list[tuple]:
    """Return the key paths of all values on the first two levels."""
    outer = [(key,) for key in value]
    return outer + [
        (key, inner) for key in value if isinstance(value[key], dict) for inner in value[key]
    ]


def _replaced(value: dict, place: tuple, wrong: object) -> dict:
    key, *rest = place
    return {**value, key: _replaced(value[key], tuple(rest), wrong) if rest else wrong}


def _sealed(value: dict) -> dict:
    """Return a manifest with the right hash, so that its values are checked."""
    rest = {key: inner for key, inner in value.items() if key != HASH}
    if HASH not in value or "Infinity" in json.dumps(rest):
        return value
    return {**rest, HASH: sha256_json(rest)}


def _outcome(*paths: Path) -> InputError | None:
    error = None
    for path in paths:
        try:
            found = describe(path)
        except InputError as problem:
            error = problem
            continue
        assert all(line.isprintable() for line in found.lines())
        assert len(found.lines()) <= 10
        json.dumps(found.to_json())
    return error


def test_damaged_arrays_and_tensors_are_named(written, tmp_path):
    for name, data in (
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'"),
        ("b.npy", b"not an array"),
        ("c.safetensors", b"\xff" * 16),
        ("d.safetensors", (30).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":1}'),
        ("e.safetensors", (written / CHECKPOINT / "model.safetensors").read_bytes()[:-1]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            describe(tmp_path / name)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_arrays_that_are_no_videos_are_told_by_shape_and_type(tmp_path, dtype):
    np.save(tmp_path / "tokens.npy", np.ones((2, 3, 5, 5), dtype))
    found = describe(tmp_path / "tokens.npy")
    assert found.what == "an array"
    assert found.facts["shape"] == "2 x 3 x 5 x 5"
    assert found.facts["dtype"] == np.dtype(dtype).name


def test_a_missing_shard_shows(written, tmp_path):
    shutil.copytree(written / "clips", tmp_path / "clips")
    (tmp_path / "clips" / "frames-00000.npy").unlink()
    assert "1 MISSING" in str(describe(tmp_path / "clips").facts["files"])


def test_it_needs_no_torch(written):
    code = (
        "import sys\n"
        "from video_vq.cli import main\n"
        "assert not any(main(['info', path]) for path in sys.argv[1:])\n"
        "assert not {'torch', 'av', 'accelerate'} & set(sys.modules)\n"
    )
    paths = [str(written / name) for name in ("clips", "done", "done/tokenizer", "scores")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, capture_output=True)
