"""`data-prep ucf101`: prepares UCF-101 from its archive or the unpacked folder."""

import argparse
from pathlib import Path

from data_prep.cli.options import add_list_only, add_out, add_rate, add_run
from data_prep.cli.preparing import prepare_listing
from video_vq.arguments import Parser, add_shares, add_size


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `ucf101` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "ucf101",
        help="prepare UCF-101, packed or unpacked",
        description="Prepare UCF-101: ROOT is UCF101.rar (read by unar or unrar), a zip or "
        "tar of it, "
        "or a folder that holds it or UCF-101/<class>/*.avi. The split lists are beside "
        "it, as the official zip or unpacked. val is taken from the official train side, "
        "by groups; test is the official test side.",
        examples=("data-prep ucf101 UCF101.rar --out clips",),
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="archive or folder of UCF-101")
    add_out(parser)
    parser.add_argument(
        "--split", type=int, choices=(1, 2, 3), default=1, help="official split (default: 1)"
    )
    parser.add_argument(
        "--lists",
        type=Path,
        metavar="PLACE",
        help="folder or zip of classInd.txt and the lists, if elsewhere (default: beside ROOT)",
    )
    add_size(parser, "128")
    add_shares(parser, val=0.1)
    add_rate(parser)
    add_list_only(parser)
    add_run(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prepare a clip store or a list of raw videos from UCF-101."""
    from data_prep.sources.ucf101 import Ucf101Settings, list_ucf101

    settings = Ucf101Settings(split=arguments.split, val=arguments.val, lists=arguments.lists)
    prepare_listing(arguments, list_ucf101(arguments.root, settings))
