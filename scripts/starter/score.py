"""Scores a tokenizer or the codecs on videos that the starter never saw, at 128 px.

    python scripts/starter/score.py VIDEOS --out scores                       # codecs, once
    python scripts/starter/score.py VIDEOS --out scores --tokenizer starter

Clips have 49 frames, not 9 as in training. A causal tokenizer spends a whole latent frame on the
first frame, so longer clips cost fewer bits per pixel: 0.0497 for 49 frames, 0.0625 for 9.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from make_data import footage_of

from video_vq.data.windows import scoring_windows
from video_vq.media.codec import CodecName, available_codecs, code_clip
from video_vq.metrics.reconstruction import psnr_per_clip, ssim_per_clip
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.stores.clips import ClipStore
from video_vq.stores.files import read_json, write_json

SIDE, NUM_FRAMES = 128, 49
BITS = (1 + (NUM_FRAMES - 1) // 4) * (SIDE // 8) ** 2 * 12  # of a clip's tokens


def main() -> None:
    """Prepare the clips; then score the given tokenizer, or else all codecs not yet scored."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, help="the folder of footage that make_data.py took")
    parser.add_argument("--tokenizer", help="a causal tokenizer: its folder, run folder or name")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    clips = out / "clips"
    prepare(arguments.videos, out, clips)
    if arguments.tokenizer is not None:
        evaluate(arguments.tokenizer, clips, out)
        return
    for codec in available_codecs():
        if not (out / f"{codec}.json").exists():
            write_json(out / f"{codec}.json", codec_scores(ClipStore(clips), codec))
        print(codec, read_json(out / f"{codec}.json", "a codec's scores"))


def prepare(videos: Path, out: Path, clips: Path) -> None:
    """Make a clip store of the held-out videos."""
    _, held_out = footage_of(videos)
    with open(out / "held_out.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "split"])
        rows.writerows([path.relative_to(videos), "test"] for path in held_out)
    listed = (out / "held_out.csv", "--root", videos)
    run("data_prep", "folder", *listed, "--out", clips, "--size", SIDE)


def evaluate(name: str, clips: Path, out: Path) -> None:
    """Evaluate a tokenizer on clips of NUM_FRAMES frames."""
    tokenizer = VideoTokenizer.from_pretrained(name)
    tokenizer.facts = replace(
        tokenizer.facts,
        num_frames=NUM_FRAMES,
        frame_size_hw=(SIDE, SIDE),
        grid_thw=tokenizer.config.backbone.grid_thw((NUM_FRAMES, SIDE, SIDE)),
    )
    shutil.rmtree(out / "tokenizer", ignore_errors=True)
    tokenizer.save_pretrained(out / "tokenizer")
    scored = ("--data", clips, "--tokenizer", out / "tokenizer", "--out", out / "evaluation")
    run("video_vq", "evaluate", *scored, "--controls")


def codec_scores(store: ClipStore, codec: CodecName) -> dict[str, float]:
    """Code the clips that an evaluation scores; return their number, mean scores and mean bits."""
    found = []
    for window in scoring_windows(store, "test", NUM_FRAMES, 1, None, 0):
        clip = store.read(window.video, window.start, NUM_FRAMES)
        coded = code_clip(clip, codec, BITS)
        pair = torch.from_numpy(coded.clip[None].copy()), torch.from_numpy(clip[None])
        scores = (float(psnr_per_clip(*pair)), float(ssim_per_clip(*pair)))
        found.append((*scores, coded.payload_bits, coded.file_bits))
    means = np.mean(found, axis=0)
    names = ("psnr", "ssim", "payload_bits", "file_bits")
    return {"clips": len(found), **dict(zip(names, map(float, means), strict=True))}


def run(module: str, *words: object) -> None:
    """Run a module of this project as a script; exit with its status if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, words)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
