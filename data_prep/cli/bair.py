"""`data-prep bair`: prepares BAIR robot pushing, and other data in the same layout."""

import argparse
from pathlib import Path

from data_prep.cli.options import add_out, add_run, add_stride
from data_prep.cli.preparing import prepare_listing
from video_vq.arguments import Parser, add_shares, add_size


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `bair` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "bair",
        help="prepare BAIR robot pushing, from its tar or unpacked",
        description="Prepare BAIR robot pushing: ROOT is bair_robot_pushing_dataset_v0.tar, "
        "which is "
        "read in place, or a folder that holds it or "
        "softmotion30_44k/{train,test}/*.tfrecords. Actions and end-effector positions "
        "are kept with the frames. val is taken from the official train side; test is the "
        "official test side.",
        examples=("data-prep bair bair_robot_pushing_dataset_v0.tar --out clips",),
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the tar, or the unpacked folder")
    add_out(parser)
    parser.add_argument(
        "--camera",
        choices=("aux1", "main"),
        default="aux1",
        help="camera: aux1 as in VideoGPT and MAGVIT, main as in SAVP (default: aux1)",
    )
    add_size(parser, "64")
    add_shares(parser, val=0.05)
    add_stride(parser)
    add_run(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prepare a clip store from BAIR robot pushing."""
    from data_prep.sources.bair import BairSettings, list_bair

    settings = BairSettings(camera=arguments.camera, val=arguments.val)
    prepare_listing(arguments, list_bair(arguments.root, settings))
