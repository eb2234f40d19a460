"""What a path is: any store, model, checkpoint, run or evaluation of video-vq, in ten lines.

Reads headers and manifests only. Nothing in them is trusted: a value of a wrong type is an error
that names the file, and a text is shown without the characters that a terminal obeys.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from video_vq.config import check_config
from video_vq.errors import InputError
from video_vq.inspect.describe_video import folder_facts, video_facts
from video_vq.media.folder import VIDEO_SUFFIXES
from video_vq.models.model_folder import CONFIG, TENSORS, read_model_config, read_tensor_headers
from video_vq.models.prior_config import PriorConfig, PriorFacts
from video_vq.models.tokenizer_config import TokenizerConfig, TokenizerFacts
from video_vq.stores import clips, raw_videos, tokens
from video_vq.stores.files import read_json
from video_vq.stores.shards import MANIFEST, PARTS

RUN, METRICS, SCORES, STATE = "run.json", "metrics.jsonl", "scores.json", "state.json"
KNOWN = (
    "a clip store, a token store, a list of raw videos, a model's or a run's folder, a checkpoint, "
    "an evaluation, a file of these, and videos"
)
MAX_LINE = 160  # characters
TAIL_BYTES = 1 << 16  # of metrics.jsonl: its last lines


class Description(NamedTuple):
    """What a path is, and at most nine facts about it: texts, numbers and lists of them."""

    path: str
    what: str
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {"path": self.path, "what": self.what, **self.facts}

    def lines(self) -> list[str]:
        """Return at most ten lines for people."""
        width = max((len(name) for name in self.facts), default=0)
        rows = [f"  {name:<{width}}  {_text(value)}" for name, value in self.facts.items()]
        return [_printable(line) for line in (f"{self.path}: {self.what}", *rows)]


def describe(path: Path) -> Description:
    """Say what a path is.

    Args:
        path: a folder or a file.

    Raises:
        InputError: it is missing, damaged, or nothing of video-vq; lists what is known.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; `video-vq info` knows {KNOWN}")
    try:
        found = _folder(path) if path.is_dir() else _file(path)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}: {error}); make it again, or restore it"
        ) from None
    if found is None:
        raise InputError(f"{path}: is nothing that video-vq wrote; `video-vq info` knows {KNOWN}")
    return Description(str(path), *found)


Found = tuple[str, dict[str, Any]]
_DAMAGE = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip


def _folder(path: Path) -> Found | None:
    readers: tuple[tuple[str, Callable[[Path], Found | None]], ...] = (
        (MANIFEST, _sealed),
        (f"{PARTS}/plan.json", _unfinished_store),
        (RUN, _run),
        (CONFIG, _model),
        (SCORES, _evaluation),
    )
    for name, reader in readers:
        if (path / name).is_file():
            return reader(path)
    steps = _checkpoint_steps(path)
    if steps:
        newest = _sealed(path / f"step_{steps[-1]:07d}")
        facts = {} if newest is None else newest[1]
        return "the checkpoints of a run", {"steps": steps, **facts}
    inside = {
        child.name: found[0]
        for child in sorted(path.iterdir())
        if child.is_dir() and any((child / name).is_file() for name, _ in readers)
        if (found := _folder(child)) is not None
    }
    if inside:
        return "a folder that holds", dict(list(inside.items())[:9])
    videos = folder_facts(path)
    return None if videos is None else ("a folder of videos", videos)


def _file(path: Path) -> Found | None:
    """Describe an array or a tensor file by its header, any other by the folder it belongs to."""
    if path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, mode="r")
        size = {"dtype": str(array.dtype), "bytes": path.stat().st_size}
        return "an array of a store", {"shape": _times(array.shape), **size, **_inside(path)}
    if path.suffix == ".safetensors":
        return "tensors", {**_tensor_facts(path), **_inside(path)}
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "a video", video_facts(path)
    if path.suffix not in (".json", ".jsonl"):
        return None
    folder = path.parent.parent if path.parent.name == PARTS else path.parent
    found = _folder(folder)
    return None if found is None else (f"a file of {found[0]}", found[1])


def _inside(path: Path) -> dict[str, str]:
    """Return what the folder of a file is, if it is anything."""
    try:
        found = _folder(path.parent)
    except InputError as error:
        return {"in": f"a damaged folder: {error}"}
    return {} if found is None else {"in": found[0]}


def _sealed(path: Path) -> Found | None:
    """Describe what has a manifest: a finished store, or a checkpoint."""
    manifest = read_json(path / MANIFEST, "a manifest")
    if manifest.get("format") == clips.FORMAT:
        return "a finished clip store", _clip_store(clips.ClipStore(path))
    if manifest.get("format") == tokens.FORMAT:
        return "a finished token store", _token_store(tokens.TokenStore(path))
    if manifest.get("format") == raw_videos.FORMAT:
        raw = raw_videos.read_raw_videos(path)
        splits = _per_split(video.split for video in raw.videos)
        return "a list of raw videos", {"videos": splits, "below": raw.root}
    if "step" in manifest and (path / STATE).is_file():
        return "a checkpoint to resume from", _checkpoint(path, manifest)
    return None


