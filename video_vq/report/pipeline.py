"""Describes the pipeline behind a report in a few sentences and as a list of commands."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from video_vq.config import check_config
from video_vq.errors import ConfigError
from video_vq.evaluation.generation_protocols import at, simulation
from video_vq.facts import codes
from video_vq.models.tokenizer_config import TokenizerConfig
from video_vq.report.found import Evaluation, Parts, Run

LINE = 88  # maximum number of characters in a line of a command
# Flags of data-prep, encode and sample, by the names of the settings recorded in stores.
PREPARE = {
    "split": "--split", "camera": "--camera", "val": "--val", "test": "--test",
    "group_by": "--group-by", "group_regex": "--group-regex",
}  # fmt: skip
READING = {
    "fps": "--source-fps", "layout": "--layout", "values": "--values",
    "frame_names": "--frame-names",
}  # fmt: skip
ENCODE = {
    "hop": "--hop", "windows_rule": "--windows", "clips_per_video": "--clips-per-video",
    "short_videos": "--short-videos",
}  # fmt: skip
GIVEN = {
    "given_split": "--given-split", "given_frames": "--given-frames", "given_shown": "--given-as",
    "samples_per_clip": "--samples-per-clip",
}  # fmt: skip
SAMPLE = {
    "temperature": "--temperature", "top_k": "--top-k", "top_p": "--top-p", "guidance": "--guidance"
}  # fmt: skip
PARALLEL = {"steps": "--steps", "confidence_temperature": "--confidence-temperature"}
LENGTH = {"seconds": "--seconds", "window_stride": "--window-stride"}


def lead(parts: Parts) -> str:
    """Return sentences about the data, the models and the training, as far as these are known.

    Values in the files may have any type; values of an unexpected type are ignored.
    """
    told = []
    for evaluation in parts.evaluations[:1]:
        plan = at(evaluation.scores, "made_by", "data")
        videos, size, source = (at(plan, key) for key in ("num_videos", "size_hw", "source"))
        if isinstance(videos, int) and isinstance(size, list) and isinstance(source, str):
            sides = " x ".join(str(side) for side in size)
            told.append(f"Data: {videos:,} videos, prepared from {source} at {sides} pixels.")
        if (sentence := simulation(evaluation.scores)) is not None:
            told.append(sentence)
    told += [sentence for run in parts.runs if (sentence := _told(run))]
    return " ".join(told)


def _told(run: Run) -> str:
    kind = run.identity.get("kind")
    steps, batch = (at(run.identity, "config", "optim", key) for key in ("steps", "batch_size"))
    if kind not in ("tokenizer", "prior"):
        return ""
    if not isinstance(steps, int) or not isinstance(batch, int):
        return ""
    shown = [size] if (size := _size(run)) else []
    done = int(max((points[-1][0] for points in run.curves.values()), default=0))
    share = f"{steps:,}" if done >= steps else f"{done:,} of {steps:,}"
    shown.append(f"{share} steps of {batch:,} clips")
    if (minutes := _minutes(run, batch)) is not None:
        shown.append(f"{minutes} of training on {run.environment.get('device')}")
    return f"{str(kind).capitalize()}: {', '.join(shown)}."


def _size(run: Run) -> str:
    """Return a tokenizer's number of codes or a prior's depth as text, or "" if unknown."""
    model = at(run.identity, "config", "model")
    if run.identity.get("kind") == "prior":
        depth = at(model, "depth")
        return f"{depth:,} layers" if isinstance(depth, int) else ""
    with suppress(ConfigError):
        return (
            f"{codes(check_config(TokenizerConfig, model, 'run.json').quantizer.vocabulary)} codes"
        )
    return ""


def _minutes(run: Run, batch: int) -> str | None:
    """Return the training time as text, based on logged rates, or None if it is unknown."""
    seconds = last = 0.0
    for step, rate in run.curves.get("time/clips_per_second", []):
        if rate <= 0:
            return None
        seconds += (step - last) * batch / rate
        last = step
    if not seconds:
        return None
    return f"{seconds / 3600:.1f} h" if seconds > 2 * 3600 else f"{max(1, round(seconds / 60))} min"


def known_commands(parts: Parts) -> list[str]:
    """Return the commands of the pipeline in order, without duplicates.

    Training and evaluation commands are shown as the user gave them; data-prep, encode and sample
    commands are reconstructed from settings recorded in the stores.
    """
    trainings = {"tokenizer": [], "prior": [], "": []}
    for run in parts.runs:
        kind = str(run.identity.get("kind"))
        trainings[kind if kind in trainings else ""].append(_launched(run))
    found = parts.evaluations
    lines = [
        *(_prepared(one) for one in found),
        *trainings["tokenizer"],
        *(_encoded(one) for one in found),
        *trainings["prior"],
        *(_sampled(one) for one in found),
        *trainings[""],
        *(_joined(["video-vq"], _given(one.scores.get("environment"))) for one in found),
    ]
    return [line for line in dict.fromkeys(lines) if line]


def _given(environment: Any) -> list[str]:
    """Return the recorded arguments of a command, or an empty list if there are none."""
    arguments = at(environment, "command")
    return [str(word) for word in arguments] if isinstance(arguments, list) else []


def _prepared(evaluation: Evaluation) -> str:
    plan, out = at(evaluation.scores, "made_by", "data"), _flag(evaluation, "--data")
    source, size, settings = (at(plan, key) for key in ("source", "size_hw", "source_settings"))
    if out is None or not isinstance(source, str) or not isinstance(size, list):
        return ""
    words = [source, "RAW", "--out", out, "--size", "x".join(str(side) for side in size)]
    if at(settings, "group_by") == "regex":  # --group-regex implies this setting
        settings = {name: value for name, value in settings.items() if name != "group_by"}
    words += _flags(settings, PREPARE)
    words += _flags(at(plan, "reading"), READING)
    words += _flags(plan, {"fps": "--fps"})
    words += _flags(plan, {"stride": "--stride"}) if at(plan, "stride") != 1 else []
    return _joined(["data-prep"], words)


def _encoded(evaluation: Evaluation) -> str:
    made_by = at(evaluation.scores, "made_by", "tokens")
    data, tokenizer, out = (
        _flag(evaluation, f"--{name}") for name in ("data", "tokenizer", "tokens")
    )
    if made_by is None or data is None or tokenizer is None or out is None:
        return ""
    words = ["encode", data, "--tokenizer", tokenizer, "--out", out]
    return _joined(_launcher(1, at(made_by, "precision")), [*words, *_flags(made_by, ENCODE)])


def _sampled(evaluation: Evaluation) -> str:
    plan = at(evaluation.scores, "generation", "samples")
    prior, tokenizer, out = (
        _flag(evaluation, f"--{name}") for name in ("prior", "tokenizer", "samples")
    )
    if at(plan, "kind") != "samples" or tokenizer is None or out is None:
        return ""
    words = ["sample", "--prior", prior or "PRIOR", "--tokenizer", tokenizer, "--out", out]
    words += _flags(plan, {"num_samples": "--num", "class": "--class"})
    words += ["--given", "STORE"] if at(plan, "given_data") else []
    words += _flags(plan, GIVEN)
    words += ["--actions", "STORE|FILE"] if at(plan, "actions") else []
    words += _flags(plan, LENGTH)
    words += _flags(at(plan, "parallel"), PARALLEL)
    words += _flags(at(plan, "settings"), SAMPLE)
    words += _flags(plan, {"seed": "--seed", "batch_size": "--batch-size", "dtype": "--dtype"})
    return _joined(_launcher(1, at(plan, "precision")), words)


def _launched(run: Run) -> str:
    """Return the command of a training run, including the launcher and the launcher's settings."""
    words, identity = _given(run.environment), run.identity
    threads = identity.get("threads")
    prefix = [] if threads is None else [f"OMP_NUM_THREADS={threads}"]
    launcher = _launcher(identity.get("world_size", 1), identity.get("precision"))
    return _joined([*prefix, *launcher], words)


