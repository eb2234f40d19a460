"""Puts a trained starter tokenizer into the package: bfloat16 weights, card, recipe and hashes.

python scripts/starter/export.py RUN
"""

import argparse
import json
from pathlib import Path

import torch

from video_vq.models import starter
from video_vq.models.model_folder import CARD, CONFIG, TENSORS
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.files import readable_json, sha256_file, write_bytes

RECIPE = "recipe.json"
HERE = Path(__file__).parent


def main() -> None:
    """Write the starter's folder in the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of the training")
    arguments = parser.parse_args()
    tokenizer = VideoTokenizer.from_pretrained(arguments.run).to(torch.bfloat16)
    tokenizer.save_pretrained(starter.FOLDER, license="other")
    card = starter.FOLDER / CARD
    card.write_text(f"{card.read_text().rstrip()}\n\n{(HERE / 'card.md').read_text()}")
    run = json.loads((arguments.run / "run.json").read_text())
    run["environment"].pop("command", None)  # it names paths of this machine
    recipe = {
        "run": {key: run[key] for key in ("identity", "environment", "changes") if key in run},
        "first_steps": json.loads((HERE / "digest.json").read_text()),
        "pictures": json.loads((HERE / "pictures.json").read_text()),
    }
    write_bytes(starter.FOLDER / RECIPE, readable_json(recipe))
    hashes = {name: sha256_file(starter.FOLDER / name) for name in (CONFIG, TENSORS, CARD, RECIPE)}
    write_bytes(starter.FOLDER / starter.HASHES, readable_json(hashes))
    size = sum(file.stat().st_size for file in starter.FOLDER.iterdir())
    print(f"{starter.FOLDER}: {size / 1e6:.1f} MB, hash {tokenizer.hash}")


if __name__ == "__main__":
    main()
