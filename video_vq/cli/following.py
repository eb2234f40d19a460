"""Suggestions for the next command after a subcommand, with the paths that were just used."""

import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from video_vq.errors import InputError
from video_vq.machine import is_main_rank
from video_vq.models import starter
from video_vq.models.model_folder import read_model_config
from video_vq.progress import is_quiet
from video_vq.stores.places import beside, folder_of

ANY_TOKENIZER = Path("TOKENIZER")  # placeholder for a tokenizer that was not found


def say_next(*words: str | Path) -> None:
    """Print the next command on rank 0; print nothing with `--quiet`.

    Args:
        words: the words of the command.
    """
    if is_main_rank() and not is_quiet():
        print(f"next: {shlex.join(map(str, words))}")


def verify_words(store: Path) -> tuple[str | Path, ...]:
    """Return the words of the command that checks a clip store and draws a contact sheet."""
    sheet = beside(store, f"{os.path.basename(os.path.abspath(store))}.png")
    return ("data-prep", "verify", store, "--sheet", sheet)


def tokenizer_of(tokenizer_hash: str, near: Iterable[Path]) -> Path:
    """Return the value of `--tokenizer` that names the tokenizer with a given hash.

    Args:
        tokenizer_hash: hash of the tokenizer's tensors and model config.
        near: paths whose parent folders are searched first.

    Returns:
        The tokenizer's folder, STARTER for the starter tokenizer, or ANY_TOKENIZER if no tokenizer
        with this hash was found.
    """
    for path in near:
        candidates: list[Path] = []
        with suppress(OSError):  # the folder has just been removed, or cannot be read
            candidates = sorted(folder_of(path).iterdir())
        for candidate in candidates:
            if _has_hash(candidate, tokenizer_hash):
                return candidate
    return Path(starter.STARTER) if _has_hash(starter.FOLDER, tokenizer_hash) else ANY_TOKENIZER


def _has_hash(folder: Path, tokenizer_hash: str) -> bool:
    with suppress(InputError, OSError):
        return read_model_config(folder, "tokenizer").hash == tokenizer_hash
    return False
