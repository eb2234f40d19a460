"""Progress of a run, and whether its model is finished. This module does not import torch."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from video_vq.errors import InputError
from video_vq.facts import Facts, plain
from video_vq.machine import asked_precision, is_recorded_number_of_threads
from video_vq.models.model_folder import CONFIG, TENSORS, Kind, read_model_config
from video_vq.stores.files import difference, read_json
from video_vq.training.checkpoint_files import CheckpointFiles

RUN, METRICS = "run.json", "metrics.jsonl"
TAIL_BYTES = 1 << 16  # number of bytes read from the end of metrics.jsonl to find the last line
# Settings added since the first runs, with the values that match the earlier code, by kind.
ADDED_TO_ESTIMATORS: dict[str, Any] = {
    "tangential_commitment": False,
    "equal_angle": 30.0,
    "noise_variance": 5e-3,
    "temperature": 1.0,
}
ADDED_TO_QUANTIZERS: dict[Any, dict[str, Any]] = {
    "vector": {**ADDED_TO_ESTIMATORS, "rms_scaling": "none"},
    "simvq": ADDED_TO_ESTIMATORS,
}


def finished_model(
    run: Path, kind: Kind, steps: int, checkpoints: CheckpointFiles | None = None
) -> Path | None:
    """Return the folder of a run's finished model, or None if the run is not finished.

    A run also counts as unfinished if the last checkpoint is damaged: training then resumes from an
    earlier checkpoint and replaces the damaged checkpoint.

    Args:
        steps: total number of optimizer steps in the run.
        checkpoints: checkpoints of the run; None to open them.

    Raises:
        InputError: the model's config is damaged, or there are checkpoints but none is intact.
    """
    folder = run / kind
    if not all((folder / name).exists() for name in (CONFIG, TENSORS)):
        return None
    if read_model_config(folder, kind).facts.get("steps") != steps:
        return None
    newest = (checkpoints or CheckpointFiles(run / "state")).newest()
    return folder if newest is not None and newest[0] == steps else None


def in_todays_settings(identity: Any) -> Any:
    """Convert the settings recorded by an earlier version to the settings of this version.

    Removed settings, which had no effect on the run, are dropped; added settings get the values
    that match the earlier behavior.

    Args:
        identity: unchecked `identity` entry of a run.json.
    """
    if not isinstance(identity, dict) or not isinstance(identity.get("config"), dict):
        return identity
    config = dict(identity["config"])
    model = config.get("model")
    if isinstance(model, dict) and isinstance(model.get("quantizer"), dict):
        quantizer = model["quantizer"]
        added = ADDED_TO_QUANTIZERS.get(quantizer.get("kind"), {})
        config["model"] = {**model, "quantizer": {**added, **quantizer}}
    if isinstance(model, dict) and identity.get("kind") == "prior":
        config["model"] = {"kind": "autoregressive", **model}
    if isinstance(config.get("loss"), dict):
        config["loss"] = {"temporal": 0.0, **config["loss"]}
    if isinstance(config.get("run"), dict):
        config["run"] = {k: v for k, v in config["run"].items() if k != "audit_every"}
        if identity.get("kind") == "tokenizer":
            config["run"] = {"measure_gradients": False, **config["run"]}
            config = {"continuous_steps": 0, **config}
    if isinstance(config.get("optim"), dict):
        config["optim"] = {"kind": "adamw", "decay_steps": None, **config["optim"]}
    return {**identity, "config": config}


def finished_by_same_command(
    run: Path, kind: Kind, config: dict[str, Any], data_hash: str
) -> Path | None:
    """Return the folder of a run's finished model if a training command has nothing left to do.

    Args:
        config: resolved configuration as JSON.
        data_hash: content hash of the training store.

    Returns:
        The folder, or None if a setting differs or anything is missing or damaged; training then
        reports the problem.
    """
    with suppress(InputError, OSError):
        described = in_todays_settings(read_json(run / RUN, "a run's description").get("identity"))
        if not isinstance(described, dict):
            return None
        threads = described.get("threads")
        identity = {
            "kind": kind,
            "config": config,
            "data": data_hash,
            "precision": asked_precision(),
            "world_size": int(os.environ.get("WORLD_SIZE", "1")),
            "threads": threads,
        }
        if is_recorded_number_of_threads(threads) and not difference(described, identity):
            return finished_model(run, kind, config["optim"]["steps"])
    return None


def describe_run(path: Path) -> tuple[str, Facts] | None:
    """Return a run's title and details for `video-vq info`; None if run.json describes no run."""
    description = read_json(path / RUN, "a run's description")
    if not {"identity", "environment"} <= description.keys():
        return None
    identity, environment = dict(description["identity"]), dict(description["environment"])
    kind = str(identity["kind"])
    steps = int(identity["config"]["optim"]["steps"])
    exported = (path / kind / CONFIG).is_file()
    saved = CheckpointFiles(path / "state").steps()
    done = steps if exported else max([_last_step(path / METRICS), *saved])
    return f"the run folder of a {kind}", {
        "progress": f"{'finished:' if exported else 'at'} step {done:,} of {steps:,}",
        "checkpoints at step": saved or "none",
        "model": kind if exported else "not yet: the same command resumes training",
        "command": " ".join(str(word) for word in environment.get("command") or []),
        "run with": plain({key: value for key, value in identity.items() if key != "kind"}),
        "started": str(environment.get("started")),
        "code": f"video-vq {environment.get('video_vq')}, git {environment.get('git')}",
        "on": f"{environment.get('device')}, torch {environment.get('torch')}",
    }


def _last_step(file: Path) -> int:
    """Return the step on the last complete line of metrics.jsonl, or 0 if there is none."""
    if not file.is_file():
        return 0
    with open(file, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
        for line in reversed(stream.read().split(b"\n")[:-1]):
            if line.startswith(b"{"):
                return int(json.loads(line)["step"])
    return 0
