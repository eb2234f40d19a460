"""Provenance of a result: the machine, the code version and the command."""

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import video_vq


def environment() -> dict[str, Any]:
    """Return versions, git commit, device, command arguments and time as a JSON object."""
    import torch

    return {
        "video_vq": video_vq.__version__,
        "git": _git_commit(),
        "torch": str(torch.__version__),
        "accelerate": importlib.metadata.version("accelerate"),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "command": sys.argv[1:],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _git_commit() -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None  # installed from a wheel, or there is no git
    answer = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None
