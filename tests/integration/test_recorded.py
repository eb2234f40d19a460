"""Tests that a resumed command uses the recorded precision and number of threads by default."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import SMALL_TOKENIZER, AfterStep, environment

from video_vq.cli import main, training_verbs
from video_vq.cli.recorded import go_on_as_recorded
from video_vq.errors import InputError
from video_vq.machine import num_cores
from video_vq.stores.shards import ShardFolder
from video_vq.training.run_folder import refuse_changes

PRECISION, THREADS = "ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS"
FACTS = {"precision": "bf16", "threads": num_cores() + 1}
STOPPED_AFTER_A_STEP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from runs import AfterStep
from video_vq.cli import main, training_verbs
training_verbs.StopRequest = lambda: AfterStep(1)
sys.exit(main())
"""
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"),
    *("--num_machines", "1", "--dynamo_backend", "no"),
]


def run_folder(path: Path) -> None:
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"identity": FACTS}))


def folder_of_scores(path: Path) -> None:
    path.mkdir()
    (path / "scores.json").write_text(json.dumps({"identity": FACTS}))


def begun_samples(path: Path) -> None:
    ShardFolder(path, {"kind": "samples", **FACTS})


def sealed_samples(path: Path) -> None:
    ShardFolder(path, {"kind": "samples", **FACTS}).seal({"plan": FACTS})


def begun_tokens(path: Path) -> None:
    ShardFolder(path, {"codebook_size": 32, "made_by": FACTS})


FOLDERS = (run_folder, folder_of_scores, begun_samples, sealed_samples, begun_tokens)


@pytest.fixture
def asks_for_nothing(monkeypatch):
    for name in (PRECISION, THREADS, "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "put back in the end")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch")


@pytest.mark.usefixtures("asks_for_nothing")
@pytest.mark.parametrize("make", FOLDERS)
def test_what_a_folder_records_is_taken_and_said(make, tmp_path, capsys):
    make(tmp_path / "out")
    go_on_as_recorded(tmp_path / "out")
    assert os.environ[PRECISION] == "bf16"
    assert os.environ[THREADS] == str(FACTS["threads"])
    precision, threads = capsys.readouterr().err.splitlines()
    assert precision.startswith(f"precision bf16, as recorded in {tmp_path}/out; set {PRECISION}")
    assert threads.startswith(f"threads {FACTS['threads']}, as recorded in {tmp_path}/out; set")


@pytest.mark.usefixtures("asks_for_nothing")
@pytest.mark.parametrize("make", FOLDERS)
def test_what_is_asked_for_is_left_as_it_is(make, tmp_path, monkeypatch, capsys):
    make(tmp_path / "out")
    monkeypatch.setenv(PRECISION, "no")
    monkeypatch.setenv(THREADS, "1")
    go_on_as_recorded(tmp_path / "out")
    assert (os.environ[PRECISION], os.environ[THREADS]) == ("no", "1")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("asks_for_nothing")
@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"identity": 3}',
        '{"identity": {"precision": "bf16; rm -rf /", "threads": "2"}}',
        '{"identity": {"precision": ["bf16"], "threads": true}}',
        '{"identity": {"precision": null, "threads": -1}}',
        '{"identity": {"precision": "no", "threads": 1000000000000}}',
    ],
)
def test_a_damaged_record_sets_nothing(text, tmp_path, capsys):
    (tmp_path / "run.json").write_text(text)
    go_on_as_recorded(tmp_path)
    go_on_as_recorded(tmp_path / "missing")
    assert os.environ.get(PRECISION, "no") == "no"
    assert THREADS not in os.environ
    assert capsys.readouterr().err == ""


def test_a_refused_precision_names_what_the_launcher_asks_for(tmp_path):
    with pytest.raises(
        InputError, match="without flags, `accelerate launch` asks for precision no"
    ):
        refuse_changes(tmp_path, ["precision: 'bf16' -> 'no'"], ())
    begun_samples(tmp_path / "out")
    with pytest.raises(InputError, match="`accelerate launch` sets the precision to no"):
        ShardFolder(tmp_path / "out", {"kind": "samples", **FACTS, "precision": "no"})


def start(command: list, **changes: str) -> str:
    kept = {key: value for key, value in environment().items() if key not in (PRECISION, THREADS)}
    answer = subprocess.run(
        [str(part) for part in command],
        env={**kept, **changes},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout + answer.stderr


def identity(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())["identity"]


def test_a_run_goes_on_without_its_launcher_and_with_one(clip_store, tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(SMALL_TOKENIZER)
    (tmp_path / "stopped.py").write_text(STOPPED_AFTER_A_STEP)

    def words(run: str) -> list[str]:
        config, out = f"{tmp_path}/small.yaml", f"{tmp_path}/{run}"
        return ["train-tokenizer", "--config", config, "--data", str(clip_store), "--out", out]

    bf16 = [*LAUNCH, "--mixed_precision", "bf16"]
    assert "stopped after step 1 of 6" in start([*bf16, tmp_path / "stopped.py", *words("first")])
    described = identity(tmp_path / "first")
    assert (described["precision"], described["threads"]) == ("bf16", 1)
    said = start([sys.executable, "-m", "video_vq", *words("first")])
    assert f"precision bf16, as recorded in {tmp_path}/first" in said
    assert "step_0000001" in said
    assert (tmp_path / "first" / "tokenizer" / "config.json").exists()
    assert identity(tmp_path / "first") == described

    monkeypatch.setattr(training_verbs, "StopRequest", lambda: AfterStep(1))
    assert main(words("second")) == 0
    threads = str(torch.get_num_threads())
    said = start([*LAUNCH, "-m", "video_vq", *words("second")], OMP_NUM_THREADS=threads)
    assert "step_0000001" in said
    assert (tmp_path / "second" / "tokenizer" / "config.json").exists()
    assert identity(tmp_path / "second")["precision"] == "no"
