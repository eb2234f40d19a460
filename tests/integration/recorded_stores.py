"""Recorded hashes of small stores; run this file to record them again.

`recorded_stores.json` contains the SHA-256 of each file: for the clips, one for all machines; for
network outputs, one per machine, as identified by `recorded.machine`.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from recorded import machine
from runs import make_clip_store
from trained import trained_prior, trained_tokenizer

from video_vq.cli import main
from video_vq.stores.files import sha256_file

FILE = Path(__file__).with_name("recorded_stores.json")
EVERYWHERE = "clips"


def make_stores(root: Path) -> None:
    """Write stores of clips, tokens, decoded clips and samples, from small random models."""
    make_clip_store(root / "clips", num_videos=6)
    tokenizer, prior = trained_tokenizer(), trained_prior()
    tokenizer.save_pretrained(root / "tokenizer")
    prior.facts = replace(prior.facts, tokenizer_hash=tokenizer.hash)
    prior.save_pretrained(root / "prior")
    by = ["--tokenizer", f"{root}/tokenizer", "--batch-size", "4"]
    two = ["--windows", "uniform", "--clips-per-video", "2", "--short-videos", "loop"]
    for words in (
        ["encode", f"{root}/clips", *by, "--out", f"{root}/tokens", "--hop", "2"],
        ["encode", f"{root}/clips", *by, "--out", f"{root}/two tokens", *two],
        ["decode", f"{root}/tokens", *by, "--out", f"{root}/decoded", "--split", "test"],
        ["sample", "--prior", f"{root}/prior", *by, "--out", f"{root}/samples", "--num", "6"],
    ):
        assert main(words) == 0, words


def digests(root: Path) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of each JSON and NumPy file of the stores, by store and file."""
    return {
        name: {
            str(file.relative_to(root / name)): _digest(file, root)
            for file in sorted((root / name).glob("*"))
            if file.suffix in (".json", ".jsonl", ".npy")
        }
        for name in ("clips", "tokens", "two tokens", "decoded", "samples")
    }


def _digest(file: Path, root: Path) -> str:
    """Return the SHA-256 of a file, ignoring model hashes and the seal in a manifest.

    A model's hash also covers its settings, so a new setting changes the hash.
    """
    if file.name != "manifest.json" or file.parent.name == EVERYWHERE:
        return sha256_file(file)
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    text = json.dumps(manifest, sort_keys=True)
    for model in ("tokenizer", "prior"):
        text = text.replace(json.loads((root / model / "config.json").read_text())["hash"], model)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside this context, as the plan of samples records the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def record() -> None:
    """Write recorded_stores.json, adding this machine's hashes to those of other machines."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {"machines": {}}
    with tempfile.TemporaryDirectory() as path, one_thread():
        make_stores(Path(path))
        found = digests(Path(path))
    known[EVERYWHERE] = found.pop(EVERYWHERE)
    known["machines"][machine()] = found
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(record())
