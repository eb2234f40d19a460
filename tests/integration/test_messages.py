"""Tests that a mistake gives one clear message, and gives it early if torch is not needed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL_TOKENIZER, run, video_vq
from trained import scores_of, trained_prior, trained_tokenizer

from video_vq.cli import main
from video_vq.progress import progress
from video_vq.quantizers.quantizer_config import QuantizerConfig
from video_vq.stores.files import write_json


@pytest.mark.parametrize("arguments", [["--help"], ["train-tokenizer", "--help"], ["--version"]])
def test_help_needs_no_torch(arguments):
    code = (
        "import sys\n"
        "from video_vq.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "loaded = {'torch', 'av', 'decord', 'accelerate'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_a_wrong_config_needs_no_torch(tmp_path):
    code = (
        "import sys\n"
        "from video_vq.cli import main\n"
        "status = main(['train-tokenizer', '--config', 'bair', '--data', 'x', '--out', 'y',"
        " 'optim.lrr=1'])\n"
        "assert status == 2 and 'torch' not in sys.modules\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert "optim.lrr: no such setting; did you mean 'lr'?" in answer.stderr


def test_a_missing_store_and_a_wrong_size_are_named(clip_store, tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL_TOKENIZER)
    common = ["train-tokenizer", "--config", str(config), "--out", str(tmp_path / "run")]
    assert main([*common, "--data", str(tmp_path / "none")]) == 1
    assert "no such folder; make a clip store with `data-prep folder" in capsys.readouterr().err
    assert main([*common, "--data", str(clip_store), "data.num_frames=5"]) == 1
    assert "is not divisible by the tokenizer's strides 2 x 4 x 4" in capsys.readouterr().err
    assert main([*common, "--data", str(clip_store), "data.num_frames=20"]) == 1
    assert "has the 20 frames of a clip" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_damaged_store_is_named(clip_store, tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL_TOKENIZER)
    common = ["train-tokenizer", "--config", str(config), "--out", str(tmp_path / "run")]
    copy = tmp_path / "copy"
    shutil.copytree(clip_store, copy)
    frames = copy / "frames-00000.npy"
    frames.write_bytes(frames.read_bytes()[:-100])
    assert main([*common, "--data", str(copy)]) == 1
    assert "frames-00000.npy" in capsys.readouterr().err
    (copy / "manifest.json").write_text("{")
    assert main([*common, "--data", str(copy)]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (copy / "manifest.json").unlink()
    (copy / "parts").mkdir()
    assert main([*common, "--data", str(copy)]) == 1
    assert "this store is unfinished; run the command that made it again" in capsys.readouterr().err


def test_a_run_folder_in_use_for_something_else_is_refused(clip_store, tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL_TOKENIZER)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    arguments = ["--config", str(config), "--data", str(clip_store), "--out", str(tmp_path / "run")]
    assert main(["train-tokenizer", *arguments]) == 1
    assert "holds other files and no run.json" in capsys.readouterr().err


def test_doctor_answers():
    answer = subprocess.run(
        [sys.executable, "-m", "video_vq", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode in (0, 1)
    assert '"name": "I3D weights"' in answer.stdout


def test_a_prior_without_tokens_is_a_usage_error(tmp_path):
    answer = video_vq(
        *("evaluate", "--data", "x", "--tokenizer", "y", "--out", tmp_path, "--prior", "z"),
        expect=2,
    )
    assert "--prior needs --tokens" in answer.stderr


@pytest.mark.parametrize("script", ["train_tokenizer", "train_prior", "sample", "evaluate_fvd"])
def test_the_scripts_are_the_verbs(script):
    path = Path(__file__).parents[2] / "scripts" / f"{script}.py"
    answer = subprocess.run(
        [sys.executable, path, "--help"], check=True, capture_output=True, text=True
    )
    verb = {"evaluate_fvd": "fvd"}.get(script, script.replace("_", "-"))
    assert f"video-vq {verb}" in answer.stdout


def test_out_of_memory_says_what_to_lower(clip_store, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL_TOKENIZER)
    arguments = ["--config", config, "--data", clip_store, "--out", tmp_path / "run"]
    huge = ["model.backbone.channels=1024", "model.backbone.multipliers=[16,16]"]
    command = [sys.executable, "-m", "video_vq", "train-tokenizer", *arguments, *huge]
    # One kernel of this model has 29 GB, more than the process may have.
    limited = ["bash", "-c", 'ulimit -v 16000000; exec "$@"', "limited", *command]
    answer = run(limited, expect=1)
    assert "out of memory" in answer.stderr
    assert "lower optim.batch_size" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_weights_and_network_the_message_says_both_ways_out(clip_store, tmp_path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    nowhere |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "VIDEO_VQ_I3D": ""}
    nowhere |= {"VIDEO_VQ_STLPIPS": ""}
    clips = (clip_store, clip_store, "--frames", "4", "--protocol", "google")
    answer = video_vq("fvd", *clips, expect=1, **nowhere)
    assert "video-vq doctor --fetch-weights" in answer.stderr
    assert "VIDEO_VQ_I3D" in answer.stderr
    answer = video_vq("doctor", "--fetch-weights", "--st-lpips", expect=1, **nowhere)
    assert "todo  I3D weights" in answer.stdout
    assert "VIDEO_VQ_I3D" in answer.stdout
    assert "todo  ST-LPIPS weights" in answer.stdout
    assert "VIDEO_VQ_STLPIPS" in answer.stdout


def test_fvd_refuses_before_it_loads_a_network(clip_store, tmp_path, monkeypatch, capsys):
    from video_vq.evaluation import feature_network

    monkeypatch.setattr(feature_network, "load_feature_network", lambda *_: pytest.fail("loaded"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "real.safetensors").write_bytes(b"kept")

    google = ("--frames", "4", "--protocol", "google")

    def refusal(*arguments: object) -> str:
        assert main(["fvd", *map(str, arguments)]) == 1
        return capsys.readouterr().err

    assert "empty: holds no videos" in refusal(clip_store, tmp_path / "empty", *google)
    assert "nowhere: no such file or folder" in refusal(clip_store, tmp_path / "nowhere", *google)
    assert "keeps its frame rate; prepare it" in refusal(clip_store, clip_store, "--fps", "7")
    larp = ("--frames", "4", "--protocol", "larp")
    assert "scores 16 frames" in refusal(clip_store, clip_store, *larp)
    assert "no video in split" in refusal(clip_store, clip_store, *google, "--split", "tset")
    assert "at least 2 clips" in refusal(clip_store, clip_store, *google, "--max-clips", "1")
    saved = ("--save-real", tmp_path / "real.safetensors")
    assert "already exists; remove it" in refusal(clip_store, clip_store, *saved)
    assert (tmp_path / "real.safetensors").read_bytes() == b"kept"


def damaged(tokenizer: Path, copy: Path, change: dict) -> Path:
    """Copy a tokenizer with changed tensors; tensors whose new value is None are removed."""
    import safetensors.torch

    shutil.copytree(tokenizer, copy)
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    merged = {**tensors, **change}
    kept = {name: value for name, value in merged.items() if value is not None}
    safetensors.torch.save_file(kept, copy / "model.safetensors")
    return copy


def test_a_tokenizer_with_a_missing_or_an_extra_tensor_is_refused(clip_store, tmp_path, capsys):
    import torch

    tokenizer = tmp_path / "tokenizer"
    trained_tokenizer().save_pretrained(tokenizer)
    changes = {
        "not part of the model: stowaway": {"stowaway": torch.zeros(1)},
        "missing: quantizer.codebook.codes": {"quantizer.codebook.codes": None},
    }
    for number, (message, change) in enumerate(changes.items()):
        copy = damaged(tokenizer, tmp_path / f"copy-{number}", change)
        out = tmp_path / f"tokens-{number}"
        command = ["encode", clip_store, "--tokenizer", copy, "--out", out]
        assert main([str(part) for part in command]) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_tokens_of_another_tokenizer_are_not_decoded(clip_store, tmp_path):
    trained_tokenizer().save_pretrained(tmp_path / "t0")
    trained_tokenizer(QuantizerConfig(codebook_size=64)).save_pretrained(tmp_path / "t1")
    tokens = tmp_path / "tokens"
    video_vq("encode", clip_store, "--tokenizer", tmp_path / "t0", "--out", tokens)
    other = ["--tokenizer", tmp_path / "t1", "--out", tmp_path / "clips"]
    answer = video_vq("decode", tokens, *other, expect=1)
    assert "belongs to the tokenizer" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "verb", "answer"),
    [
        (["sample", "--prior", "p", "--tokenizer", "t", "--out", "o", "--temprature", "2"],
         "sample", "unrecognized arguments: --temprature 2\ndid you mean --temperature?"),
        (["encode", "s", "--tokenizer", "t", "--out", "o", "--batchsize=3"],
         "encode", "did you mean --batch-size?"),
        (["train-tokenizer", "--config", "c", "--data", "d", "--out", "o", "--optim.steps", "5"],
         "train-tokenizer", "settings are written without dashes: optim.steps=5"),
        (["train-prior", "--config", "c", "--tokens", "d", "--out", "o", "--optim.lr=1e-4"],
         "train-prior", "settings are written without dashes: optim.lr=1e-4"),
        (["encode", "s", "--tokenzer", "t", "--out", "o"],
         "encode", "required: --tokenizer; unrecognized: --tokenzer\ndid you mean --tokenizer?"),
        (["trian-tokenizer"],
         "[-h]", "'doctor', 'completion')\ndid you mean train-tokenizer?"),
        (["train-tokenizer", "--config", "c", "--data", "d", "--out", "o", "--tracker", "wandbd"],
         "train-tokenizer", "invalid choice: 'wandbd' (choose from"),
        (["train-tokenizer", "--config", "c", "--data", "d", "--out", "o", "--tracker", "wandbd"],
         "train-tokenizer", "did you mean wandb?"),
        (["train-prior", "--config", "c", "a.b=1", "--tokens", "d", "--out", "o", "optim.lr=1"],
         "train-prior", "write all settings one after the other"),
    ],
)  # fmt: skip
def test_an_unknown_flag_is_answered_by_its_verb(capsys, arguments, verb, answer):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"usage: video-vq {verb} ")
    assert answer in error


def test_a_run_of_the_wrong_kind_is_named(clip_store, tmp_path, capsys):
    for kind, model in (("tokenizer", trained_tokenizer()), ("prior", trained_prior())):
        model.save_pretrained(tmp_path / kind / kind)
        write_json(tmp_path / kind / "run.json", {"identity": {"kind": kind}, "environment": {}})
    out = ["--out", str(tmp_path / "out")]
    assert main(["encode", str(clip_store), "--tokenizer", str(tmp_path / "prior"), *out]) == 1
    assert "is a prior's run, a tokenizer's is needed" in capsys.readouterr().err
    models = ["--prior", str(tmp_path / "tokenizer"), "--tokenizer", str(tmp_path / "tokenizer")]
    assert main(["sample", *models, *out]) == 1
    assert "is a tokenizer's run, a prior's is needed" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "prior" / "prior")
    models[1] = str(tmp_path / "prior")
    assert main(["sample", *models, *out]) == 1
    assert "this run holds no prior yet" in capsys.readouterr().err


def test_scores_of_other_clips_are_told_apart_by_their_folders(tmp_path, capsys):
    for name in ("a", "b"):
        scores = scores_of("tokenizer")
        same = {"split": "test", "num_clips": 256, "protocol": scores["protocol"]}
        scores["identity"] |= {"data": f"{name}" * 64, **same}
        scores["environment"] = {"command": ["evaluate", "--data", f"clips-{name}", "--num", "2"]}
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "scores.json", scores)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    error = capsys.readouterr().err
    assert f"({tmp_path}/a -> {tmp_path}/b)" in error
    assert "data: 'clips-a (aaaaaaaaaaaa…)' -> 'clips-b (bbbbbbbbbbbb…)'" in error


def test_nothing_to_do_shows_no_progress(capsys):
    with progress("sampling", 0, "token"):
        pass
    assert capsys.readouterr().err == ""
    with progress("sampling", 1, "token") as bar:
        bar.update()
    assert "sampling: 100 %" in capsys.readouterr().err


def test_the_demo_writes_no_escape_codes_into_a_log(tmp_path):
    (tmp_path / "data-prep").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "data-prep").chmod(0o755)
    script = Path(__file__).parents[2] / "scripts" / "demo.sh"
    path = f"{tmp_path}:{os.environ['PATH']}"
    answer = run(["bash", script, tmp_path / "demo"], expect=3, PATH=path)
    assert answer.stderr.startswith("\n1/8 render")
    assert "\x1b" not in answer.stderr