def _launcher(processes: Any, precision: Any) -> list[str]:
    if (processes, precision or "no") == (1, "no"):
        return ["video-vq"]
    launch = ["accelerate", "launch", *([] if processes == 1 else ["--multi_gpu"])]
    launch += ["--num_processes", str(processes), "--mixed_precision", str(precision or "no")]
    return [*launch, "-m", "video_vq"]


def _flag(evaluation: Evaluation, flag: str) -> str | None:
    """Return the value of a flag in an evaluation's command, or None if the flag is missing."""
    words = _given(evaluation.scores.get("environment"))
    return dict(pairwise(words)).get(flag)


def _flags(values: Any, names: dict[str, str]) -> list[str]:
    """Return flags and values for all settings that have a value."""
    found = [(flag, at(values, name)) for name, flag in names.items()]
    return [word for flag, value in found if value is not None for word in (flag, str(value))]


def _joined(program: Sequence[str], words: Sequence[str]) -> str:
    """Return a shell command with long lines broken before flags, or "" if there are no words."""
    if not words:
        return ""
    first, *rest = _parts([*program, *words])
    lines = [first]
    for part in rest:
        if len(lines[-1]) + 1 + len(part) > LINE:
            lines[-1] += " \\"
            lines.append(" " + part)
        else:
            lines[-1] += " " + part
    return "\n ".join(lines)


def _parts(words: Sequence[str]) -> Iterator[str]:
    """Yield the quoted parts of a command; a flag and its values form one part."""
    part: list[str] = []
    for word in words:
        if word.startswith("--") and part:
            yield shlex.join(part)
            part = []
        part.append(word)
    yield shlex.join(part)
