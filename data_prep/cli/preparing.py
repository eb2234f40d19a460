"""Code shared by the commands that prepare a source; heavy modules are imported only when used."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from video_vq.arguments import print_json
from video_vq.errors import InputError, printable
from video_vq.machine import num_cores
from video_vq.progress import is_quiet
from video_vq.stores.lock import require_free

if TYPE_CHECKING:
    from data_prep.sources import Listing
    from video_vq.media.prepared import FrameRecipe


def require_ready(arguments: argparse.Namespace) -> None:
    """Raise an error for foreseeable failures before listing the source, which may take minutes.

    Raises:
        InputError: the output is the source itself, cannot be written or is being written by
            another process; or Ray or the decoder is requested but not installed.
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
    require_free(arguments.out)
    if getattr(arguments, "engine", "local") == "ray":
        require_ray()
    require_decoder(getattr(arguments, "decoder", "pyav"))


def prepare_listing(arguments: argparse.Namespace, listing: "Listing") -> None:
    """Write a clip store, or a list of raw videos with --list-only, and print a summary.

    Raises:
        InputError: as for `prepare`; or --list-only does not support the source.
    """
    from data_prep.run import next_commands, numbers, prepare, summarize
    from video_vq.media.prepared import FrameRecipe
    from video_vq.media.probe import Limits

    recipe = FrameRecipe(
        size_hw=arguments.size,
        fps=getattr(arguments, "fps", None),
        stride=arguments.stride,
        limits=Limits(max_expansion=arguments.max_expansion),
        cpu_seconds=arguments.cpu_limit,
        decoder=getattr(arguments, "decoder", "pyav"),
        reading=listing.reading,
    )
    if getattr(arguments, "list_only", False):
        _write_list(arguments, listing, recipe)
        return
    for note in listing.notes:  # printed before the work, and again in the summary
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
    if arguments.json:
        print_json(numbers(outcome))
        return
    lines = [summarize(outcome, listing), *([] if is_quiet() else next_commands(outcome, listing))]
    print(printable("\n".join(lines)))


def _write_list(arguments: argparse.Namespace, listing: "Listing", recipe: "FrameRecipe") -> None:
    """Write a list of raw videos, which `video-vq encode` decodes without keeping the pixels."""
    from video_vq.stores.raw_videos import RawVideo, list_raw_videos, write_raw_videos

    if listing.arrays:
        raise InputError(
            f"--list-only: a list keeps no {', '.join(sorted(listing.arrays))}; prepare a store "
            "without --list-only, or take the column out of the table"
        )
    raw = list_raw_videos(
        root=_root(listing),
        source=listing.source,
        recipe=recipe.to_json(),
        recipe_plan=recipe.plan(),
        settings=listing.settings,
        classes=listing.classes,
        videos=[
            RawVideo(item.id, item.label, item.split, item.group, item.name, item.num_bytes)
            for item in listing.items
        ],
        skipped=listing.skipped,
        max_skipped=listing.max_skipped if arguments.max_skipped is None else arguments.max_skipped,
        videos_per_shard=arguments.videos_per_shard,
    )
    write_raw_videos(arguments.out, raw)
    total = sum(video.num_bytes for video in raw.videos)
    if arguments.json:
        counts = {"videos": len(raw.videos), "videos_left_out": len(raw.skipped)}
        print_json({"out": arguments.out, **counts, "bytes": total, "shards": raw.num_shards})
        return
    following = f"next: video-vq encode {arguments.out} --tokenizer DIR --out TOKENS"
    notes = "".join(f"note: {note}\n" for note in listing.notes)
    left_out = f"; {len(raw.skipped):,} left out" if raw.skipped else ""
    print(
        printable(
            f"{arguments.out}: a list of {len(raw.videos):,} videos, {total / 1e6:,.0f} MB, in "
            f"{raw.num_shards:,} shards{left_out}; nothing was decoded\n{notes}"
            f"{'' if is_quiet() else following}".rstrip()
        )
    )


def _root(listing: "Listing") -> str:
    roots = {item.path.removesuffix(f"/{item.name}") for item in listing.items}
    root = roots.pop()
    if listing.archive is not None or roots or any(item.path == root for item in listing.items):
        raise InputError(
            "--list-only: the videos are not files below one folder (they lie in an archive, or "
            "in several places); unpack or link them into one folder, or prepare a store without "
            "--list-only"
        )
    return root
