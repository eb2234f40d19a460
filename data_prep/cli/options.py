"""Options that several `data-prep` commands share."""

import argparse
from pathlib import Path

from video_vq.arguments import add_fps, add_json, add_videos_per_shard, positive, seconds, share
from video_vq.errors import InputError
from video_vq.media.kinds import MAX_SKIPPED


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add --out."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="folder of the clip store"
    )


def add_rate(parser: argparse.ArgumentParser) -> None:
    """Add --decoder, --fps and --stride for video files; --fps and --stride exclude each other."""
    either = parser.add_mutually_exclusive_group()
    add_fps(either)
    add_stride(either)
    parser.add_argument(
        "--decoder",
        choices=("pyav", "decord"),
        default="pyav",
        help="decoder; both give the same frames (default: pyav)",
    )


def add_list_only(parser: argparse.ArgumentParser) -> None:
    """Add --list-only."""
    parser.add_argument(
        "--list-only",
        action="store_true",
        help="write a list of the videos, without pixels; `video-vq encode LIST` then turns the "
        "videos straight into the same tokens as those of the clip store",
    )


def add_stride(parser: "argparse._ActionsContainer") -> None:
    """Add --stride."""
    parser.add_argument(
        "--stride", type=positive, default=1, metavar="N", help="keep every N-th frame (default: 1)"
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add --workers."""
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="number of processes (default: one per processor core)",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options for running a preparation and for skipping unusable files."""
    add_workers(parser)
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where to run: local, in processes of this machine; or ray, on the cluster at "
        "RAY_ADDRESS or with Ray on this machine; the bytes are the same (default: local)",
    )
    add_videos_per_shard(parser)
    parser.add_argument(
        "--max-skipped",
        type=share,
        metavar="SHARE",
        help="fail if more than this share of the videos, and more than one, cannot be used; "
        f"skipped.jsonl lists those left out, with the reason (default: {MAX_SKIPPED}; 0 allows "
        "none)",
    )
    parser.add_argument(
        "--cpu-limit",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="CPU seconds that a video may take, in addition to 1 s for each 50 MB of its "
        "decoded frames (default: 60)",
    )
    parser.add_argument(
        "--max-expansion",
        type=positive,
        default=5000,
        metavar="TIMES",
        help="refuse a video that decodes to more than 4 GiB and more than this many times its "
        "file's size (default: 5000)",
    )
    add_json(parser)


def add_sheet(parser: argparse.ArgumentParser) -> None:
    """Add --sheet."""
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="PNG file for the first, middle and last frames of some videos of every class "
        "(default: none)",
    )


def require_sheet(sheet: Path | None) -> None:
    """Raise an error if a contact sheet cannot be written to a path; None means no sheet.

    Raises:
        InputError: the name does not end in .png, or the folder is missing or not writable.
    """
    from video_vq.stores.places import require_writable  # imports numpy

    if sheet is None:
        return
    if sheet.suffix.lower() != ".png":
        raise InputError(f"{sheet}: the contact sheet's name must end in .png")
    if not sheet.parent.is_dir():
        raise InputError(f"{sheet}: there is no folder {sheet.parent}; make it first")
    require_writable(sheet.parent)
