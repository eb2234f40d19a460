"""Listing of the videos in an array file, or in a folder tree whose top folders are the labels."""

import os
from pathlib import Path

from data_prep.sources import Item, Listing, require_folder
from video_vq.media.array_videos import is_array_file
from video_vq.media.folder import FolderSettings, list_videos
from video_vq.media.kinds import MAX_SKIPPED
from video_vq.media.views import note_on_views
from video_vq.stores.clips import Skipped


def list_folder(root: Path, settings: FolderSettings) -> Listing:
    """Return the listing of the videos in a folder tree or an array file; see `list_videos`.

    Raises:
        InputError: the path is neither a folder nor an array file, contains no video, or does not
            fit the settings.
    """
    if not is_array_file(root):
        require_folder(root, "a folder of videos, or a file of arrays")
    found = list_videos(root, settings)
    views = note_on_views({video.name: video.split for video in found.videos})
    return Listing(
        source="folder",
        settings=settings.to_json(),
        items=tuple(
            Item(
                id=video.name,
                label=video.label,
                split=video.split,
                group=video.group,
                name=video.name,
                path=os.path.abspath(found.root / video.name),
                num_bytes=video.num_bytes,
            )
            for video in found.videos
        ),
        classes=found.classes,
        skipped=tuple(Skipped(name, name, reason) for name, reason in found.left_out),
        max_skipped=MAX_SKIPPED,
        notes=found.notes if views is None else (*found.notes, views),
        reading=found.reading,
    )
