"""Verification of stores, and summaries and contact sheets of clip stores."""

from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
from jaxtyping import UInt8

from data_prep.stats import class_table, count_classes
from video_vq.errors import InputError
from video_vq.media.encode import tile, write_png
from video_vq.progress import progress
from video_vq.stores.clips import PROVENANCE, SPLITS, ClipStore
from video_vq.stores.files import damage, read_json
from video_vq.stores.lock import LOCK, held
from video_vq.stores.shards import MANIFEST, sealed_damage
from video_vq.stores.tokens import FORMAT as TOKENS
from video_vq.stores.tokens import TokenStore

SHEET_VIDEOS, SHEET_COLUMNS = 24, 4


def open_store(path: Path) -> ClipStore | TokenStore:
    """Return the clip store or token store in a folder.

    Raises:
        InputError: the folder is not a clip store or token store, or the store cannot be used.
    """
    manifest = path / MANIFEST
    if manifest.exists() and read_json(manifest, "a store's manifest").get("format") == TOKENS:
        return TokenStore(path)
    return ClipStore(path)


def verify(store: ClipStore | TokenStore) -> list[str]:
    """Compare the hash of every file in a store with the recorded hash.

    Returns:
        Sorted names of files and folders in the store's folder that are not part of the store.

    Raises:
        InputError: files are missing or have changed; the message lists these files.
    """
    hashed = store.files()
    sealed = [name for name in (MANIFEST, PROVENANCE) if (store.path / name).exists()]
    problems: list[str] = []
    with progress("hashing", len(hashed) + len(sealed), "file") as bar:
        for name in (*sealed, *hashed):
            path = store.path / name
            found = damage(path, hashed[name]) if name in hashed else sealed_damage(path)
            problems += [] if found is None else [found]
            bar.update()
    if problems:
        listed = "\n  ".join(problems)
        raise InputError(
            f"{store.path}: {len(problems)} of {len(hashed) + len(sealed)} files are damaged:\n"
            f"  {listed}\nDelete the folder and make the store again, or fetch these files again."
        )
    known = {*hashed, *sealed, LOCK}
    return sorted(path.name for path in store.path.iterdir() if path.name not in known)


def describe(store: ClipStore) -> str:
    """Return a summary as text: videos per split and class, lengths, frame rates and sizes."""
    lengths = [video.num_frames for video in store.videos]
    height, width = store.frame_size_hw
    rates = Counter("unknown" if v.fps is None else f"{v.fps:.5g}" for v in store.videos)
    every_frame = store.plan.get("fps") is None and store.plan.get("stride") == 1
    short = sum(
        every_frame
        and video.origin is not None
        and video.num_frames < int(video.origin.get("packets", 0))
        for video in store.videos
    )
    lines = [
        f"videos    {len(lengths):,}; {store.num_skipped:,} left out",
        f"frames    {sum(lengths):,} of {height}x{width} (height x width); "
        f"a video has {min(lengths)} to {max(lengths)}, median {median(lengths):g}",
        "fps       " + ", ".join(f"{fps} ({n:,} videos)" for fps, n in rates.most_common(5)),
        f"bytes     {sum(lengths) * height * width * 3:,} of pixels in {len(store.shards)} shards",
    ]
    if store.plan.get("simulated") is not None:
        lines.append(f"simulated {store.plan['simulated']}: not comparable with published numbers")
    if store.arrays:
        shapes = (f"{name} {list(shape)}" for name, shape in store.arrays.items())
        lines.append(f"arrays    {', '.join(shapes)} per frame")
    if short:
        lines.append(f"shorter   {short:,} videos have fewer frames than compressed packets")
    splits = [*SPLITS, *sorted({video.split for video in store.videos} - set(SPLITS))]
    return "\n".join([*lines, "", *class_table(count_classes(store, splits), splits)])


def contact_sheet(store: ClipStore) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image of the first, middle and last frames of videos chosen across all classes."""
    chosen = _across_classes(store, SHEET_VIDEOS)
    strips, labels = [], []
    for index in chosen:
        video = store.videos[index]
        frames = [
            store.read(index, start=position, num_frames=1)[0]
            for position in (0, video.num_frames // 2, video.num_frames - 1)
        ]
        strips.append(np.concatenate(frames, axis=1)[None])
        labels.append(f"{video.split} {video.id}")
    scale = max(1, 96 // store.frame_size_hw[0])
    return tile(strips, columns=SHEET_COLUMNS, gap=4, scale=scale, labels=labels)[0]


def _across_classes(store: ClipStore, most: int) -> list[int]:
    members: dict[str | None, list[int]] = {}
    for index, video in enumerate(store.videos):
        members.setdefault(video.label, []).append(index)
    takes = Counter()
    while takes.total() < min(most, len(store.videos)):
        for label, group in members.items():
            takes[label] += takes[label] < len(group) and takes.total() < most
    return sorted(
        group[(2 * k + 1) * len(group) // (2 * takes[label])]
        for label, group in members.items()
        for k in range(takes[label])
    )


def write_sheet(store: ClipStore, path: Path) -> None:
    """Write the contact sheet of a clip store to a PNG file.

    Raises:
        InputError: the name does not end in .png, or another process is writing the file.
    """
    with held(path, single_file=True):
        write_png(path, contact_sheet(store))
