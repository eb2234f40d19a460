"""Tests that `video-vq doctor` says of each item that it works, or what to do."""

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config import config_args

from video_vq.cli import main
from video_vq.inspect import checkup
from video_vq.inspect.checkup import Check
from video_vq.metrics.weights import I3D_WEIGHTS


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_both_decoders_give_a_clip_back_and_name_their_ffmpeg():
    checks = {check.name: check for check in checkup.decoders()}
    for check in checks.values():
        assert not check.advice
        assert "yes: FFmpeg " in check.found
    versions = {check.found.rpartition("libavcodec ")[2] for check in checks.values()}
    assert len(versions) == len(checks)  # each brings its own


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kill -SEGV $$", "no: ends the decoder with SIGSEGV"),
        ("exec sleep 60", "no: hangs the decoder"),
        (
            "echo cannot open shared object >&2; exit 1",
            "no: ends the decoder with exit code 1: cannot open shared object",
        ),
        ("exit 3", "no: ends the decoder with exit code 3"),
    ],
)
def test_a_decoder_that_crashes_hangs_or_fails_is_a_thing_to_do(
    text, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.executable", script(tmp_path / "python", text))
    monkeypatch.setattr("video_vq.media.trial.MAX_SECONDS", 0.2)
    monkeypatch.setattr("video_vq.media.supervisor.CHECK_SECONDS", 0.1)
    for check in checkup.decoders():
        assert check.found == expected
        assert "pip install --force-reinstall" in check.advice


def test_required_packages_are_asked_for_and_optional_ones_never(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(checkup, "_decord_is_published", lambda: False)
    checks = {check.name: check for check in checkup.packages()}
    assert checks["torch"] == Check("torch", "not installed", "pip install torch")
    assert checks["decord"] == Check("decord", "not installed", "")
    for name in ("tensorboard", "wandb", "trackio", "huggingface_hub", "pyarrow", "mujoco"):
        assert checks[name].found.startswith("not installed (optional: ")
        assert not checks[name].advice
    assert checkup.decoders() == []


@pytest.mark.parametrize(
    ("variables", "todo"),
    [
        ({}, False),
        ({"WORLD_SIZE": "1"}, False),
        ({"WORLD_SIZE": "2"}, True),
        ({"WORLD_SIZE": "two", "RANK": "0"}, True),
        ({"WORLD_SIZE": "²", "RANK": "0"}, True),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, False),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, True),
        ({"WORLD_SIZE": "0"}, True),
    ],
)
def test_what_a_launcher_announces_must_make_a_rank(variables, todo):
    launcher, launch, backends = checkup.ranks(variables)
    assert bool(launcher.advice) == todo
    assert all(f"{name}={value!r}" in launcher.found for name, value in variables.items())
    assert "process(es)" in launch.found
    assert "gloo" in backends.found


@pytest.mark.parametrize(
    ("text", "found", "todo"),
    [
        (None, "no default config: starts 1 process(es)", False),
        ("num_processes: 4\ndistributed_type: MULTI_GPU\n", ": 4 process(es), MULTI_GPU", False),
        ("num_processes: many\n", "cannot be read (ValueError", True),
        ("- 1\n", "cannot be read (AttributeError", True),
        ("surprise: 1\n", "cannot be read (ValueError", True),
        ("a: [", "cannot be read (ParserError", True),
    ],
)
def test_accelerates_default_config_is_read(text, found, todo, tmp_path, monkeypatch):
    file = tmp_path / "default_config.yaml"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(config_args, "default_config_file", str(file))
    _, launch, _ = checkup.ranks({})
    assert found in launch.found
    assert bool(launch.advice) == todo


def test_gpus_are_named_with_memory_and_bf16(monkeypatch):
    cards = [
        SimpleNamespace(name="Old", total_memory=16 << 30, major=7),
        SimpleNamespace(name="New", total_memory=80 << 30, major=9),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert checkup.devices() == [
        Check("device 0", "Old, 16 GiB, no bf16 in hardware: use fp16"),
        Check("device 1", "New, 80 GiB, bf16"),
    ]
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert "several GPUs need nccl" in checkup.ranks({})[2].advice


def test_a_driver_that_torch_cannot_use_is_a_thing_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = checkup.devices()
    assert check.found.startswith("cpu, ")
    assert not check.advice
    script(tmp_path / "nvidia-smi", "")
    (check,) = checkup.devices()
    assert "an NVIDIA driver is installed, but torch" in check.advice


def test_missing_weights_and_a_full_disk_are_things_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("VIDEO_VQ_I3D", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "video-vq doctor --fetch-weights" in checkup.weights(I3D_WEIGHTS, False).advice
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert "less than 5 GB free" in checkup.disk(tmp_path).advice


def test_the_exit_status_says_whether_something_is_to_be_done(monkeypatch, capsys):
    well, ill = Check("torch", "2.13"), Check("disk", "0 GB free", "buy a disk")
    monkeypatch.setattr(checkup, "checkup", lambda fetch, st_lpips: [well])
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.split() == ["ok", "torch", "2.13"]
    monkeypatch.setattr(checkup, "checkup", lambda fetch, st_lpips: [well, ill])
    assert main(["doctor"]) == 1
    assert "todo  disk              0 GB free\n      buy a disk" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[1] == {
        "name": "disk",
        "found": "0 GB free",
        "advice": "buy a disk",
        "ok": False,
    }
