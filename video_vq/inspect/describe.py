"""Describes a store, model, checkpoint, run, evaluation or video in at most ten lines.

Except for videos, only headers and manifests are read. The contents are not trusted: a value of the
wrong type raises an error that names the file, and control characters in text are escaped.
"""

import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from video_vq.errors import InputError
from video_vq.evaluation.evaluation_job import SCORES, describe_evaluation
from video_vq.facts import Facts, per_split, times
from video_vq.media.array_videos import is_array_file, parse_address
from video_vq.media.folder import FolderSettings, holds_video, is_frame_folder, list_videos
from video_vq.media.kinds import VIDEO_SUFFIXES
from video_vq.media.probe import DEFAULT_LIMITS
from video_vq.media.reading import USUAL, Reading, require_reading
from video_vq.media.sources import require_needed, source_of
from video_vq.models.model_folder import CONFIG, describe_model, describe_tensors
from video_vq.stores import clips, raw_videos, tokens
from video_vq.stores.files import read_json
from video_vq.stores.places import unused
from video_vq.stores.shards import MANIFEST, PARTS, PLAN, describe_unfinished
from video_vq.training.checkpoint_files import STATE, CheckpointFiles, describe_checkpoint
from video_vq.training.finished import RUN, describe_run

KNOWN = (
    "a clip store, a token store, a list of raw videos, a model's or a run's folder, a checkpoint, "
    "an evaluation, a file of these, and videos"
)
VIDEOS = (
    "a video", "the frames of a video", "a video in an array", "arrays of videos",
    "a folder of videos",
)  # fmt: skip
MAX_LINE = 160  # characters


class Description(NamedTuple):
    """The kind of a path, and at most nine details by name: strings, numbers, lists or dicts."""

    path: str
    what: str
    facts: Facts

    def to_json(self) -> Facts:
        """Return the description as one JSON object."""
        return {"path": self.path, "what": self.what, **self.facts}

    def lines(self) -> list[str]:
        """Return the description as at most ten lines of text."""
        width = max((len(name) for name in self.facts), default=0)
        rows = [f"  {name:<{width}}  {_text(value)}" for name, value in self.facts.items()]
        return [_printable(line) for line in (f"{self.path}: {self.what}", *rows)]


def describe(path: Path, reading: Reading = USUAL) -> Description:
    """Describe a path: a folder, a file, or the address of a video in an array.

    Args:
        reading: settings for reading frame folders and arrays.

    Raises:
        InputError: the path is missing or damaged, or has a kind that video-vq does not know (the
            message lists the known kinds); or a given `reading` option does not apply to the path.
    """
    is_named = not path.exists() and is_frame_folder(path, reading.frame_names)
    if not (path.exists() or is_array_file(path) or is_named):
        raise InputError(f"{path}: no such file or folder; `video-vq info` knows {KNOWN}")
    try:
        found = _folder(path, reading) if path.is_dir() else _file(path, reading)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{path}: is damaged ({type(error).__name__}: {error}); make it again, or restore it"
        ) from None
    if found is None:
        raise InputError(f"{path}: was not written by video-vq; `video-vq info` knows {KNOWN}")
    if found[0] not in VIDEOS:
        require_reading(reading, False, False, path)
    return Description(str(path), *found)


Found = tuple[str, Facts]
_DAMAGE = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip


def _folder(path: Path, reading: Reading) -> Found | None:
    found = _written(path)
    if found is not None or any((path / name).is_file() for name in _READERS):
        return found
    inside = {
        child.name: found[0]
        for child in sorted(path.iterdir())
        if child.is_dir() and (found := _written(child)) is not None
    }
    if inside:
        return "a folder that holds", dict(list(inside.items())[:9])
    if is_frame_folder(path, reading.frame_names):
        return "the frames of a video", _describe_video(path, reading)
    if holds_video(path, None):
        return "a folder of videos", _describe_videos(path, reading)
    return None


def _written(path: Path) -> Found | None:
    """Describe a folder that video-vq wrote, or return None for any other folder."""
    for name, reader in _READERS.items():
        if (path / name).is_file():
            return reader(path)
    checkpoints = CheckpointFiles(path)
    if steps := checkpoints.steps():
        newest = _sealed(checkpoints.folder(steps[-1]))
        facts = {} if newest is None else newest[1]
        return "the checkpoints of a run", {"steps": steps, **facts}
    return None


