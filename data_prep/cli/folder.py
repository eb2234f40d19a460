"""`data-prep folder`: prepares videos from a folder tree, an array file or a CSV table."""

import argparse
from pathlib import Path

from data_prep.cli.options import add_list_only, add_out, add_rate, add_run
from data_prep.cli.preparing import prepare_listing
from video_vq.arguments import Parser, add_extensions, add_group_by, add_shares, add_size
from video_vq.errors import InputError
from video_vq.media.reading import add_reading, reading_of


def add_parser(verbs: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser for the `folder` subcommand to `verbs`."""
    parser = verbs.add_parser(
        "folder",
        help="prepare any folder or table of videos",
        description="Prepare any tree of videos: the first folder below VIDEOS is the "
        "label; a hash "
        "of the group decides the split. Or prepare a CSV of videos, whose first line "
        "names its columns: path, and optionally label, split, group and actions (a .npy "
        "or .csv with one row of numbers per frame). A video is a file, a folder of "
        "numbered pictures, or an array.",
        examples=(
            "data-prep folder my_videos --out clips --size 64",
            "data-prep folder videos.csv --root my_videos --out clips --group-by folder",
            "data-prep folder my_frames --out clips --fps 25",
            "data-prep folder samples.npz --out clips --layout btchw --values signed",
        ),
    )
    parser.add_argument(
        "videos",
        type=Path,
        metavar="VIDEOS",
        help="folder of videos, array file, or a .csv file that lists videos",
    )
    add_out(parser)
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="folder to which the paths of the CSV are relative (default: the CSV's folder)",
    )
    add_size(parser, "64")
    add_shares(parser, val=0.1, test=0.1)
    grouping = parser.add_mutually_exclusive_group()
    add_group_by(grouping)
    grouping.add_argument(
        "--group-regex",
        metavar="REGEX",
        help="regular expression whose first group, or whole match, in the path below VIDEOS "
        "names the group (default: see --group-by)",
    )
    add_extensions(parser)
    add_rate(parser)
    add_reading(parser)
    add_list_only(parser)
    add_run(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prepare a clip store or a list of raw videos from a folder, table or array file."""
    from data_prep.sources.folder import list_folder
    from data_prep.sources.table import list_table
    from video_vq.media.folder import FolderSettings

    by_regex = arguments.group_regex is not None
    settings = FolderSettings(
        val=arguments.val,
        test=arguments.test,
        group_by="regex" if by_regex else arguments.group_by,
        group_regex=arguments.group_regex,
        extensions=arguments.extensions,
        reading=reading_of(arguments),
        stand_in_fps=arguments.fps,
    )
    videos: Path = arguments.videos
    if videos.suffix.lower() == ".csv" and not videos.is_dir():
        prepare_listing(arguments, list_table(videos, arguments.root or videos.parent, settings))
    elif arguments.root is not None:
        raise InputError(f"{videos}: --root is only for a .csv of videos; name just the folder")
    else:
        prepare_listing(arguments, list_folder(videos, settings))
