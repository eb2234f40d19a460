"""What is particular to `data-prep lerobot` on the command line."""

import argparse
from pathlib import Path

from video_vq.arguments import Parser


def lerobot_parser(commands: "argparse._SubParsersAction[Parser]") -> Parser:
    """Add the command `lerobot` with the options that no other source has."""
    parser = commands.add_parser(
        "lerobot",
        help="prepare a LeRobot v3 data set",
        description=(
            "Prepare a LeRobot v3 data set on the disk (extra [lerobot]): ROOT holds meta/, data/ "
            "and videos/. Every episode becomes a video of its own, cut out of the long mp4 files; "
            "actions and states are kept with the frames, and tasks are labels where episodes "
            "share them. Splits are info.json's; val and test are carved from its train side by "
            "hash where it names none."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    parser.add_argument(
        "--camera",
        dest="lerobot_camera",
        metavar="NAME",
        help="for example observation.images.top, or top (default: the only one)",
    )
    parser.add_argument(
        "--test",
        type=_share,
        default=0.1,
        metavar="SHARE",
        help="of the episodes, where info.json names no test side (default: 0.1)",
    )
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, found {text!r}")
    return value
