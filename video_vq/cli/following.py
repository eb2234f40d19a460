"""The command that follows a verb, with the paths that were just used."""

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from video_vq.errors import InputError
from video_vq.models.model_folder import read_model_config

ANY_TOKENIZER = Path("TOKENIZER")  # stands for one that was not found


def say_next(*words: str | Path) -> None:
    """Print the command that comes next, on the first rank alone."""
    if os.environ.get("RANK", "0") == "0":
        print(f"next: {shlex.join(map(str, words))}")


def unused(path: Path) -> Path:
    """Return a path at which there is nothing: this one, or with the first number that is free."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def verify_words(store: Path) -> tuple[str | Path, ...]:
    """Return the command that checks a clip store and draws a sheet of it."""
    sheet = unused(store.absolute().with_suffix(".png"))
    shown = sheet if store.is_absolute() else store.with_name(sheet.name)
    return ("data-prep", "verify", store, "--sheet", shown)


def tokenizer_of(tokenizer_hash: str, near: Iterable[Path]) -> Path:
    """Return the tokenizer of a hash, looked for beside some paths, where one usually keeps it."""
    for path in near:
        for candidate in sorted(path.parent.iterdir()):
            with suppress(InputError, OSError):
                if read_model_config(candidate, "tokenizer").hash == tokenizer_hash:
                    return candidate
    return ANY_TOKENIZER
