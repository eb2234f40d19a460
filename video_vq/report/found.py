"""Finds the training runs and evaluations in a folder, to show in a report."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from video_vq.errors import InputError
from video_vq.facts import Facts
from video_vq.models.model_folder import CONFIG, describe_model
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import read_json

RUN, SCORES = "run.json", "scores.json"
MAX_METRICS_BYTES = 256 << 20


class Run(NamedTuple):
    """A training run: the description from run.json, and the training curves.

    Attributes:
        name: name of the run folder.
        identity: kind, config, data, precision, …
        environment: versions, device and command.
        curves: pairs (step, value) by metric name, in logging order; only finite values.
        num_not_finite: number of logged values that `curves` omits: not finite, or not numbers.
        model: details of the finished model; empty before the end of training.
    """

    name: str
    identity: dict[str, Any]
    environment: dict[str, Any]
    curves: dict[str, list[tuple[float, float]]]
    num_not_finite: int
    model: Facts


class Evaluation(NamedTuple):
    """The scores from scores.json, and the clips to show; `gallery` is None without clips."""

    name: str
    scores: dict[str, Any]
    gallery: ClipStore | None


class Parts(NamedTuple):
    """The runs and evaluations in a folder, and a title for the report."""

    title: str
    runs: tuple[Run, ...]
    evaluations: tuple[Evaluation, ...]


def find_parts(path: Path) -> Parts:
    """Return the runs and evaluations in a folder and in its direct subfolders.

    Raises:
        InputError: the folder does not exist or contains no runs or evaluations, or a file is
            damaged.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; name a run folder, or a folder that holds some")
    folders = _folders(path)
    runs = [_read_run(folder) for folder in folders if (folder / RUN).exists()]
    evaluations = [_read_evaluation(folder) for folder in folders if (folder / SCORES).exists()]
    if not runs and not evaluations:
        raise InputError(
            f"{path}: holds neither a run (run.json) nor scores (scores.json), and no folder in it "
            "does; train with `video-vq train-tokenizer`, score with `video-vq evaluate`"
        )
    order = {"tokenizer": 0, "prior": 1}
    runs.sort(key=lambda run: order.get(str(run.identity.get("kind")), 2))
    return Parts(path.resolve().name, tuple(runs), tuple(evaluations))


def holds_reported(path: Path) -> bool:
    """Return whether a folder or a direct subfolder contains a run or an evaluation."""
    if not path.is_dir():
        return False
    return any((folder / name).exists() for folder in _folders(path) for name in (RUN, SCORES))


def _folders(path: Path) -> list[Path]:
    return [path, *sorted(child for child in path.iterdir() if child.is_dir())]


def _read_run(folder: Path) -> Run:
    described = read_json(folder / RUN, "a run's description")
    identity, environment = (described.get(key) for key in ("identity", "environment"))
    if not isinstance(identity, dict) or not isinstance(environment, dict):
        raise InputError(f"{folder}/run.json: holds no identity and environment; is it a run's?")
    curves, num_not_finite = _read_curves(folder / "metrics.jsonl")
    model = _describe_model(folder, identity.get("kind"))
    return Run(folder.resolve().name, identity, environment, curves, num_not_finite, model)


def _describe_model(run: Path, kind: Any) -> Facts:
    if kind not in ("tokenizer", "prior") or not (run / kind / CONFIG).is_file():
        return {}
    described = describe_model(run / kind)
    return {} if described is None else described[1]


def _read_curves(file: Path) -> tuple[dict[str, list[tuple[float, float]]], int]:
    curves: dict[str, list[tuple[float, float]]] = {}
    num_not_finite = 0
    if not file.exists():
        return curves, 0
    if file.stat().st_size > MAX_METRICS_BYTES:
        raise InputError(f"{file}: larger than {MAX_METRICS_BYTES >> 20} MB; not a run's metrics")
    # A training run in progress may be writing the last line at this moment.
    whole_lines, _, _ = file.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole_lines.splitlines(), 1):
        try:
            values = json.loads(line)
            step = values.pop("step")
            values.pop("clock", None)
            if not _is_number(step):
                raise ValueError("its step is not a number")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise InputError(f"{file}: line {number} is not a line of metrics: {error}") from None
        for name, value in values.items():
            if _is_number(value) and math.isfinite(value):
                curves.setdefault(name, []).append((float(step), float(value)))
            else:
                num_not_finite += 1
    return curves, num_not_finite


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_evaluation(folder: Path) -> Evaluation:
    scores = read_json(folder / SCORES, "scores")
    gallery = folder / "gallery"
    store = ClipStore(gallery) if (gallery / "manifest.json").exists() else None
    return Evaluation(folder.resolve().name, scores, store)
