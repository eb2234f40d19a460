"""Tests that docs/architecture.md names every file and refers to existing functions."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "architecture.md").read_text()
WALKS = dict(re.findall(r"^### (.+)\n\n```\n([^`]*)```", TEXT, re.MULTILINE))
STOP = re.compile(r"( ?\d+) +(?:↑ )?([\w/]+\.py) → ([\w.]+): \S.*")


def functions_of(file: Path) -> set[str]:
    """Return the names of a file's functions and classes, and of methods as Class.method."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_stops_at_functions_that_are_there_and_is_short(walk):
    stops = WALKS[walk].splitlines()
    assert len(stops) <= 20
    for number, line in enumerate(stops, 1):
        stop = STOP.fullmatch(line)
        assert stop is not None, line
        place, file, function = stop.groups()
        package = "" if file.startswith("data_prep/") else "video_vq/"
        assert int(place) == number
        assert function in functions_of(REPOSITORY / f"{package}{file}"), line


def test_every_file_has_a_phrase():
    assert len(WALKS) == 5
    for package in ("video_vq", "data_prep"):
        for file in (REPOSITORY / package).rglob("*.py"):
            is_verb = file.parent.name == "cli"  # "a file for each verb"
            assert is_verb or file.name.startswith("__") or f"{file.name}`" in TEXT, file
