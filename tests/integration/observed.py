"""Training that records each rank's inputs and state after every step.

`observed.py train-tokenizer …` runs the command; `observing()` records training in this process.
Each rank writes `observed-rankN.jsonl` to the run folder, with one line per step: the videos in its
batches, whether DDP broadcasts buffers, and the SHA-256 of the codebook, the model, the
discriminator and the discriminator's optimizer, before ranks synchronize again.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from video_vq.cli import main
from video_vq.models.tokenizer import VideoTokenizer


@contextmanager
def observing() -> Iterator[None]:
    """Record the training of tokenizers inside this context."""
    from video_vq.training.loop import Training

    real_batches, real_turns = Training.batches, Training.turns
    seen: list[int] = []

    def note(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            seen.extend(getattr(batch, "videos", Tensor()).tolist())
            yield batch

    def batches(training: Training, dataset: Any) -> Iterator[Any]:
        return note(real_batches(training, dataset))

    def turns(training: Training) -> Iterator[Any]:
        for turn in real_turns(training):
            yield turn
            if turn == "train" and isinstance(training.bare_model, VideoTokenizer):
                write(training, seen)
            if turn == "train":
                seen.clear()

    with mock.patch.multiple(Training, batches=batches, turns=turns):
        yield


def write(training: Any, seen: list[int]) -> None:
    """Append a line for the last step to this rank's file."""
    model, tokenizer = training.model, training.bare_model
    rank, discriminator = training.accelerator.process_index, training.state.discriminator
    held = {
        "codebook": tokenizer.quantizer.codebook.state_dict(),
        "model": tokenizer.state_dict(),
        **({} if discriminator is None else discriminator.tensors()),
    }
    line = {
        "step": training.state.step,
        "rank": rank,
        "num_processes": training.accelerator.num_processes,
        "broadcast_buffers": isinstance(model, DistributedDataParallel) and model.broadcast_buffers,
        "videos": seen,
        **{f"{name}_sha256": sha256(tensors) for name, tensors in held.items()},
    }
    with open(training.run_folder.path / f"observed-rank{rank}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def sha256(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' bytes, in alphabetical order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    with observing():
        sys.exit(main(sys.argv[1:]))
