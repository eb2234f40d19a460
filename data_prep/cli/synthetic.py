"""`data-prep synthetic`: renders synthetic videos of a gripper on a table, with NumPy."""

import argparse
from pathlib import Path
from shlex import quote

from data_prep.cli.options import add_workers
from video_vq.arguments import Parser, positive
from video_vq.progress import is_quiet


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `synthetic` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "synthetic",
        help="draw a gripper that pushes bodies over a table, as raw files in official layouts",
        description=(
            "Render a gripper that pushes coloured bodies over a table, in four classes "
            "that differ only in motion, and write it as raw files in UCF-101's or BAIR's "
            "official layout. The same settings give the same videos; a killed run "
            "resumes when started again."
        ),
        examples=("data-prep synthetic raw --layout ucf101 --videos 800",),
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--layout",
        choices=("ucf101", "bair", "both"),
        default="ucf101",
        help="layout to write: ucf101, .avi files and split lists; or bair, TFRecords of two "
        "cameras (default: ucf101)",
    )
    parser.add_argument(
        "--videos", type=positive, default=600, help="number of videos (default: 600)"
    )
    parser.add_argument(
        "--frames", type=positive, default=30, help="number of frames of each video (default: 30)"
    )
    parser.add_argument(
        "--size",
        type=positive,
        default=64,
        help="side of the square frames in pixels (default: 64)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (default: 0)")
    add_workers(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the synthetic videos that the arguments describe."""
    from data_prep.table_world.layouts import TableWorldSettings, write_table_world
    from video_vq.machine import num_cores
    from video_vq.stores.places import beside

    settings = TableWorldSettings(
        layout=arguments.layout,
        num_videos=arguments.videos,
        num_frames=arguments.frames,
        size=arguments.size,
        seed=arguments.seed,
    )
    write_table_world(arguments.out, settings, arguments.workers or num_cores())
    source = "bair" if arguments.layout == "bair" else "ucf101"
    if not is_quiet():
        clips = beside(arguments.out, "clips")
        print(f"next: data-prep {source} {quote(str(arguments.out))} --out {quote(str(clips))}")
