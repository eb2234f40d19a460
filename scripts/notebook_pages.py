"""An MkDocs hook that shows each notebook as a page of the documentation.

docs/notebooks/NAME.ipynb becomes the page notebooks/NAME.md. Notebooks are committed
without cell outputs; `tests/integration/test_notebooks.py` runs the cells.
"""

import json
from pathlib import Path
from typing import Any


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook, and keep the notebook itself for download."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for notebook in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        page = page_of(json.loads(notebook.read_text()), notebook.name)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=page))
    return files


def page_of(notebook: dict[str, Any], name: str) -> str:
    """Return the cells of a notebook in Markdown, with a download link after the first cell."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    shown = [
        text if kind == "markdown" else f"```python\n{text}\n```"
        for kind, text in zip(kinds, cells, strict=True)
    ]
    title, *rest = shown
    return "\n\n".join([title, f"Download [{name}]({name}) to run it.", *rest])
