"""`data-prep lerobot`: prepares a LeRobot v3 data set."""

import argparse
from pathlib import Path

from data_prep.cli.options import add_out, add_run, add_stride
from data_prep.cli.preparing import prepare_listing
from video_vq.arguments import Parser, add_shares, add_size


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `lerobot` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "lerobot",
        help="prepare a LeRobot v3 data set",
        description="Prepare a local LeRobot v3 data set (extra [lerobot]): ROOT holds "
        "meta/, data/ "
        "and videos/. Every episode becomes a separate video, cut out of the long mp4 "
        "files; actions and states are kept with the frames, and tasks are labels if "
        "episodes share them. Splits are those of info.json; if it names no val or test, "
        "they are taken from its train side by hash.",
        examples=("data-prep lerobot data_set --camera top --out clips",),
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    add_out(parser)
    parser.add_argument(
        "--camera",
        metavar="NAME",
        help="camera, for example observation.images.top, or top (default: the only one)",
    )
    add_size(parser, "64")
    add_shares(parser, val=0.1, test=0.1, of="episodes, where info.json names no such side")
    add_stride(parser)
    add_run(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prepare a clip store from a LeRobot data set."""
    from data_prep.sources.lerobot import LerobotSettings, list_lerobot

    settings = LerobotSettings(arguments.camera, arguments.val, arguments.test)
    prepare_listing(arguments, list_lerobot(arguments.root, settings))
