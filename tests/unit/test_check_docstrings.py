"""Tests of the check for fragments in the documentation of arguments."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_docstrings.py"

SOURCE = '''
def crop(frames, size, seed):
    """Crop frames.

    Args:
        frames: of a clip,
            in order.
        size, seed: at least 1: the side, and the seed.

    Raises:
        ValueError: of no use here.
    """


class Clip:
    """A clip.

    Attributes:
        fps: With the clip's own rate.
        path: path of the clip.
    """
'''


def test_fragments_are_listed_with_their_line_and_their_whole_text(tmp_path):
    (tmp_path / "module.py").write_text(SOURCE)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{tmp_path}/module.py:6: frames: of a clip, in order.",
        f"{tmp_path}/module.py:19: fps: With the clip's own rate.",
    ]


def test_complete_phrases_pass(tmp_path):
    (tmp_path / "module.py").write_text(SOURCE.replace("of a clip", "frames").replace("With", ""))
    assert subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=False).returncode == 0
