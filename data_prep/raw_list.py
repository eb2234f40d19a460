"""From a listing to a list of raw videos: what `video-vq encode` decodes without keeping pixels."""

from pathlib import Path

from data_prep.sources import Listing
from video_vq.errors import InputError
from video_vq.media.decode import require_decoder
from video_vq.media.prepared import FrameRecipe
from video_vq.stores.raw_videos import (
    RawVideo,
    RawVideos,
    list_raw_videos,
    write_raw_videos,
)


def write_list(
    listing: Listing,
    out: Path,
    recipe: FrameRecipe,
    videos_per_shard: int | None,
    max_skipped: float | None,
) -> RawVideos:
    """Write the list of a source's videos; nothing is decoded.

    Args:
        listing: of a source whose videos are files.
        out: the list's folder.
        recipe: how each video's frames are to be made.
        videos_per_shard: None for the usual.
        max_skipped: share of the videos that may be unusable; None for the source's own.

    Raises:
        InputError: the videos are no files under one folder, or have actions; or `out` holds
            something else.
    """
    if listing.arrays:
        raise InputError(
            f"--list-only: a list keeps no {', '.join(sorted(listing.arrays))}; prepare a store "
            "without --list-only, or take the column out of the table"
        )
    require_decoder(recipe.decoder)
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
        max_skipped=listing.max_skipped if max_skipped is None else max_skipped,
        videos_per_shard=videos_per_shard,
    )
    return write_raw_videos(out, raw)


def _root(listing: Listing) -> str:
    """Return the one folder that the names of all files begin at."""
    roots = {item.path.removesuffix(f"/{item.name}") for item in listing.items}
    root = roots.pop()
    if listing.archive is not None or roots or any(item.path == root for item in listing.items):
        raise InputError(
            "--list-only: the videos are no files under one folder (they lie in an archive, or "
            "here and there); unpack or link them into one, or prepare a store without --list-only"
        )
    return root
