"""`video-vq reconstruct`: writes a video that shows a video file next to its reconstruction."""

import argparse
import math
from pathlib import Path

from video_vq.arguments import add_json, positive, print_json, rate
from video_vq.cli import following, options
from video_vq.errors import InputError, printable
from video_vq.media.reading import add_reading, reading_of
from video_vq.models import starter
from video_vq.stores.lock import held, require_free


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `reconstruct` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "reconstruct",
        help="show a video file beside its reconstruction from tokens",
        examples=(
            "video-vq reconstruct in.mp4 out.mp4 --tokenizer runs/tokenizer",
            "video-vq reconstruct in.mp4 out.mp4 --size 128",
        ),
    )
    parser.add_argument("video", type=Path, metavar="IN", help="a video of any size and length")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the video to write: .mp4, .mkv, .avi or .webm"
    )
    options.add_model(parser, "tokenizer", default=starter.STARTER)
    parser.add_argument(
        "--size",
        type=positive,
        metavar="PIXELS",
        help="scale the shorter side of the frames to this (default: their own size)",
    )
    parser.add_argument(
        "--num-frames",
        type=positive,
        metavar="N",
        help="number of frames to take from the start (default: all)",
    )
    parser.add_argument(
        "--fps",
        type=rate,
        metavar="RATE",
        help="frames per second of OUT (default: the mean rate of IN)",
    )
    add_reading(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reconstruct a video, print the result, and return the exit status."""
    from video_vq.media.sources import probe_video

    options.require_new_video(arguments.out, arguments.video)
    options.require_models(arguments)
    options.require_video(arguments.video, reading_of(arguments))
    info = probe_video(arguments.video, reading_of(arguments))
    require_free(arguments.out, single_file=True)
    from video_vq.distributed import make_accelerator
    from video_vq.models.tokenizer import VideoTokenizer
    from video_vq.stages.reconstruct_file import reconstruct_file

    accelerator = make_accelerator()
    if accelerator.num_processes > 1:
        raise InputError(
            f"reconstruct runs in one process, found {accelerator.num_processes}; "
            "start it with `accelerate launch --num_processes 1`, or without accelerate"
        )
    with held(arguments.out, single_file=True):
        tokenizer = VideoTokenizer.from_pretrained(arguments.tokenizer, device=accelerator.device)
        made = reconstruct_file(
            accelerator,
            tokenizer,
            info,
            arguments.out,
            arguments.size,
            arguments.num_frames,
            arguments.fps,
        )
    if arguments.json:
        print_json({"out": arguments.out, **made._asdict(), "notes": info.notes})
        return 0
    height, width = made.size_hw
    print(
        f"{made.num_frames} frames of {height}x{width}, original left, reconstruction from "
        f"{made.num_tokens:,} tokens right ({made.bits_per_pixel:.3g} bits per pixel, PSNR "
        f"{made.psnr:.2f} dB): {arguments.out}"
    )
    for note in info.notes:
        print(printable(f"note: {note}"))
    if info.pixel_aspect != 1:
        print(f"note: the pixels of {arguments.video} are not square and were made square")
    if made.num_damaged:
        print(f"note: the decoder had to repair {made.num_damaged} frames of {arguments.video}")
    if arguments.tokenizer == starter.FOLDER:
        num_codes = tokenizer.config.quantizer.codebook_size
        print(
            f"by the starter tokenizer, {math.log2(num_codes):g} bits per token, which was "
            "trained on little data; one trained on your own videos does better: "
            "`video-vq train-tokenizer --config starter --data CLIPS --out RUN init_from=starter`"
        )
    following.say_next("video-vq", "info", arguments.out)
    return 0
