"""What a video file is, or a folder of videos, in a few facts; imports no torch."""

from pathlib import Path
from typing import Any

from video_vq.media.folder import FolderSettings, holds_video, list_videos
from video_vq.media.probe import probe


def video_facts(path: Path) -> dict[str, Any]:
    """Describe a video file as it is shown; its frames are counted, its header is not believed.

    Raises:
        UnreadableVideoError: see `probe`.
    """
    info = probe(path)
    height, width = info.size_hw
    frames = f"{info.num_packets:,} of {height} x {width}"
    if info.pixel_aspect != 1:
        frames += f", of pixels {float(info.pixel_aspect):.4g} times as wide as high"
    seconds = info.duration_seconds
    if info.fps:
        seconds = info.num_packets / info.fps
    return {
        "frames": frames,
        "fps": "unknown" if info.fps is None else f"{info.fps:.5g}",
        "length": "unknown" if seconds is None else f"{seconds:,.2f} seconds",
        "codec": f"{info.codec}, in {info.container}",
        "size": f"{info.file_bytes / 1e6:,.2f} MB",
    }


def folder_facts(path: Path) -> dict[str, Any] | None:
    """Describe a folder by the videos that `data-prep folder` takes; None where it has none.

    Raises:
        InputError: a folder below cannot be listed, or no video can be read; says which and why.
    """
    settings = FolderSettings()
    if not holds_video(path, settings.extensions):
        return None
    found = list_videos(path, settings)
    size = sum(video.num_bytes for video in found.videos)
    return {
        "videos": f"{len(found.videos):,}, together {size / 1e6:,.1f} MB",
        "classes": list(found.classes) or "none",
        "left out": f"{len(found.left_out)} that cannot be read" if found.left_out else "nothing",
        "next": f"data-prep folder {path} --out STORE",
    }
