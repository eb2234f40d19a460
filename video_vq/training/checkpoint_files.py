"""Checkpoint listing and integrity checks. This module does not import torch."""

import re
from pathlib import Path

from video_vq.errors import InputError
from video_vq.facts import Facts, sizes
from video_vq.models.model_folder import TENSORS, describe_tensors
from video_vq.stores.files import read_json, sha256_file

MANIFEST = "manifest.json"
STATE = "state.json"


class CheckpointFiles:
    """The checkpoint files of one run.

    Args:
        path: path of the run's folder `state`.
    """

    def __init__(self, path: Path):
        self.path = path

    def steps(self) -> list[int]:
        """Return the steps that have a complete checkpoint, in ascending order."""
        if not self.path.is_dir():
            return []
        found = [re.fullmatch(r"step_(\d{7,18})", entry.name) for entry in self.path.iterdir()]
        steps = [(int(match[1]), match[0]) for match in found if match]
        return sorted(step for step, name in steps if name == self.folder(step).name)

    def folder(self, step: int) -> Path:
        """Return the path of a step's checkpoint folder."""
        return self.path / f"step_{step:07d}"

    def problem(self, step: int) -> str | None:
        """Return the reason why a checkpoint cannot be used, or None if all bytes are intact."""
        folder = self.folder(step)
        try:
            entries = list(folder.iterdir())
            # This check precedes any reading, because reading a pipe might never end.
            if not all(entry.is_file() and not entry.is_symlink() for entry in entries):
                return f"{folder}: holds something that is not a plain file"
            manifest = read_json(folder / MANIFEST, "a checkpoint's manifest")
            hashes = manifest.get("sha256")
            if not isinstance(hashes, dict) or STATE not in hashes:
                return f"{folder}/{MANIFEST}: lists no files"
            if manifest.get("step") != step:
                return f"{folder}: is the checkpoint of another step"
            if odd := [
                name for name in hashes if not re.fullmatch(r"\w+\.safetensors|state\.json", name)
            ]:
                return f"{folder}/{MANIFEST}: lists {odd[0]!r}, which is not a file of a checkpoint"
            if {entry.name for entry in entries} - {MANIFEST} != set(hashes):
                return f"{folder}: holds files other than those its manifest lists"
            for name, expected in hashes.items():
                if sha256_file(folder / name) != expected:
                    return f"{folder / name}: its bytes are not those that were written"
        except InputError as error:
            return str(error)
        except OSError as error:
            return f"{folder}: cannot be read: {error}"
        return None

    def newest(self) -> tuple[int, list[str]] | None:
        """Return the newest step with an intact checkpoint, and the problems of newer checkpoints.

        Without any checkpoints, the result is None.

        Raises:
            InputError: there are checkpoints, but none of them is intact.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            problem = self.problem(step)
            if problem is None:
                return step, problems
            problems.append(problem)
        if problems:
            listed = "\n  ".join(problems)
            raise InputError(
                f"{self.path}: no checkpoint can be used:\n  {listed}\n"
                "Restore one from a backup, or delete the folder to start over."
            )
        return None


def describe_checkpoint(folder: Path) -> Facts:
    """Return the details of a checkpoint that `video-vq info` shows."""
    manifest = read_json(folder / MANIFEST, "a checkpoint's manifest")
    state = read_json(folder / STATE, "a checkpoint's state")
    best = state.get("best")
    return {
        "step": int(manifest["step"]),
        "steps skipped": int(state["skipped_steps"]),
        "best validation": "none yet"
        if best is None
        else f"{_validation(float(best[0]))} at step {int(best[1])}",
        **describe_tensors(folder / TENSORS),
        "files": sizes(folder / name for name in dict(manifest["sha256"])),
    }


def _validation(value: float) -> str:
    """Return a validation value as text; a tokenizer run stores −PSNR, so that lower is better."""
    return f"PSNR {-value:.5g} dB" if value < 0 else f"{value:.5g} bits per token"
