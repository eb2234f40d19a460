"""Options of `video-vq encode` for a plain folder of videos; stores and lists need none."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from video_vq.arguments import file_endings, frame_size, positive, rate, share
from video_vq.errors import InputError
from video_vq.media.reading import READING_OPTIONS, add_reading, reading_of

if TYPE_CHECKING:
    from video_vq.stages.raw_folder import FolderOptions

NAMES = (
    "size", "fps", "val", "test", "group_by", "extensions", "videos_per_shard", *READING_OPTIONS,
)  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "a folder of videos",
        "the same options as in `data-prep folder`, which has more: a table of videos, groups by "
        "a pattern; with --list-only it makes a list to encode",
    )
    group.add_argument(
        "--size",
        type=frame_size,
        metavar="SIZE",
        help="side of the square frames in pixels, or HEIGHTxWIDTH; videos are scaled to cover "
        "it, then cropped to the centre (default: what the tokenizer was trained on)",
    )
    group.add_argument(
        "--fps",
        type=rate,
        metavar="FPS",
        help="convert all videos to this frame rate (default: their own)",
    )
    for name in ("val", "test"):
        group.add_argument(
            f"--{name}",
            type=share,
            metavar="SHARE",
            help=f"share of the groups that becomes the {name} split (default: 0.1)",
        )
    group.add_argument(
        "--group-by",
        choices=("video", "folder"),
        help="what must stay in one split, as near-duplicates should: each video is a group of "
        "its own, or the videos of a folder are one (default: video)",
    )
    group.add_argument(
        "--extensions",
        type=file_endings,
        metavar="LIST",
        help="file name endings to take, for example mp4,avi (default: those of video files; if "
        "there are none, those of pictures; if there are none, those of arrays)",
    )
    group.add_argument(
        "--videos-per-shard",
        type=positive,
        metavar="N",
        help="number of videos in a shard; an interruption costs at most a shard (default: a 64th "
        "of all, at most 128)",
    )
    add_reading(parser)


def read(arguments: argparse.Namespace) -> "FolderOptions":
    """Return the values of the options from `add`.

    Raises:
        InputError: an option is given for data that are not a folder of videos.
    """
    from video_vq.media.folder import FolderSettings
    from video_vq.stages.raw_folder import FolderOptions, is_folder_of_files

    given = {
        name: getattr(arguments, name) for name in NAMES if getattr(arguments, name) is not None
    }
    data: Path = arguments.data
    if given and data.is_dir() and not is_folder_of_files(data):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"{flags}: only for a folder of videos, which {data} is not: a store and a list have "
            "settings of their own. Leave it out, or make another with data-prep"
        )
    of_listing = ("val", "test", "group_by", "extensions")
    listing = {name: given[name] for name in of_listing if name in given}
    return FolderOptions(
        size_hw=arguments.size,
        fps=arguments.fps,
        listing=FolderSettings(
            **listing, reading=reading_of(arguments), stand_in_fps=arguments.fps
        ),
        videos_per_shard=arguments.videos_per_shard,
    )
