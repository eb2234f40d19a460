"""Scores a tokenizer on the whole videos that the starter never saw, at 128 px.

    python scripts/starter/score.py VIDEOS TOKENIZER --out scores

Clips have 49 frames, not the 9 of training: a causal tokenizer spends a whole latent frame on the
first one, so long clips cost 0.0497 bits per pixel, and whole videos less.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from make_data import VIDEO_ENDS, is_held_out

from video_vq.models.tokenizer import VideoTokenizer

SIDE, NUM_FRAMES = 128, 49


def main() -> None:
    """Prepare the clips, once, and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, help="the folder of footage that make_data.py took")
    parser.add_argument("tokenizer", help="a causal tokenizer: its folder, run folder or name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--controls", action="store_true", help="also video codecs, at equal bits")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    clips = out / "clips"
    if not clips.exists():
        footage = sorted(p for p in arguments.videos.glob("*/*") if p.suffix in VIDEO_ENDS)
        with open(out / "held_out.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "split"])
            rows.writerows(
                [path.resolve(), "test"] for path in footage if is_held_out(path, arguments.videos)
            )
        run("data_prep", "folder", out / "held_out.csv", "--out", clips, "--size", SIDE)
    tokenizer = VideoTokenizer.from_pretrained(arguments.tokenizer)
    size = (NUM_FRAMES, SIDE, SIDE)
    tokenizer.facts = replace(
        tokenizer.facts,
        num_frames=NUM_FRAMES,
        frame_size_hw=(SIDE, SIDE),
        grid_thw=tokenizer.config.backbone.grid_thw(size),
    )
    shutil.rmtree(out / "tokenizer", ignore_errors=True)
    tokenizer.save_pretrained(out / "tokenizer")
    controls = ("--controls", "codec") if arguments.controls else ()
    scored = ("--data", clips, "--tokenizer", out / "tokenizer", "--out", out / "evaluation")
    run("video_vq", "evaluate", *scored, *controls)


def run(module: str, *words: object) -> None:
    """Run a command of this project; end with its status if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, words)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
