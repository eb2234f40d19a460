"""Code blocks of the documentation, for tests that run them unchanged."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def code_of(page: str, mark: str) -> str:
    """Return the code block that follows an HTML comment on a page."""
    lines = (DOCS / page).read_text()
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", lines, re.DOTALL)
    assert found is not None, f"docs/{page} has no code after <!-- {mark} -->"
    return found[1]
