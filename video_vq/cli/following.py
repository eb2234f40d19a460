"""The command to run after a verb, with the paths that were just used."""

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from video_vq.errors import InputError
from video_vq.machine import is_main_rank
from video_vq.models.model_folder import read_model_config
from video_vq.progress import is_quiet

ANY_TOKENIZER = Path("TOKENIZER")  # stands for one that was not found


def say_next(*words: str | Path) -> None:
    """Print the command that comes next, on the first rank only; nothing with `--quiet`."""
    if is_main_rank() and not is_quiet():
        print(f"next: {shlex.join(map(str, words))}")


def unused(path: Path) -> Path:
    """Return an unused path: this one, or this one with the first unused number appended."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def beside(path: Path, name: str) -> Path:
    """Return an unused path with this name next to another one, which may be `.` or `..`."""
    return unused(_folder_of(path) / name)


def verify_words(store: Path) -> tuple[str | Path, ...]:
    """Return the command that checks a clip store and draws a contact sheet of it."""
    sheet = beside(store, f"{os.path.basename(os.path.abspath(store))}.png")
    return ("data-prep", "verify", store, "--sheet", sheet)


def tokenizer_of(tokenizer_hash: str, near: Iterable[Path]) -> Path:
    """Return the tokenizer with a given hash, searched for in the usual places near some paths."""
    for path in near:
        candidates: list[Path] = []
        with suppress(OSError):  # it was removed just now, or cannot be read
            candidates = sorted(_folder_of(path).iterdir())
        for candidate in candidates:
            with suppress(InputError, OSError):
                if read_model_config(candidate, "tokenizer").hash == tokenizer_hash:
                    return candidate
    return ANY_TOKENIZER


def _folder_of(path: Path) -> Path:
    """Return the folder that contains a path, also for `.` and `..`, where `parent` fails."""
    if path.name not in ("", ".."):
        return path.parent
    folder = Path(os.path.abspath(path)).parent
    return folder if path.is_absolute() else Path(os.path.relpath(folder))
