"""A record of what each rank saw and holds, to check a cluster or a change by: off by default."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Audit:
    """Writes `audit-rank0.jsonl`, one line per audited step, on every rank.

    A line holds the number of processes, whether buffers are broadcast, the clips of this rank's
    batches, and the sha256 of the codebook, of the whole model and of the discriminator right after
    the step, before any rank could repair another's.

    Args:
        every: audit each n-th step; 0 for none.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, run_path: Path, every: int):
        self.every = every
        self.seen: list[int] = []
        self._file = run_path / f"audit-rank{accelerator.process_index}.jsonl"
        self._facts = {
            "rank": accelerator.process_index,
            "num_processes": accelerator.num_processes,
            "broadcast_buffers": isinstance(model, DistributedDataParallel)
            and model.broadcast_buffers,
        }

    def note(self, videos: Tensor) -> None:
        """Remember the videos of a micro-batch."""
        if self.every:
            self.seen += videos.tolist()

    def write(self, step: int, held: Callable[[], dict[str, dict[str, Tensor]]]) -> None:
        """Write this step's line, if it is one to be audited.

        Args:
            held: returns name to tensors; each name's sha256 goes into the line. Not called
                otherwise: an optimizer's are copied.
        """
        if self.every and step % self.every == 0:
            line = {
                "step": step,
                **self._facts,
                "videos": self.seen,
                **{f"{name}_sha256": _sha256(tensors) for name, tensors in held().items()},
            }
            with open(self._file, "a") as file:
                file.write(json.dumps(line) + "\n")
        self.seen = []


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
