"""Suggestions for the next command after a subcommand, with the paths that were just used."""

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from video_vq.errors import InputError
from video_vq.machine import is_main_rank
from video_vq.models.model_folder import read_model_config
from video_vq.progress import is_quiet

ANY_TOKENIZER = Path("TOKENIZER")  # placeholder for a tokenizer that was not found


def say_next(*words: str | Path) -> None:
    """Print the next command on rank 0; print nothing with `--quiet`.

    Args:
        words: the words of the command.
    """
    if is_main_rank() and not is_quiet():
        print(f"next: {shlex.join(map(str, words))}")


def unused(path: Path) -> Path:
    """Return `path` if nothing exists there, else `path` with the first unused number from 2 on."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def beside(path: Path, name: str) -> Path:
    """Return an unused path with a given name next to `path`, which may be `.` or `..`."""
    return unused(_folder_of(path) / name)


def verify_words(store: Path) -> tuple[str | Path, ...]:
    """Return the words of the command that checks a clip store and draws a contact sheet."""
    sheet = beside(store, f"{os.path.basename(os.path.abspath(store))}.png")
    return ("data-prep", "verify", store, "--sheet", sheet)


def tokenizer_of(tokenizer_hash: str, near: Iterable[Path]) -> Path:
    """Return the folder of the tokenizer with a given hash, or ANY_TOKENIZER if it is not found.

    Args:
        tokenizer_hash: hash of the tokenizer's tensors and model config.
        near: paths whose parent folders are searched.
    """
    for path in near:
        candidates: list[Path] = []
        with suppress(OSError):  # the folder has just been removed, or cannot be read
            candidates = sorted(_folder_of(path).iterdir())
        for candidate in candidates:
            with suppress(InputError, OSError):
                if read_model_config(candidate, "tokenizer").hash == tokenizer_hash:
                    return candidate
    return ANY_TOKENIZER


def _folder_of(path: Path) -> Path:
    """Return the folder that contains a path, even for `.` and `..`, where `parent` is wrong."""
    if path.name not in ("", ".."):
        return path.parent
    folder = Path(os.path.abspath(path)).parent
    return folder if path.is_absolute() else Path(os.path.relpath(folder))
