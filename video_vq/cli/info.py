"""`video-vq info`: describes a store, model, checkpoint, run, evaluation or file."""

import argparse
from pathlib import Path

from video_vq.arguments import add_json, print_json
from video_vq.media.reading import add_reading, reading_of


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the parser for the `info` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "info",
        help="describe a store, model, checkpoint, run or file",
        examples=("video-vq info clips", "video-vq info my_videos/first.mp4"),
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder or a file")
    add_reading(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a description of a path, and return the exit status."""
    from video_vq.inspect.describe import describe

    found = describe(arguments.path, reading_of(arguments))
    if arguments.json:
        print_json(found.to_json())
    else:
        print("\n".join(found.lines()))
    return 0