def _clip_store(store: clips.ClipStore) -> dict[str, Any]:
    lengths = [video.num_frames for video in store.videos]
    files = [
        store.path / f"{name}-{shard:05d}.npy"
        for shard in range(len(store.shards))
        for name in ("frames", *store.arrays)
    ]
    rates = {"unknown" if video.fps is None else f"{video.fps:.5g}" for video in store.videos}
    height, width = store.frame_size_hw
    return {
        "videos": _per_split(video.split for video in store.videos),
        "frames": f"{sum(lengths):,} of {height} x {width}, {_range(lengths)} in a video",
        "fps": sorted(rates),
        "classes": _classes(store.classes),
        "arrays": {name: list(shape) for name, shape in store.arrays.items()},
        "left out": f"{store.num_skipped} (skipped.jsonl)" if store.num_skipped else "nothing",
        **({} if store.simulated is None else {"simulated": store.simulated}),
        "made by": _made_by(store.plan),
        "files": _sizes(files),
        "hash": store.content_hash,
    }


def _token_store(store: tokens.TokenStore) -> dict[str, Any]:
    header = store.header
    height, width = header.frame_size_hw
    rate = "an unknown rate" if header.fps is None else f"{header.fps:g} fps"
    mixed = ", mostly (rates are mixed)" if len({video.fps for video in store.videos}) > 1 else ""
    return {
        "clips": _per_split(store.video_of(row).split for row in range(len(store))),
        "tokens": f"{_times(header.grid_thw)} of {header.codebook_size:,} for each clip",
        "each clip": f"{header.num_frames} frames of {height} x {width} at {rate}{mixed}",
        "classes": _classes(header.classes),
        **_actions(header.num_action_dims),
        "tokenizer": header.tokenizer_hash,
        "made from": header.data_hash or "samples of a prior",
        "files": _sizes([store.path / f"tokens-{n:05d}.npy" for n in range(len(store.shards))]),
        "hash": store.content_hash,
    }


def _unfinished_store(path: Path) -> Found:
    plan = read_json(path / PARTS / "plan.json", "an unfinished store's plan")
    kind, unit = ("token", "count") if "tokenizer_hash" in plan else ("clip", "frames")
    records = sorted((path / PARTS).glob("shard-*.json"))
    done = sum(int(read_json(record, "a shard's record")[unit]) for record in records)
    return f"an unfinished {kind} store", {
        "shards done": len(records),
        f"{'clips' if kind == 'token' else 'frames'} done": done,
        "made by": _made_by(plan),
        "to finish": "run the command that made it again, it goes on where it stopped",
    }


def _model(path: Path) -> Found | None:
    kind = read_json(path / CONFIG, "a model's config").get("kind")
    if kind not in ("tokenizer", "prior"):
        return None
    found = read_model_config(path, kind)
    source = str(path / CONFIG)
    common = {**_tensor_facts(path / TENSORS), "hash": found.hash}
    if kind == "tokenizer":
        model = check_config(TokenizerConfig, found.model, source)
        facts = check_config(TokenizerFacts, found.facts, source)
        size_k, size = model.quantizer.codebook_size, facts.frame_size_hw
        bits = math.prod(facts.grid_thw) * math.log2(size_k)
        raw = 24 * facts.num_frames * math.prod(size)
        return "a tokenizer", {
            "clips": f"{facts.num_frames} frames, {facts.stride} apart, of {_times(size)}",
            "tokens": f"{_times(facts.grid_thw)} of {size_k:,} for each clip",
            "compression": f"{bits:,.0f} bits per clip, {raw / bits:.1f} times fewer than RGB",
            "causal": model.backbone.causal,
            "trained": f"{facts.steps:,} steps on the clips {facts.trained_on}",
            **common,
        }
    prior = check_config(PriorConfig, found.model, source)
    known = check_config(PriorFacts, found.facts, source)
    sizes = prior.transformer
    return "a prior", {
        "tokens": f"{_times(prior.grid_thw)} of {prior.codebook_size:,} for each clip",
        "transformer": f"width {sizes.width}, depth {sizes.depth}, {sizes.heads} heads",
        "classes": _classes(known.classes),
        **_actions(prior.num_action_dims),
        "tokenizer": known.tokenizer_hash,
        "trained": f"{known.steps:,} steps on the tokens {known.trained_on}",
        **common,
    }


def _tensor_facts(file: Path) -> dict[str, Any]:
    headers = read_tensor_headers(file)
    count = sum(math.prod(header.shape) for header in headers)
    types = sorted({header.dtype for header in headers})
    size = f"{file.stat().st_size / 1e6:,.1f} MB"
    return {"tensors": f"{len(headers)} of {count:,} numbers ({', '.join(types)}), {size}"}


