"""Estimates the costs of a million clips in bytes, CPU hours and GPU hours, from measured rates.

It decodes some videos of a list, and encodes noise with an untrained tokenizer of a config (neither
weights nor pixels affect the time), measuring CPU time on one thread. On a machine with a GPU, the
tokenizer is timed on the GPU; otherwise, its GPU hours are its counted operations divided by an
assumed rate.

Example: `OMP_NUM_THREADS=1 python scripts/cost_model.py LIST --config video64`
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from video_vq.config import find_config, load_config
from video_vq.errors import InputError
from video_vq.media.prepared import FrameRecipe, open_file
from video_vq.models.tokenizer import VideoTokenizer, to_pixels
from video_vq.stores.raw_videos import RawVideos, read_raw_videos
from video_vq.training.training_config import TokenizerTrainingConfig

CLIPS = 1_000_000
GIGA, TERA = 1e9, 1e12
HOUR = 3600.0


class Decoding(NamedTuple):
    """Measurements of the decoding of some videos.

    Attributes:
        frames: number of decoded frames, at the frame rate of the list's recipe.
        file_bytes: size of the videos' files.
        cpu_seconds: CPU time for hashing, decoding and resizing the videos.
    """

    frames: int
    file_bytes: int
    cpu_seconds: float


class Encoding(NamedTuple):
    """Costs of encoding one clip.

    Attributes:
        flops: number of floating-point operations.
        cpu_seconds: time on one CPU thread; None on a machine with a GPU.
        gpu_seconds: time on a GPU; None on a machine without one.
    """

    flops: int
    cpu_seconds: float | None
    gpu_seconds: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description="What a million clips cost.")
    parser.add_argument("list", type=Path, help="a list that `data-prep … --list-only` made")
    parser.add_argument(
        "--config", required=True, help="tokenizer config: a file or a shipped name"
    )
    parser.add_argument("--videos", type=int, default=16, help="how many to decode (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="medians are over these (default: 3)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--assumed-tflops",
        type=float,
        default=100.0,
        help="TFLOP/s assumed of a GPU, if there is none here to be timed (default: 100)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    raw = read_raw_videos(arguments.list)
    recipe = FrameRecipe.from_json(raw.recipe)
    config = load_config(TokenizerTrainingConfig, find_config(arguments.config, "tokenizer"), [])
    tokenizer = VideoTokenizer(config.model)
    shape = (arguments.batch_size, config.data.num_frames, *recipe.size_hw, 3)
    decoding = measure_decoding(raw, recipe, arguments.videos, arguments.rounds)
    encoding = measure_encoding(tokenizer, shape, arguments.rounds)
    grid_thw = config.model.backbone.grid_thw(shape[1:4])
    token_bytes = 2 if config.model.quantizer.codebook_size <= 1 << 16 else 4
    print(
        f"measured: {decoding.frames:,} frames of {min(arguments.videos, len(raw.videos))} videos "
        f"to {recipe.size_hw[0]}x{recipe.size_hw[1]}, {decoding.frames / decoding.cpu_seconds:,.0f}"
        f" frames per CPU-second; {encoding.flops / 1e9:,.1f} GFLOP per clip"
    )
    rows = costs(
        decoding,
        encoding,
        config.data.num_frames * config.data.stride,
        int(np.prod(shape[1:])),
        int(np.prod(grid_thw)) * token_bytes,
        arguments.assumed_tflops,
    )
    print(f"\n| for {CLIPS:,} clips of {config.data.num_frames} frames | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def measure_decoding(raw: RawVideos, recipe: FrameRecipe, most: int, rounds: int) -> Decoding:
    """Decode up to `most` videos, spread evenly over the list; the time is a median over rounds."""
    places = np.linspace(0, len(raw.videos) - 1, min(most, len(raw.videos))).round().astype(int)
    chosen = [raw.videos[place] for place in places]
    seconds, frames = [], 0
    for _ in range(rounds):
        started, frames = time.process_time(), 0
        for video in chosen:
            path = raw.path_of(video)
            opened = open_file(
                path, video.num_bytes, replace(recipe, decoder="pyav"), lambda *_: None
            )
            frames += sum(1 for _ in opened.frames)
        seconds.append(time.process_time() - started)
    return Decoding(frames, sum(v.num_bytes for v in chosen), statistics.median(seconds))


def measure_encoding(tokenizer: VideoTokenizer, shape: tuple[int, ...], rounds: int) -> Encoding:
    """Time the encoding of one batch of noise; return the median time and the FLOPs per clip.

    Args:
        shape: shape of the batch, b t h w 3.
        rounds: number of timed repetitions.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    tokenizer = tokenizer.to(device).eval()
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    codebook = tokenizer.quantizer.codebook
    if not codebook.is_initialized:
        codebook.initialize((tokenizer.latents(to_pixels(clips)),), 0)
    with FlopCounterMode(display=False) as counter:
        tokenizer.encode(clips)
    seconds = []
    for _ in range(rounds):
        if on_gpu:
            torch.cuda.synchronize()
            started = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16):
                tokenizer.encode(clips)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        else:
            started = time.process_time()
            tokenizer.encode(clips)
            seconds.append(time.process_time() - started)
    each = statistics.median(seconds) / len(clips)
    return Encoding(
        counter.get_total_flops() // len(clips), None if on_gpu else each, each if on_gpu else None
    )


def costs(
    decoding: Decoding,
    encoding: Encoding,
    frames_per_clip: int,
    clip_bytes: int,
    grid_bytes: int,
    assumed_tflops: float,
) -> list[tuple[str, str]]:
    """Return the costs of CLIPS clips that follow one another without overlap, as names and texts.

    Args:
        decoding, encoding: the measured costs.
        frames_per_clip: number of video frames that one clip spans.
        clip_bytes: size of the clip's pixels in a clip store.
        grid_bytes: size of the clip's tokens.
        assumed_tflops: assumed rate of a GPU, in 1e12 operations per second, if none was timed.
    """
    clips_decoded = decoding.frames / frames_per_clip
    source_bytes = decoding.file_bytes / clips_decoded * CLIPS
    decode_hours = decoding.cpu_seconds / clips_decoded * CLIPS / HOUR
    rows = [
        ("video files read", f"{source_bytes / GIGA:,.0f} GB"),
        ("clip store (pixels)", f"{clip_bytes * CLIPS / GIGA:,.0f} GB"),
        ("token store", f"{grid_bytes * CLIPS / GIGA:,.2f} GB"),
        ("decode and resize", f"{decode_hours:,.1f} CPU-hours, measured"),
    ]
    if encoding.gpu_seconds is not None:
        hours = encoding.gpu_seconds * CLIPS / HOUR
        rows.append(("tokenize on a GPU", f"{hours:.2g} GPU-hours, measured in bfloat16"))
        rows.append(("cores that keep one GPU busy", f"{decode_hours / hours:,.0f}"))
        return rows
    hours = encoding.flops * CLIPS / (assumed_tflops * TERA) / HOUR
    assert encoding.cpu_seconds is not None
    cpu_hours = encoding.cpu_seconds * CLIPS / HOUR
    rows += [
        ("tokenize on CPU", f"{cpu_hours:,.1f} CPU-hours, measured on one thread"),
        (
            "tokenize on a GPU",
            f"at least {hours:.2g} GPU-hours at {assumed_tflops:g} TFLOP/s: computed from counted "
            "operations, not measured on a GPU",
        ),
        ("cores that keep one GPU busy", f"{decode_hours / hours:,.0f} at most, by the same"),
    ]
    return rows


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"cost_model: {error}")
