"""`video-vq fvd`: the Fréchet video distance of two sets of videos of anybody's model."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from video_vq.cli import options


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb."""
    parser = verbs.add_parser("fvd", help="FVD of two folders of videos or clip stores")
    parser.add_argument("real", type=Path, metavar="REAL", help="clip store or folder of videos")
    parser.add_argument("fake", type=Path, metavar="FAKE", help="clip store or folder of videos")
    parser.add_argument("--protocol", default="styleganv", metavar="NAME", help="the convention")
    parser.add_argument("--frames", type=options.positive, default=16, metavar="N")
    parser.add_argument("--stride", type=options.positive, default=1, metavar="N")
    parser.add_argument("--split", help="of a real clip store (default: test)")
    parser.add_argument("--max-clips", type=options.positive, metavar="N", help="on each side")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score."""
    from video_vq.metrics.protocol import fvd_protocol

    protocol = fvd_protocol(arguments.protocol)
    from video_vq.evaluation.compare import fvd_of_paths

    result = fvd_of_paths(
        arguments.real,
        arguments.fake,
        protocol,
        arguments.frames,
        arguments.stride,
        arguments.split,
        arguments.max_clips,
    )
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _show(result, protocol.describe((result["num_real"], result["num_fake"])))
    return 0


def _show(result: dict[str, Any], description: str) -> None:
    print(f"FVD {result['fvd']:.2f}  ({result['num_real']} real, {result['num_fake']} fake clips)")
    if result["floor"] is not None:
        floor = result["floor"]
        print(
            f"floor {floor['distance']:.2f}: real against other real clips at "
            f"N = {floor['num_clips']}"
        )
    print(description)
    for side, lines in result["left_out"].items():
        if lines:
            print(f"left out of the {side} set: {len(lines)}", file=sys.stderr)
            for line in lines[:10]:
                print(f"  {line}", file=sys.stderr)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
