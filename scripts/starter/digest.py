"""Repeats the first steps of the starter's training, and compares the digest with the recorded one.

    OMP_NUM_THREADS=1 python scripts/starter/digest.py CLIPS

These steps have the same learning rates as in the whole run, whose decay begins later.
The digest is the hash of the trained model; it depends on torch, the processor and the precision.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

RECORD = Path(__file__).with_name("digest.json")
STEPS = 50


def main() -> None:
    """Train, print the digest and the recorded one, and exit with status 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="the clip store that make_data.py wrote")
    parser.add_argument("--write", action="store_true", help="record the digest")
    arguments = parser.parse_args()
    found = {
        "steps": STEPS,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "precision": "bf16",
        "hash": digest_of(arguments.clips),
    }
    if arguments.write:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
    recorded = json.loads(RECORD.read_text())
    print(json.dumps({"found": found, "recorded": recorded}, indent=2))
    sys.exit(found["hash"] != recorded["hash"])


def digest_of(clips: Path, *settings: str) -> str:
    """Train a starter tokenizer for `STEPS` steps, and return its hash.

    Args:
        clips: path of the clip store.
        settings: additional config settings, for experiments.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [sys.executable, "-m", "video_vq", "train-tokenizer", "--config", "starter"]
        command += ["--data", str(clips), "--out", str(out), "--tracker", "none", "--quiet"]
        command += [f"optim.steps={STEPS}", "optim.decay_steps=1", "run.validation_clips=1"]
        environment = os.environ | {"ACCELERATE_MIXED_PRECISION": "bf16"}
        subprocess.run([*command, *settings], check=True, env=environment)
        return json.loads((out / "tokenizer" / "config.json").read_text())["hash"]


if __name__ == "__main__":
    main()
