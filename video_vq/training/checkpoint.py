"""Checkpoints to resume from: folders of safetensors and JSON files, written atomically.

A folder such as `state/step_0000100/` exists completely or not at all: the files are written and
fsynced in a temporary folder beside the final path, the last of them `manifest.json`, which lists
the SHA-256 of every other file; the temporary folder is then renamed. Only afterwards are older
checkpoints renamed and deleted. Nothing is ever unpickled.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_vq.models.pretrained import read_tensors
from video_vq.stores import files
from video_vq.stores.files import read_json
from video_vq.training.checkpoint_files import MANIFEST, CheckpointFiles

KEEP = 2
Tensors = dict[str, dict[str, Tensor]]  # by file name, then by tensor name


class CheckpointFolder(CheckpointFiles):
    """The checkpoints of one run, with methods to save and load them.

    Args:
        path: path of the run's folder `state`.
    """

    def save(
        self, step: int, tensors: Tensors, state: dict[str, Any], keep: set[int] | None = None
    ) -> None:
        """Write a checkpoint, then delete all but the two newest intact ones and those in `keep`.

        Args:
            step: number of optimizer steps done.
            tensors: tensors by file name (without suffix).
            state: everything that is not a tensor, as JSON.
            keep: steps whose checkpoints must not be deleted, such as the best step.

        Raises:
            OSError: the disk is full or faulty; earlier checkpoints are unchanged.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._delete_leftovers()
        target = self.folder(step)
        aside = _aside(target)
        aside.mkdir()
        try:
            contents: dict[str, Iterable[bytes | memoryview]] = {
                f"{name}.safetensors": _safetensors(values) for name, values in tensors.items()
            }
            contents["state.json"] = [files.readable_json(state)]
            hashes = {name: _write(aside / name, parts) for name, parts in contents.items()}
            _write(aside / MANIFEST, [files.readable_json({"step": step, "sha256": hashes})])
            files.fsync_folder(aside)
            if target.exists():  # damaged, or the run would have resumed from it
                files.rename(target, target.with_name(f"{target.name}.replaced{files.PARTIAL}"))
            files.rename(aside, target)
            files.fsync_folder(self.path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        self._prune(keep or set())

    def _delete_leftovers(self) -> None:
        for leftover in self.path.glob(f"step_*{files.PARTIAL}"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def _prune(self, keep: set[int]) -> None:
        healthy = 0
        for step in reversed(self.steps()):
            if healthy < KEEP:
                # Each save rereads the newest checkpoints, including the new one, to find damage.
                healthy += self.problem(step) is None
            elif step not in keep:
                try:
                    files.rename(self.folder(step), _aside(self.folder(step)))
                except OSError:
                    return  # the new checkpoint is safe; the next save tries again
        self._delete_leftovers()

    def load(self, step: int) -> tuple[Tensors, dict[str, Any]]:
        """Load an intact checkpoint: the tensors by file name and tensor name, and the state."""
        folder = self.folder(step)
        tensors = {file.stem: read_tensors(file) for file in sorted(folder.glob("*.safetensors"))}
        return tensors, read_json(folder / "state.json", "a checkpoint's state")


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + files.PARTIAL)


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write and fsync a file in the temporary folder of a checkpoint; return the file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in parts:
            files.write(file, part)
            digest.update(part)
        file.flush()
        files.fsync(file.fileno())
    return digest.hexdigest()


# Dtype names of the safetensors format, widest first, so that every tensor is aligned.
_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}


def _safetensors(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in chunks; the safetensors library would copy all tensors twice."""
    order = list(_DTYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    return files.safetensors_parts(
        {
            name: (_DTYPES[value.dtype], value.shape, _bytes_of(value))
            for name, value in ((name, tensors[name]) for name in names)
        }
    )


def _bytes_of(value: Tensor) -> memoryview:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def random_state() -> dict[str, Tensor]:
    """Return the states of torch's random generators on this rank."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Restore the states that `random_state` returned; ignore the states of missing devices."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
