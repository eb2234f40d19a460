"""`data-prep`: the commands and their options; what they do waits for right arguments."""

import argparse
import sys
from pathlib import Path

from data_prep.commands import (
    require_ready,
    run_bair,
    run_folder,
    run_lerobot,
    run_ucf101,
    run_verify,
)
from data_prep.options import (
    add_list_only,
    add_out,
    add_rate,
    add_run,
    add_shares,
    add_sheet,
    add_size,
    add_stride,
)
from data_prep.simulated.cli import add_simulate_parser
from data_prep.stats_cli import add_stats_parser
from data_prep.synthetic_cli import add_synthetic_parser
from video_vq.arguments import Parser, file_endings
from video_vq.errors import InputError, printable, system_refusal


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for bad input, 2 for wrong usage."""
    arguments = make_parser().parse_args(argv)
    try:
        if hasattr(arguments, "out"):
            require_ready(arguments)
        arguments.run(arguments)
    except InputError as error:
        print(f"data-prep: {printable(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"data-prep: {printable(system_refusal(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("data-prep: stopped; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="data-prep",
        description="Turn raw videos into a clip store. Every command goes on where it stopped "
        "when it is given again.",
        allow_abbrev=False,
        examples=("data-prep folder my_videos --out clips --size 64", "data-prep folder --help"),
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_folder(commands)
    _add_ucf101(commands)
    _add_bair(commands)
    _add_lerobot(commands)
    add_simulate_parser(commands)
    add_synthetic_parser(commands)
    _add_verify(commands)
    add_stats_parser(commands)
    return parser


def _add_folder(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "folder",
        help="prepare any folder or table of videos",
        description="Prepare any tree of videos: the first folder below VIDEOS is the label; "
        "a hash of the group decides the split. Or a CSV of them, whose first line names its "
        "columns: path, and if wanted label, split, group and actions (a .npy or .csv with one "
        "row of numbers for each frame).",
        allow_abbrev=False,
        examples=(
            "data-prep folder my_videos --out clips --size 64",
            "data-prep folder videos.csv --root my_videos --out clips --group-by folder",
        ),
    )
    parser.add_argument(
        "videos", type=Path, metavar="VIDEOS", help="folder of videos, or a .csv that names them"
    )
    add_out(parser)
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="that the paths of the CSV begin in (default: the CSV's own)",
    )
    add_size(parser, "64")
    add_shares(parser, val=0.1, test=0.1)
    grouping = parser.add_mutually_exclusive_group()
    grouping.add_argument(
        "--group-by",
        choices=("video", "folder"),
        default="video",
        help="near-duplicates share a group, and a group a split: each video is its own group, or "
        "those of one folder are one (default: video)",
    )
    grouping.add_argument(
        "--group-regex",
        metavar="REGEX",
        help="the group is what this finds in the path below VIDEOS: its first group, or all of it "
        "(default: as --group-by says)",
    )
    parser.add_argument(
        "--extensions",
        type=file_endings,
        metavar="LIST",
        help="endings to take, for example mp4,avi (default: all usual ones)",
    )
    add_rate(parser)
    add_list_only(parser)
    add_run(parser)
    parser.set_defaults(run=run_folder)


def _add_ucf101(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "ucf101",
        help="prepare UCF-101, packed or unpacked",
        description="Prepare UCF-101: ROOT is UCF101.rar (read by unar or unrar), a zip or "
        "tar of it, or a folder that holds it or UCF-101/<class>/*.avi. The split lists lie beside "
        "it, as the official zip or unpacked. val is carved from the official train side, by "
        "groups; test is the official test side.",
        allow_abbrev=False,
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
    parser.set_defaults(run=run_ucf101)


def _add_bair(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "bair",
        help="prepare BAIR robot pushing, its tar or unpacked",
        description="Prepare BAIR robot pushing: ROOT is bair_robot_pushing_dataset_v0.tar, which "
        "is read where it lies, or a folder that holds it or softmotion30_44k/{train,test}/"
        "*.tfrecords. Actions and end-effector positions are kept with the frames. val is carved "
        "from the official train side; test is the official test side.",
        allow_abbrev=False,
        examples=("data-prep bair bair_robot_pushing_dataset_v0.tar --out clips",),
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the tar, or the unpacked folder")
    add_out(parser)
    parser.add_argument(
        "--camera",
        choices=("aux1", "main"),
        default="aux1",
        help="aux1 as in VideoGPT and MAGVIT, main as in SAVP (default: aux1)",
    )
    add_size(parser, "64")
    add_shares(parser, val=0.05)
    add_stride(parser)
    add_run(parser)
    parser.set_defaults(run=run_bair)


def _add_lerobot(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "lerobot",
        help="prepare a LeRobot v3 data set",
        description="Prepare a LeRobot v3 data set on the disk (extra [lerobot]): ROOT holds "
        "meta/, data/ and videos/. Every episode becomes a video of its own, cut out of the long "
        "mp4 files; actions and states are kept with the frames, and tasks are labels where "
        "episodes share them. Splits are info.json's; val and test are carved from its train side "
        "by hash where it names none.",
        allow_abbrev=False,
        examples=("data-prep lerobot data_set --camera top --out clips",),
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    add_out(parser)
    parser.add_argument(
        "--camera",
        dest="lerobot_camera",
        metavar="NAME",
        help="for example observation.images.top, or top (default: the only one)",
    )
    add_size(parser, "64")
    add_shares(parser, val=0.1, test=0.1, of="episodes, where info.json names no such side")
    add_stride(parser)
    add_run(parser)
    parser.set_defaults(run=run_lerobot)


def _add_verify(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "verify",
        help="check every byte of a store, count it, and make a contact sheet",
        description="Hash every file of a store of clips or tokens and print its counts; exit 1 "
        "and name the files if one is damaged.",
        allow_abbrev=False,
        examples=("data-prep verify clips --sheet sheet.png",),
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    add_sheet(parser)
    parser.set_defaults(run=run_verify)
