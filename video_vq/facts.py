"""Short strings that describe stores, models and runs: sizes, counts and settings."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Facts = dict[str, Any]  # each value is a text, a number, or a list or mapping of these


def times(sides: Iterable[int]) -> str:
    """Return a size as text, such as "4 x 16 x 16"."""
    return " x ".join(str(side) for side in sides)


def codes(vocabulary: Iterable[int]) -> str:
    """Return vocabulary sizes as text: "1,024", or "1,024 x 512" for several codes per position."""
    return " x ".join(f"{size:,}" for size in vocabulary)


def score(value: float | None) -> str:
    """Return a score as text: "exact" if the score is None, for clips reproduced exactly."""
    return "exact" if value is None else f"{value:.3f}"


def tokens(grid_thw: Iterable[int], vocabulary: Iterable[int]) -> str:
    """Return the grid and vocabulary of a clip as text: "4 x 8 x 8 of 512 for each clip"."""
    return f"{times(grid_thw)} of {codes(vocabulary)} for each clip"


def per_split(splits: Iterable[str]) -> dict[str, int]:
    """Return the total count under "all", and the count in each split."""
    counts = Counter(splits)
    return {"all": counts.total(), **{name: counts[name] for name in sorted(counts)}}


def or_none(names: Iterable[str]) -> list[str] | str:
    """Return the names as a list, or "none" if there are no names."""
    return [str(name) for name in names] or "none"


def plain(settings: dict[str, Any]) -> Facts:
    """Return only the settings that are neither mappings nor lists."""
    return {key: value for key, value in settings.items() if not isinstance(value, dict | list)}


def made_by(plan: dict[str, Any]) -> Facts:
    """Return the plain settings in a plan and in its `made_by` mapping."""
    inner = plan.get("made_by")
    return plain({**plan, **(inner if isinstance(inner, dict) else {})})


def actions(numbers: int) -> Facts:
    """Return an entry for the action values per latent frame, or no entry if there are none."""
    return {"actions": f"{numbers} numbers for each latent frame"} if numbers else {}


def sizes(files: Iterable[Path]) -> str:
    """Return a text with the number and total size of existing files, and the number missing."""
    files = list(files)
    present = [file.stat().st_size for file in files if file.is_file()]
    missing = len(files) - len(present)
    size = f"{len(present)}, together {sum(present) / 1e6:,.1f} MB"
    return f"{size}; {missing} MISSING" if missing else size
