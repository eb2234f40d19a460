"""Options of `video-vq encode` that apply only to a plain folder of videos."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from video_vq.arguments import (
    add_extensions,
    add_fps,
    add_group_by,
    add_shares,
    add_size,
    add_videos_per_shard,
)
from video_vq.errors import InputError
from video_vq.media.reading import READING_OPTIONS, add_reading, reading_of

if TYPE_CHECKING:
    from video_vq.stages.raw_folder import FolderOptions

NAMES = (
    "size", "fps", "val", "test", "group_by", "extensions", "videos_per_shard", *READING_OPTIONS,
)  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options for a folder of videos."""
    group = parser.add_argument_group(
        "a folder of videos",
        "the same options as in `data-prep folder`, which has more: a table of videos, groups by "
        "a pattern; with --list-only it makes a list to encode",
    )
    add_size(group, None, "what the tokenizer was trained on")
    add_fps(group)
    add_shares(group, val=0.1, test=0.1)
    add_group_by(group)
    add_extensions(group)
    add_videos_per_shard(group)
    parser.set_defaults(val=None, test=None, group_by=None)  # so `read` can tell which are given
    add_reading(parser)


def read(arguments: argparse.Namespace) -> "FolderOptions":
    """Return the values of the options that `add` defined.

    Raises:
        InputError: an option was given, but the data are a store or a list of raw videos.
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
            "settings of their own; leave that out, or make another store or list with data-prep"
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
