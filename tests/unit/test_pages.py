"""Tests that README and docs are short and complete and agree with the code."""

import argparse
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import data_prep.cli
import video_vq.cli

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
README = (REPOSITORY / "README.md").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def pages_of(nav: list) -> list[str]:
    """Return the pages that are named in a part of the navigation of mkdocs.yml."""
    return [
        page
        for entry in nav
        for page in (pages_of(next(iter(entry.values()))) if isinstance(entry, dict) else [entry])
    ]


def test_the_readme_is_short():
    assert len(README.split()) <= 900


def test_the_readme_links_to_files_that_are_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (REPOSITORY / link).exists(), link


def test_the_badges_are_true():
    badges = (DOCS / "badges.svg").read_text()
    assert f"Python {PROJECT['requires-python'].replace('>=', '≥ ')}" in badges
    assert f"{PROJECT['license']} licence" in badges
    assert f"Version {PROJECT['version']}" in README


@pytest.mark.parametrize("command", [video_vq.cli, data_prep.cli])
def test_every_verb_has_a_line_with_an_example_that_parses(command):
    page = (DOCS / "commands.md").read_text()
    parser = command.make_parser()
    (verbs,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for verb in verbs:
        (example,) = re.findall(rf"^\| `{verb}` \|.*\| `{parser.prog} ({verb} .*)` \|$", page, re.M)
        parser.parse_args(example.split())


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    there |= {f"notebooks/{file.stem}.md" for file in (DOCS / "notebooks").glob("*.ipynb")}
    assert sorted(pages_of(config["nav"])) == sorted(there)


def test_the_tree_names_files_that_are_there():
    found = re.search(r"```\n(.*?)```", (DOCS / "tree.md").read_text(), re.DOTALL)
    assert found is not None
    folder = room = ""
    for line in found[1].splitlines():
        if not line.strip() or line.startswith(" " * 20):
            continue
        names = re.split(r"\s{2,}", line.strip())[0]
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            folder = names.rstrip("/")
            assert (REPOSITORY / folder).is_dir(), folder
            continue
        if depth == 2:
            room = f"{folder}/{names.rstrip('/')}"
        parent = {2: folder, 4: room}[depth]
        for name in names.split(", "):
            assert list((REPOSITORY / parent).glob(name.strip().rstrip("/"))), f"{parent}/{name}"
