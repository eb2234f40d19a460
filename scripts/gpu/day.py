"""Settings, results, checks and timing, shared by the parts of a GPU day."""

import gc
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from measure import milliseconds
from torch import Tensor

from video_vq.config import find_config, load_config
from video_vq.environment import environment
from video_vq.stores.files import write_bytes
from video_vq.training.training_config import TokenizerTrainingConfig

Number = TypeVar("Number")
Figures = dict[str, Any]


class Day(NamedTuple):
    """Output folder, device and scale of a GPU day, a series of measurements on one machine.

    Attributes:
        out: folder for results and data.
        device: "cuda", or "cpu" for a rehearsal.
        is_smoke: whether this is a rehearsal: a miniature smoke test, whose results are
            meaningless.
    """

    out: Path
    device: str
    is_smoke: bool

    def pick(self, full: Number, small: Number) -> Number:
        """Return `full`, or `small` in a rehearsal."""
        return small if self.is_smoke else full


class Part(NamedTuple):
    """A step of a GPU day, which runs in a separate process.

    Attributes:
        name: name of the form "correct/…", "speed/…" or "train/…".
        work: function that returns the results; if they contain "unfinished": True, the function
            must be called again.
        seconds: number of seconds after which its process is killed.
    """

    name: str
    work: Callable[[Day], Figures]
    seconds: int = 240


class Results:
    """A JSON file with the machine and the results of each part, which is written atomically."""

    def __init__(self, path: Path):
        self.path = path
        self.parts: dict[str, Figures] = {}
        self.machine: Figures = {}
        if path.exists():
            held = json.loads(path.read_text())
            self.machine, self.parts = held["machine"], held["parts"]

    def is_done(self, name: str) -> bool:
        """Return whether a part is finished."""
        return self.parts.get(name, {}).get("status") == "done"

    def write(self, name: str, figures: Figures) -> None:
        """Replace a part's results, and write the file."""
        self.parts[name] = figures
        self.save()

    def save(self) -> None:
        """Write the file."""
        text = json.dumps({"machine": self.machine, "parts": self.parts}, indent=1)
        write_bytes(self.path, text.encode())


def machine(day: Day) -> Figures:
    """Return facts about machine and software; call this in a child process: it starts CUDA."""
    found: Figures = {**environment(), "is_smoke": day.is_smoke, "cores": os.cpu_count()}
    del found["command"]
    if day.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {
            "cards": torch.cuda.device_count(),
            "card_gigabytes": round(card.total_memory / 1e9, 1),
            "compute_capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
        }
    return found


def check(value: float, limit: float) -> Figures:
    """Return a value, its limit, and whether it stays within the limit; NaN does not."""
    return {"value": float(value), "limit": limit, "passed": bool(value <= limit)}


def relative(found: Tensor, expected: Tensor) -> float:
    """Return |found − expected| / |expected| in float64."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


def median_milliseconds(day: Day, work: Callable[[], object], rounds: int = 20) -> float:
    """Return the median time of `work` on the device, after three calls to warm up."""
    return statistics.median(all_milliseconds(day, work, rounds))


def all_milliseconds(day: Day, work: Callable[[], object], rounds: int = 20) -> list[float]:
    """Return the times of `work` on the device, after three calls to warm up."""
    for _ in range(day.pick(3, 1)):
        work()
    wait(day)
    return [milliseconds(work, day.device) for _ in range(day.pick(rounds, 2))]


def wait(day: Day) -> None:
    """Wait until the GPU has finished its work."""
    if day.device == "cuda":
        torch.cuda.synchronize()


def free(day: Day) -> None:
    """Free unused memory, and reset the peak that `peak_gigabytes` returns."""
    gc.collect()
    if day.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes(day: Day) -> float | None:
    """Return the peak memory of tensors on the GPU since `free`; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if day.device == "cuda" else None


SMALL = (
    *("model.backbone.channels=8", "model.backbone.num_blocks=1", "data.num_frames=5"),
    *("model.quantizer.codebook_size=32", "model.quantizer.codebook_dim=8"),
)


def tokenizer_config(day: Day, name: str, *changes: str) -> TokenizerTrainingConfig:
    """Return a shipped config with changes; in a rehearsal, always a tiny `bair_small`."""
    if day.is_smoke:
        # One model stands for all, because differences between configs are tested elsewhere.
        name, changes = "bair_small", (*changes, *SMALL)
    path = find_config(name, "tokenizer")
    return load_config(TokenizerTrainingConfig, path, changes)