def _checkpoint(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    state = read_json(path / STATE, "a checkpoint's state")
    best = state.get("best")
    return {
        "step": int(manifest["step"]),
        "steps skipped": int(state["skipped_steps"]),
        "best validation": "none yet"
        if best is None
        else f"{_best(float(best[0]))} at step {int(best[1])}",
        **_tensor_facts(path / TENSORS),
        "files": _sizes([path / name for name in dict(manifest["sha256"])]),
    }


def _best(value: float) -> str:
    """Return a validation value as people know it: a run keeps −PSNR, so that less is better."""
    return f"PSNR {-value:.5g} dB" if value < 0 else f"{value:.5g} bits per token"


def _run(path: Path) -> Found | None:
    description = read_json(path / RUN, "a run's description")
    if not {"identity", "environment"} <= description.keys():
        return None
    identity, environment = dict(description["identity"]), dict(description["environment"])
    kind = str(identity["kind"])
    steps = int(identity["config"]["optim"]["steps"])
    exported = (path / kind / CONFIG).is_file()
    saved = _checkpoint_steps(path / "state")
    done = steps if exported else max([_last_step(path / METRICS), *saved])
    return f"the run folder of a {kind}", {
        "progress": f"{'finished:' if exported else 'at'} step {done:,} of {steps:,}",
        "checkpoints at step": saved or "none",
        "model": kind if exported else "not yet: the same command goes on with training",
        "command": " ".join(str(word) for word in environment.get("command") or []),
        "run with": _plain({key: value for key, value in identity.items() if key != "kind"}),
        "started": str(environment.get("started")),
        "code": f"video-vq {environment.get('video_vq')}, git {environment.get('git')}",
        "on": f"{environment.get('device')}, torch {environment.get('torch')}",
    }


def _last_step(file: Path) -> int:
    """Return the step of the last whole line of metrics.jsonl, 0 when there is none."""
    if not file.is_file():
        return 0
    with open(file, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
        for line in reversed(stream.read().split(b"\n")[:-1]):
            if line.startswith(b"{"):
                return int(json.loads(line)["step"])
    return 0


def _checkpoint_steps(folder: Path) -> list[int]:
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [re.fullmatch(r"step_(\d{7,12})", entry.name) for entry in entries]
    return sorted(int(match[1]) for match in found if match)


def _evaluation(path: Path) -> Found | None:
    scores = read_json(path / SCORES, "scores")
    if not {"reconstruction", "protocol", "num_clips"} <= scores.keys():
        return None
    copy = scores["reconstruction"]
    facts = {
        "scored": f"{int(scores['num_clips']):,} clips of split {scores['split']}",
        "tokenizer": str(scores["tokenizer"]),
        "PSNR, SSIM": f"{_score(copy['psnr']['mean'])} dB, {_score(copy['ssim']['mean'])}",
        "rFVD": _score(copy["rfvd"]["value"]),
    }
    if "generation" in scores:
        facts["gFVD"] = _score(scores["generation"]["gfvd"]["value"])
    if "prior" in scores:
        facts["bits per token"] = _score(scores["prior"]["bits_per_token"])
    floor = scores["floor"]
    facts["FVD floor"] = (
        "too few clips"
        if floor is None
        else f"{_score(floor['distance'])} at N = {int(floor['num_clips'])}"
    )
    facts["FVD protocol"] = str(scores["protocol"]["name"])
    facts["data"] = str(scores["data"])
    return "an evaluation", facts


def _score(value: Any) -> str:
    return "exact" if value is None else f"{float(value):.3f}"


def _made_by(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the plain settings of a plan, and those of its `made_by`."""
    inner = plan.get("made_by")
    return _plain({**plan, **(inner if isinstance(inner, dict) else {})})


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not isinstance(value, dict | list)}


def _per_split(splits: Iterable[str]) -> dict[str, int]:
    counts = Counter(splits)
    return {"all": counts.total(), **{name: counts[name] for name in sorted(counts)}}


def _classes(names: Iterable[str]) -> list[str] | str:
    return [str(name) for name in names] or "none"


def _actions(numbers: int) -> dict[str, str]:
    return {"actions": f"{numbers} numbers for each latent frame"} if numbers else {}


def _range(lengths: list[int]) -> str:
    low, high = min(lengths), max(lengths)
    return f"{low}" if low == high else f"{low} to {high}"


def _times(sides: Iterable[int]) -> str:
    return " x ".join(str(side) for side in sides)


def _sizes(files: list[Path]) -> str:
    present = [file.stat().st_size for file in files if file.is_file()]
    missing = len(files) - len(present)
    size = f"{len(present)}, together {sum(present) / 1e6:,.1f} MB"
    return f"{size}; {missing} MISSING" if missing else size


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        count = f"{len(value)}: " if len(value) > 3 else ""
        return count + ", ".join(_text(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    # A hash is known by its beginning; --json has all of it.
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1…", str(value))


def _printable(line: str) -> str:
    shown = "".join(
        character if character.isprintable() else f"\\u{{{ord(character):x}}}" for character in line
    )
    return shown if len(shown) <= MAX_LINE else shown[: MAX_LINE - 1] + "…"
