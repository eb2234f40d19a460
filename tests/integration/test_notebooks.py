"""Tests that run all cells of the documentation's notebooks on less data."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"


def run(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **small: object
) -> dict[str, Any]:
    """Run a notebook's code with changed settings in its first cell; return its variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    cells = [
        "".join(cell["source"])
        for cell in json.loads((FOLDER / name).read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    for setting, value in small.items():
        cells[0], count = re.subn(
            rf"^{setting} = \S+", f"{setting} = {value!r}", cells[0], flags=re.M
        )
        assert count == 1, setting
    namespace: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"{name}, cell {number}", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def _no_windows():
    plt.switch_backend("Agg")


def test_tokenize_and_look(monkeypatch, tmp_path):
    found = run("tokenize.ipynb", monkeypatch, tmp_path, STEPS=10, VIDEOS=12)
    assert found["copies"].shape == found["clips"].shape
    assert found["codes"].shape[1:] == (4, 8, 8)


@pytest.mark.weights
def test_fvd_done_right(monkeypatch, tmp_path, capsys):
    found = run("fvd.ipynb", monkeypatch, tmp_path, VIDEOS=8, FRAMES=9, PROTOCOL="google")
    assert found["features"]["real"].shape == (8, 400)
    assert np.isfinite(found["floor"].distance)
    assert capsys.readouterr().out.count("95 % interval") == 2


def test_notebooks_hold_no_outputs():
    for file in FOLDER.glob("*.ipynb"):
        for cell in json.loads(file.read_text())["cells"]:
            assert not cell.get("outputs"), file.name
