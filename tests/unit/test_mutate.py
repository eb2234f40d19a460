"""Tests of the mutation script: chosen changes, and detection of lines that no test checks."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutate.py"

SOURCE = '''"""A text with 1 < 2."""
import math

def f(x: int = 3, *, flag: bool = True) -> int:
    if x < 4 and flag:
        raise ValueError(f"{x} is less than {4 - 1}")
    assert x > 0
    total = -x
    total += math.floor(x)
    print(total, x)
    return max(total, x.bit_length())  # ä 5
'''


def script() -> Any:
    spec = importlib.util.spec_from_file_location("mutate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module
    spec.loader.exec_module(module)
    return module


def test_every_mutant_changes_one_line_that_is_no_text_annotation_or_assertion():
    mutants = script().Finder("f.py", SOURCE.encode()).mutants
    changes = {}
    for mutant in mutants:
        changed, before, after = mutant.apply(SOURCE.encode())
        ast.parse(changed)
        lines = zip(SOURCE.splitlines(), changed.decode().splitlines(), strict=True)
        assert [old.strip() for old, new in lines if old != new] == [before]
        changes.setdefault(mutant.line, set()).add(after)
    assert changes == {
        4: {
            "def f(x: int = 4, *, flag: bool = True) -> int:",
            "def f(x: int = 2, *, flag: bool = True) -> int:",
            "def f(x: int = 3, *, flag: bool = False) -> int:",
        },
        5: {
            "if not (x < 4 and flag):",
            "if x <= 4 and flag:",
            "if x < 4 or flag:",
            "if x < 5 and flag:",
            "if x < 3 and flag:",
        },
        6: {"pass"},
        8: {"total = x"},
        9: {"pass", "total -= math.floor(x)", "total += (x)"},
        10: {"pass", "print(x, total)"},
        11: {"return max(total, (x))  # ä 5"},
    }


# In a process of its own, as the script forks; without PyTorch, which is not needed here.
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
import mutate
mutate.ROOT, mutate.PRELOADED = Path.cwd(), ()
sys.argv[1:] = ["--files", "video_vq/half.py", "--tests", "tests", "--num", "99", "--limit", "60"]
mutate.main()
"""


def test_a_watched_line_kills_and_an_unwatched_one_does_not(tmp_path):
    (tmp_path / "video_vq").mkdir()
    (tmp_path / "tests").mkdir()
    source = "def half(x):\n    return x / 2\n\n\ndef third(x):\n    return x / 3\n"
    (tmp_path / "video_vq/half.py").write_text(source)
    (tmp_path / "video_vq/__init__.py").write_text("")
    test = "from video_vq.half import half\n\ndef test_half():\n    assert half(4) == 2\n"
    (tmp_path / "tests/test_half.py").write_text(test)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    answer = subprocess.run(
        [sys.executable, "-c", RUN, str(SCRIPT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    killed = "killed (tests/test_half.py::test_half)"
    assert lines[0] == "6 of 6 possible mutants"
    for line, (old, new) in zip(lines[1:4], [("/", "*"), ("2", "1"), ("2", "3")], strict=True):
        after = "return x / 2".replace(old, new)
        assert line == f"video_vq/half.py:2: return x / 2 → {after}: {killed}"
    assert all(line.endswith(": survived") for line in lines[4:7])
    assert lines[7:] == ["3 of 6 killed (50%)"]
    assert (tmp_path / "video_vq/half.py").read_text() == source