def _file(path: Path, reading: Reading) -> Found | None:
    """Describe a video, array or tensor file by itself, and a JSON file by its folder."""
    if is_frame_folder(path, reading.frame_names):
        return "the frames of a video", _describe_video(path, reading)
    address = parse_address(path)
    if address is not None and address.number is not None:
        return "a video in an array", _describe_video(path, reading)
    if address is not None and (address.member is not None or reading != USUAL):
        return "arrays of videos", _describe_videos(path, reading)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = np.lib.format.open_memmap(path, mode="r")
        inside = _inside(path)
        if not inside and array.ndim >= 4:
            with suppress(InputError):  # such as tokens, or weights
                return "arrays of videos", _describe_videos(path, reading)
        size = {"dtype": str(array.dtype), "bytes": path.stat().st_size}
        return "an array", {"shape": times(array.shape), **size, **inside}
    if suffix == ".safetensors":
        return "tensors", {**describe_tensors(path), **_inside(path)}
    if suffix == ".npz":
        return "arrays of videos", _describe_videos(path, reading)
    if suffix in VIDEO_SUFFIXES:
        return "a video", _describe_video(path, reading)
    if suffix not in (".json", ".jsonl"):
        return None
    folder = path.parent.parent if path.parent.name == PARTS else path.parent
    found = _written(folder)
    return None if found is None else (f"a file of {found[0]}", found[1])


def _inside(path: Path) -> dict[str, str]:
    """Return the kind of the folder that contains a file, if video-vq wrote this folder."""
    try:
        found = _written(path.parent)
    except InputError as error:
        return {"in": f"a damaged folder: {error}"}
    return {} if found is None else {"in": found[0]}


def _sealed(path: Path) -> Found | None:
    """Describe a folder with a manifest: a finished store, a list of raw videos or a checkpoint."""
    manifest = read_json(path / MANIFEST, "a manifest")
    if manifest.get("format") == clips.FORMAT:
        return "a finished clip store", clips.ClipStore(path).describe()
    if manifest.get("format") == tokens.FORMAT:
        return "a finished token store", tokens.TokenStore(path).describe()
    if manifest.get("format") == raw_videos.FORMAT:
        raw = raw_videos.read_raw_videos(path)
        splits = per_split(video.split for video in raw.videos)
        return "a list of raw videos", {"videos": splits, "below": raw.root}
    if "step" in manifest and (path / STATE).is_file():
        return "a checkpoint to resume from", describe_checkpoint(path)
    return None


def _evaluation(path: Path) -> Found | None:
    facts = describe_evaluation(path)
    return None if facts is None else ("an evaluation", facts)


# Files that identify the kind of a folder, with their readers; the first file that exists decides.
_READERS: dict[str, Callable[[Path], Found | None]] = {
    MANIFEST: _sealed,
    PLAN: describe_unfinished,
    RUN: describe_run,
    CONFIG: describe_model,
    SCORES: _evaluation,
}


def _describe_video(path: Path, reading: Reading) -> Facts:
    """Describe a video, counting the frames instead of trusting the header."""
    source = source_of(path, reading)
    require_needed(source, reading)
    info = source.probe(DEFAULT_LIMITS)
    height, width = info.size_hw
    frames = f"{info.num_packets:,} of {height} x {width}"
    if info.pixel_aspect != 1:
        frames += f", of pixels {float(info.pixel_aspect):.4g} times as wide as high"
    seconds = info.duration_seconds
    if info.fps:
        seconds = info.num_packets / info.fps
    return {
        "frames": frames,
        "fps": "unknown" if info.fps is None else f"{info.fps:.5g}",
        "length": "unknown" if seconds is None else f"{seconds:,.2f} seconds",
        "codec": f"{info.codec}, in {info.container}",
        "size": f"{info.file_bytes / 1e6:,.2f} MB",
        **({"notes": list(info.notes)} if info.notes else {}),
    }


def _describe_videos(path: Path, reading: Reading) -> Facts:
    """Describe the videos that `data-prep folder` would read from a folder or an array file."""
    found = list_videos(path, FolderSettings(reading=reading))
    size = sum(video.num_bytes for video in found.videos)
    out = str(unused(Path("clips")))
    words = ["data-prep", "folder", str(path), *reading.words(), "--out", out]
    return {
        "videos": f"{len(found.videos):,}, together {size / 1e6:,.1f} MB",
        "classes": list(found.classes) or "none",
        "left out": f"{len(found.left_out)} that cannot be read" if found.left_out else "nothing",
        **({"notes": list(found.notes)} if found.notes else {}),
        "next": shlex.join(words),
    }


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
    # The first digits are enough to recognize a hash; --json prints the full hash.
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1…", str(value))


def _printable(line: str) -> str:
    shown = "".join(
        character if character.isprintable() else f"\\u{{{ord(character):x}}}" for character in line
    )
    return shown if len(shown) <= MAX_LINE else shown[: MAX_LINE - 1] + "…"
