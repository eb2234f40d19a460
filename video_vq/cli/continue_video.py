"""`video-vq continue`: continues the last frames of a video file with a prior."""

import argparse
from pathlib import Path

from video_vq.arguments import add_json, positive, print_json
from video_vq.cli import following, options
from video_vq.errors import printable
from video_vq.media.reading import add_reading, reading_of
from video_vq.stores.lock import require_free


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `continue` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "continue",
        help="continue a video file with a prior",
        examples=(
            "video-vq continue in.mp4 --prior runs/prior --tokenizer runs/tokenizer --out out.mp4",
            "video-vq continue in.mp4 --prior runs/prior --tokenizer runs/tokenizer --out out.mp4 "
            "--seconds 60",
        ),
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="any video")
    options.add_model(parser, "prior")
    options.add_model(parser, "tokenizer")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="video to write, .mp4, .mkv, .avi or .webm: the given frames, then the continued "
        "ones under a red bar",
    )
    parser.add_argument(
        "--given-frames",
        type=positive,
        metavar="N",
        help="number of frames at the end of the video that are given: 1 + a multiple of the "
        "tokenizer's stride in time (default: about half of a clip)",
    )
    parser.add_argument(
        "--num",
        type=positive,
        default=1,
        metavar="N",
        help="number of continuations, side by side (default: 1)",
    )
    parser.add_argument(
        "--actions",
        type=Path,
        metavar="FILE",
        help="actions from the first given frame on, for a prior that takes them: a .npy or "
        ".csv with a row per frame; or an array n r d, with a sequence of rows for each "
        "of --num (default: none)",
    )
    options.add_parallel(parser)
    options.add_length(parser, "how much is added", "the rest of a clip")
    options.add_sampling(parser, "a class name (default: none)")
    add_reading(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Continue a video, print the result, and return the exit status."""
    drawing = options.drawing(arguments)
    options.require_new_video(arguments.out, arguments.video)
    options.require_models(arguments)
    options.require_video(arguments.video, reading_of(arguments))
    require_free(arguments.out, single_file=True)
    from video_vq.distributed import holding, make_accelerator
    from video_vq.stages.continue_file import ContinueRequest, continue_video

    request = ContinueRequest(
        arguments.given_frames, arguments.num, reading_of(arguments), **drawing
    )
    accelerator = make_accelerator()
    with holding(accelerator, arguments.out, single_file=True):
        made = continue_video(
            accelerator,
            arguments.video,
            arguments.prior,
            arguments.tokenizer,
            arguments.out,
            request,
        )
    if accelerator.is_main_process and arguments.json:
        print_json(
            {
                "out": arguments.out,
                "given_frames": made.num_given,
                "continued_frames": made.num_made,
                "fps": made.fps,
                "fps_known": made.fps_known,
                "notes": made.notes,
            }
        )
    elif accelerator.is_main_process:
        given = "the last frame" if made.num_given == 1 else f"the last {made.num_given} frames"
        assumed = "" if made.fps_known else " (assumed: the rate of the prior's clips is unknown)"
        print(
            f"{arguments.out}: {given} of {arguments.video} at {made.fps:g} frames per "
            f"second{assumed}, then {made.num_made} continued ones (red bar)"
        )
        for note in made.notes:
            print(printable(f"note: {note}"))
        following.say_next("video-vq", "info", arguments.out)
    return 0
