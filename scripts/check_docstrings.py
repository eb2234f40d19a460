"""Lists descriptions of arguments and attributes that are only fragments, such as "of the clip".

Every entry of an `Args:` or `Attributes:` section must be a phrase that makes sense without its
name: "number of frames", not "of a clip"; `python scripts/check_docstrings.py PATH…` exits with
status 1 if any entry is a fragment.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECTIONS = ("Args:", "Attributes:")
# A phrase that begins with one of these lacks its noun.
FRAGMENTS = re.compile(
    r"(?:and|as|at|but|by|for|from|in|into|of|on|or|out|over|than|that|to|with|see there)\b",
    re.IGNORECASE,
)
COMPLETE = ("at least", "at most", "for each", "for every")
ENTRY = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.+)")


class Entry(NamedTuple):
    """The documentation of one argument or attribute, or of several that share it."""

    file: Path
    line: int
    names: str
    text: str


def entries(file: Path) -> Iterator[Entry]:
    """Yield all entries of a file's docstrings."""
    source = file.read_text()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            first, last = node.body[0].lineno, node.body[0].end_lineno
            yield from _entries_of(file, first, source.splitlines()[first - 1 : last])


def _entries_of(file: Path, first: int, lines: list[str]) -> Iterator[Entry]:
    """Yield the entries of one docstring, given as the lines of its source."""
    inner: int | None = None  # indentation of the section's entries; None outside of a section
    found: list[Entry] = []
    for number, line in enumerate(lines, first):
        indent = len(line) - len(line.lstrip())
        if line.strip() in SECTIONS:
            inner = indent + 4
        elif inner is not None and line.strip() and indent < inner:
            inner = None
        elif inner is not None and indent == inner and (entry := ENTRY.match(line.strip())):
            found.append(Entry(file, number, entry[1], entry[2]))
        elif inner is not None and indent > inner and found:
            found[-1] = found[-1]._replace(text=f"{found[-1].text} {line.strip()}")
    yield from found


def is_fragment(text: str) -> bool:
    """Return whether a text makes no sense without the name that it documents."""
    return FRAGMENTS.match(text) is not None and not text.startswith(COMPLETE)


def main(paths: list[str]) -> int:
    """Print the fragments below the given folders; return 1 if there are any."""
    files = sorted(file for path in paths for file in Path(path).rglob("*.py"))
    found = [entry for file in files for entry in entries(file) if is_fragment(entry.text)]
    for entry in found:
        print(f"{entry.file}:{entry.line}: {entry.names}: {entry.text}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["video_vq", "data_prep", "scripts", "tests", "experiments"]))
