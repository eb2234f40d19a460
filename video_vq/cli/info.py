"""`video-vq info`: what a store, model, checkpoint, run or evaluation is."""

import argparse
import json
from pathlib import Path


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "info",
        help="describe a store, model, checkpoint, run or file",
        examples=("video-vq info clips", "video-vq info my_videos/first.mp4"),
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder or a file")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe."""
    from video_vq.inspect.describe import describe

    found = describe(arguments.path)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else "\n".join(found.lines()))
    return 0
