"""From the checked arguments of a command to one call; heavy imports wait until then."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.options import require_sheet
from video_vq.errors import InputError, printable
from video_vq.machine import num_cores
from video_vq.media.folder import FolderSettings
from video_vq.stores.lock import require_free

if TYPE_CHECKING:
    from data_prep.sources import Listing
    from video_vq.media.prepared import FrameRecipe


def require_ready(arguments: argparse.Namespace) -> None:
    """Refuse what can be known to fail before a source is listed, which may take minutes.

    Raises:
        InputError: the output is the source itself or cannot be written, or a package is missing.
    """
    from video_vq.media.decode import require_decoder
    from video_vq.ray_tasks import require_ray
    from video_vq.stores.places import require_out

    sources = {
        "folder of videos": getattr(arguments, "videos", None),
        "data set": getattr(arguments, "root", None),
    }
    paths = {what: path for what, path in sources.items() if isinstance(path, Path)}
    require_out(arguments.out, paths)
    if getattr(arguments, "engine", "local") == "ray":
        require_ray()
    require_decoder(getattr(arguments, "decoder", "pyav"))


def run_folder(arguments: argparse.Namespace) -> None:
    """Prepare a folder or a table of videos."""
    require_free(arguments.out)  # before the videos are listed, which may take long
    from data_prep.sources.folder import list_folder
    from data_prep.sources.table import list_table
    from video_vq.media.suffixes import VIDEO_SUFFIXES

    by_regex = arguments.group_regex is not None
    settings = FolderSettings(
        val=arguments.val,
        test=arguments.test,
        group_by="regex" if by_regex else arguments.group_by,
        group_regex=arguments.group_regex,
        extensions=arguments.extensions or VIDEO_SUFFIXES,
    )
    videos: Path = arguments.videos
    if videos.suffix.lower() == ".csv" and not videos.is_dir():
        _prepare(arguments, list_table(videos, arguments.root or videos.parent, settings))
    elif arguments.root is not None:
        raise InputError(f"{videos}: --root is for a .csv of videos; name the folder alone")
    else:
        _prepare(arguments, list_folder(videos, settings))


def run_ucf101(arguments: argparse.Namespace) -> None:
    """Prepare UCF-101."""
    require_free(arguments.out)
    from data_prep.sources.ucf101 import Ucf101Settings, list_ucf101

    settings = Ucf101Settings(split=arguments.split, val=arguments.val, lists=arguments.lists)
    _prepare(arguments, list_ucf101(arguments.root, settings))


def run_bair(arguments: argparse.Namespace) -> None:
    """Prepare BAIR robot pushing."""
    require_free(arguments.out)
    from data_prep.sources.bair import BairSettings, list_bair

    settings = BairSettings(camera=arguments.camera, val=arguments.val)
    _prepare(arguments, list_bair(arguments.root, settings))


def run_lerobot(arguments: argparse.Namespace) -> None:
    """Prepare a LeRobot data set."""
    require_free(arguments.out)
    from data_prep.sources.lerobot import LerobotSettings, list_lerobot

    settings = LerobotSettings(arguments.lerobot_camera, arguments.val, arguments.test)
    _prepare(arguments, list_lerobot(arguments.root, settings))


def _prepare(arguments: argparse.Namespace, listing: "Listing") -> None:
    from data_prep.run import prepare, summarize
    from video_vq.media.prepared import FrameRecipe
    from video_vq.media.probe import Limits

    recipe = FrameRecipe(
        size_hw=arguments.size,
        fps=getattr(arguments, "fps", None),
        stride=arguments.stride,
        limits=Limits(max_expansion=arguments.max_expansion),
        cpu_seconds=arguments.cpu_limit,
        decoder=getattr(arguments, "decoder", "pyav"),
    )
    if getattr(arguments, "list_only", False):
        _write_list(arguments, listing, recipe)
        return
    for note in listing.notes:  # before the work, and once more after it
        print(printable(f"note: {note}"), file=sys.stderr)
    outcome = prepare(
        listing,
        arguments.out,
        recipe,
        workers=arguments.workers or num_cores(),
        engine=arguments.engine,
        videos_per_shard=arguments.videos_per_shard,
        max_skipped=arguments.max_skipped,
    )
    print(printable(summarize(outcome, listing)))


def _write_list(arguments: argparse.Namespace, listing: "Listing", recipe: "FrameRecipe") -> None:
    from data_prep.raw_list import write_list

    raw = write_list(
        listing, arguments.out, recipe, arguments.videos_per_shard, arguments.max_skipped
    )
    total = sum(video.num_bytes for video in raw.videos)
    notes = "".join(f"note: {note}\n" for note in listing.notes)
    left_out = f"; {len(raw.skipped):,} left out" if raw.skipped else ""
    print(
        printable(
            f"{arguments.out}: a list of {len(raw.videos):,} videos, {total / 1e6:,.0f} MB, in "
            f"{raw.num_shards:,} shards{left_out}; nothing was decoded\n{notes}"
            f"next: video-vq encode {arguments.out} --tokenizer DIR --out TOKENS"
        )
    )


def run_verify(arguments: argparse.Namespace) -> None:
    """Hash every file of a store, count it, and draw the sheet.

    Raises:
        InputError: a file is damaged, or the sheet cannot be written.
    """
    from data_prep.verify import describe, open_store, verify, write_sheet
    from video_vq.stores.tokens import TokenStore

    require_sheet(arguments.sheet)
    store = open_store(arguments.store)
    if arguments.sheet is not None and isinstance(store, TokenStore):
        raise InputError(
            f"{store.path}: is a token store, which has no pictures for a sheet; leave --sheet out"
        )
    strangers = verify(store)
    print(printable(f"{store.path}: every byte is as it was written"))
    if strangers:
        print(printable(f"no part of the store: {', '.join(strangers)}"))
    if isinstance(store, TokenStore):
        return
    print(printable(describe(store)))
    if arguments.sheet is not None:
        write_sheet(store, arguments.sheet)
        print(printable(f"contact sheet: {arguments.sheet}"))
