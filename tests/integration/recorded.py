"""Recorded results of six steps of both trainings on 1 and 2 ranks; run this file to record.

`recorded.json` contains the SHA-256 of all results of a run, by machine. A machine is identified by
the torch version and the result of a small fixed computation, because other kernels round
differently. The names, types and shapes in a checkpoint apply to all machines.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ranks
import safetensors.torch
import torch
from ranks import KINDS, make_data
from runs import run
from survival import log_without_times
from torch import Tensor, nn
from torch.nn import functional as F

FILE = Path(__file__).with_name("recorded.json")
LAST = "step_0000006"


def make_runs(folder: Path) -> None:
    """Train both kinds of model, first on one rank in this process, then on two ranks."""
    make_data(folder)
    for number in (1, 2):
        (folder / str(number)).mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ranks.recorded(folder, folder / "1")
    run([sys.executable, ranks.__file__, "2", folder, "recorded"])
    torch.set_num_threads(threads)


def tensors(run: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors in a run's last checkpoint, by file."""
    files = sorted((run / "state" / LAST).glob("*.safetensors"))
    return {file.stem: safetensors.torch.load(file.read_bytes()) for file in files}


def saved_state(run: Path) -> dict[str, Any]:
    """Return state.json of the last checkpoint, without the position in the log."""
    state = json.loads((run / "state" / LAST / "state.json").read_text())
    del state["log_position"]  # times have more or fewer digits
    return state


def digests(run: Path) -> dict[str, str]:
    """Return the SHA-256 of each result of a run, by name; times are ignored."""
    found = {name: sha256(values) for name, values in tensors(run).items()}
    for name, value in (("state", saved_state(run)), ("metrics", log_without_times(run))):
        text = json.dumps(value, sort_keys=True)
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def sha256(values: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(values.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def names(run: Path) -> dict[str, Any]:
    """Return the names, types and shapes in a run's last checkpoint."""
    shapes = {
        file: {name: f"{value.dtype} {list(value.shape)}" for name, value in values.items()}
        for file, values in tensors(run).items()
    }
    state = saved_state(run)
    return {**shapes, "state.json": sorted(state), "health": sorted(state["health"])}


def machine() -> str:
    """Return a name for this machine's torch version and kernels."""
    torch.manual_seed(0)
    conv = nn.Conv3d(8, 16, 3, padding=1)
    linear = nn.Linear(16, 48)
    video = torch.randn(2, 8, 4, 8, 8)
    rows = linear(F.silu(conv(video)).flatten(2).mT)
    values = torch.softmax(rows @ rows.mT / 7, dim=-1) @ F.gelu(rows)
    loss = F.cross_entropy(values.flatten(0, 1), torch.arange(512) % 48) + values.std().log()
    loss.backward()
    parameters = [*conv.parameters(), *linear.parameters()]
    nn.utils.clip_grad_norm_(parameters, 1e-3)
    torch.optim.AdamW(parameters).step()
    found = {str(index): value for index, value in enumerate([values, *parameters])}
    return f"torch {torch.__version__}, kernels {sha256(found)[:16]}"


def record() -> None:
    """Update the names in recorded.json, and add this machine's digests to those of others."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        make_runs(folder)
        known = json.loads(FILE.read_text()) if FILE.exists() else {"digests": {}}
        known["digests"][machine()] = {
            f"{kind} on {world}": digests(folder / world / f"{kind}-recorded")
            for kind in KINDS
            for world in "12"
        }
        known["names"] = {kind: names(folder / "2" / f"{kind}-recorded") for kind in KINDS}
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    record()
