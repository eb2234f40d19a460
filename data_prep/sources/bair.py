"""Listing and opener for BAIR robot pushing, which consists of {train,test}/*.tfrecords.

The official tar is read without unpacking: the files in a tar are uncompressed, so a record is a
byte range of the tar.
"""

import hashlib
import math
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.archives import read_archive
from data_prep.sources import Item, Listing, Notes, require_folder
from data_prep.tfrecord import Example, RecordError, parse_example, read_record, scan_records
from video_vq.errors import InputError
from video_vq.media.folder import split_groups
from video_vq.media.kinds import MAX_SKIPPED
from video_vq.media.prepared import FrameRecipe, Watch
from video_vq.media.resize import resize
from video_vq.stores.clips import PreparedVideo, Skipped, UnusableVideoError
from video_vq.stores.videos import reasons

ROOTS = ("softmotion30_44k", ".", "bair_robot_pushing_dataset_v0/softmotion30_44k")
SIDES = ("train", "test")
TAR = "bair_robot_pushing_dataset_v0.tar"
ARRAYS: dict[str, tuple[int, ...]] = {"actions": (4,), "endeffector_pos": (3,)}
SIMULATED = "simulated"  # feature in the records of simulated episodes only
FEATURES = {"actions": "action", "endeffector_pos": "endeffector_pos"}
MAX_TOLD = 10_000  # largest number of records that a file name may announce; BAIR's files have 256
MAX_LABELLED_BYTES = 8 << 20  # size limit for records read for the label; usual records have 0.7 MB
SIMULATED_NOTE = (
    "these episodes are simulated, and the store says so; scores on them are not comparable with "
    "scores on BAIR"
)

Camera = Literal["aux1", "main"]


@dataclass(frozen=True)
class BairSettings:
    """Settings for listing the BAIR robot pushing data set.

    Attributes:
        camera: name of the camera: aux1 (VideoGPT, tensor2tensor, MAGVIT) or main (SAVP).
        val: fraction of the training videos that goes to val; the official test split is unchanged.
    """

    camera: Camera = "aux1"
    val: float = 0.05


class _File(NamedTuple):
    """A TFRecord file: `path` itself, or `num_bytes` bytes at offset `base` in the tar `path`."""

    side: str
    name: str
    path: Path
    base: int
    num_bytes: int


def list_bair(root: Path, settings: BairSettings) -> Listing:
    """Return the listing of all records, in trajectory order.

    Simulated episodes are recognized by the label in their records. Each record that cannot be
    found, because a length is damaged or a file is truncated, is listed as skipped.

    Args:
        root: the official tar, a folder that contains the tar, or the unpacked folder.
        settings: camera and validation fraction.

    Raises:
        InputError: there are no TFRecord files or no readable records, a file cannot be read, the
            archive is not a tar or is damaged or malicious, or the files have different labels, for
            example because simulated and recorded episodes are mixed.
    """
    records: list[tuple[str, _File, int, int]] = []
    lost: list[Skipped] = []
    for file in sorted(_files(root), key=_trajectory):
        found, missing = _records(file)
        stem = f"{file.side}/{PurePosixPath(file.name).stem}"
        records += [
            (f"{stem}/{number:04d}", file, offset, length) for number, offset, length in found
        ]
        lost += [Skipped(f"{stem}/{number:04d}", file.name, reason) for number, reason in missing]
    if not records:
        why = f" that can be read:\n{reasons([asdict(entry) for entry in lost])}" if lost else ""
        raise InputError(f"{root}: no record in train/*.tfrecords or test/*.tfrecords{why}")
    simulated = _label(root, records)
    train = (video for video, file, _, _ in records if file.side == "train")
    splits = split_groups(train, settings.val, 0.0)
    items = tuple(
        Item(
            id=video,
            label=None,
            split="test" if file.side == "test" else splits[video],
            group=video,
            name=file.name,
            path=os.path.abspath(file.path),
            num_bytes=length,
            offset=offset,
            base=file.base,
            kind="record",
            settings={"camera": settings.camera, "simulated": simulated},
        )
        for video, file, offset, length in records
    )
    return Listing(
        source="bair",
        settings={"camera": settings.camera, "val": settings.val},
        items=items,
        classes=(),
        arrays=ARRAYS,
        simulated=simulated,
        notes=(SIMULATED_NOTE,) if simulated is not None else (),
        skipped=tuple(lost),
        max_skipped=MAX_SKIPPED,
    )


def _files(root: Path) -> list[_File]:
    if root.is_file():
        return _files_in_tar(root)
    require_folder(root, "BAIR robot pushing: its tar, or the folder that it unpacks to")
    for base in (root / name for name in ROOTS):
        if any((base / side).is_dir() for side in SIDES):
            return [
                _File(side, f"{side}/{path.name}", path, 0, path.stat().st_size)
                for side in SIDES
                for path in (base / side).glob("*.tfrecords")
                if _is_records(path.name) and path.is_file()
            ]
    if (root / TAR).is_file():
        return _files_in_tar(root / TAR)
    raise InputError(
        f"{root}: no softmotion30_44k/train there, and no {TAR}; name the tar, or unpack it into "
        "this folder"
    )


def _files_in_tar(path: Path) -> list[_File]:
    archive = read_archive(path)
    if archive.kind != "tar":
        raise InputError(f"{path}: BAIR comes as {TAR}, this is a {archive.kind}; unpack it")
    found: dict[str, list[_File]] = {}
    for member in archive.members:
        *above, folder, name = ("", *member.name.split("/"))
        if folder in SIDES and _is_records(name):
            file = _File(folder, f"{folder}/{name}", path, member.position, member.num_bytes)
            found.setdefault("/".join(above[1:]) or ".", []).append(file)
    if not found:
        raise InputError(
            f"{path}: holds no softmotion30_44k/train/*.tfrecords; the first file is "
            f"{archive.members[0].name!r}. Expected {TAR}"
        )
    if len(found) > 1:
        first, second, *_ = sorted(found)
        raise InputError(
            f"{path}: holds train/*.tfrecords or test/*.tfrecords in {first!r} and in {second!r}; "
            "unpack it, and name the folder that you mean"
        )
    return found.popitem()[1]


def _is_records(name: str) -> bool:
    """Return whether a file name is that of a TFRecord file, not of a hidden file from macOS."""
    return name.endswith(".tfrecords") and not name.startswith(".")


def _records(file: _File) -> tuple[list[tuple[int, int, int]], list[tuple[int, str]]]:
    """Return (number, offset, length) of all records found and (number, reason) of those lost.

    If the file name announces the number of records, as in BAIR, every missing record is listed as
    lost: one in each gap, and the rest in the last gap or, without gaps, at the end of the file.
    Otherwise, each gap counts as one lost record.
    """
    try:
        scan = scan_records(file.path, file.base, file.num_bytes)
    except OSError as error:
        raise InputError(f"{file.path}: cannot be read ({error.strerror})") from None
    told = _told(file)
    missing = max(told - len(scan.records), 0) if told else len(scan.gaps)
    gaps = {gap.place: gap for gap in scan.gaps}
    found: list[tuple[int, int, int]] = []
    lost: list[tuple[int, str]] = []
    number = 0
    for place in range(len(scan.records) + 1):
        gap = gaps.get(place)
        if gap is not None:
            behind = f"the next record begins at byte {gap.end:,}"
            if gap.end >= file.num_bytes:
                behind = "no record can be found behind it"
            here = missing if gap is scan.gaps[-1] else min(missing, 1)
            lost += [(number + n, f"{gap.error.reason}; {behind}") for n in range(here)]
            number, missing = number + here, missing - here
        if place < len(scan.records):
            found.append((number, *scan.records[place]))
            number += 1
    reason = f"the file ends after {number} of the {told} records that its name announces"
    return found, lost + [(number + n, reason) for n in range(missing)]


def _told(file: _File) -> int:
    """Return the number of records that a name like traj_512_to_767 announces, or 0 if unknown."""
    match = re.fullmatch(r"traj_(\d{1,9})_to_(\d{1,9})", PurePosixPath(file.name).stem)
    told = int(match[2]) - int(match[1]) + 1 if match is not None else 0
    return told if told <= MAX_TOLD else 0


def _trajectory(file: _File) -> tuple[bool, int, str]:
    """Return a sort key: train before test, and traj_512_to_767 after traj_0_to_255."""
    digits = PurePosixPath(file.name).stem.split("_")[1:2]
    number = int(digits[0]) if digits and digits[0].isdecimal() else 0
    return (file.side == "test", number, file.name)


def _label(root: Path, records: list[tuple[str, _File, int, int]]) -> str | None:
    """Return the simulator label in the first readable record of every file, or None.

    Raises:
        InputError: the labels differ between files.
    """
    labels: dict[str, str | None] = {}
    for _, file, offset, length in records:
        if file.name not in labels and length <= MAX_LABELLED_BYTES:
            # A record that cannot be read is skipped later, with the reason.
            with suppress(RecordError, ValueError, OSError):
                data = read_record(file.path, offset, file.base)
                labels[file.name] = _simulated(parse_example(data))
    found = set(labels.values())
    if len(found) > 1:
        told = ", ".join(sorted(label or "none" for label in found))
        raise InputError(
            f"{root}: its files are labelled differently as simulated ({told}); "
            "keep simulated episodes and others in separate folders"
        )
    return found.pop() if found else None


def _simulated(example: Example) -> str | None:
    """Return a record's simulator label, or None if the record has no label."""
    value = example.get(SIMULATED)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 1 or len(value[0]) > 200:
        raise ValueError(f"{SIMULATED}: expected one short text")
    return value[0].decode(errors="replace")


def open_record(item: Item, recipe: FrameRecipe, watch: Watch, notes: Notes) -> PreparedVideo:
    """Return an opened record; see `OpenItem`."""
    try:
        data = read_record(Path(item.path), item.offset, item.base)
        watch("decode", recipe.cpu_limit(item.num_bytes))
        frames, arrays = frames_of(data, **item.settings)
    except RecordError as error:
        raise UnusableVideoError(error.reason) from None
    except ValueError as error:
        raise UnusableVideoError(f"byte {item.offset:,}: the record: {error}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    return PreparedVideo(
        item.video({"name": item.name, "offset": item.offset, "sha256": sha256}),
        [resize(frames[:: recipe.stride], recipe.size_hw)],
        {name: array[:: recipe.stride] for name, array in arrays.items()},
    )


def frames_of(
    data: bytes, camera: Camera, simulated: str | None = None
) -> tuple[UInt8[np.ndarray, "t h w 3"], dict[str, Float32[np.ndarray, "t _"]]]:
    """Return the frames from one camera and the per-frame arrays of a record.

    Args:
        data: serialized record.
        camera: name of the camera.
        simulated: simulator label that the record must have; None if the record must have no label.

    Raises:
        ValueError: the record does not follow BAIR's schema, or the label differs.
    """
    example = parse_example(data)
    if (label := _simulated(example)) != simulated:
        raise ValueError(
            f"is labelled as simulated by {label or 'nothing'}, the others by "
            f"{simulated or 'nothing'}"
        )
    num_frames = 0
    while f"{num_frames}/image_{camera}/encoded" in example:
        num_frames += 1
    if not num_frames:
        raise ValueError(
            f"no feature 0/image_{camera}/encoded among its {len(example)}: "
            f"{', '.join(ascii(name[:40])[1:-1] for name in sorted(example)[:4])}"
        )
    images = [_image(example, f"{t}/image_{camera}/encoded") for t in range(num_frames)]
    if len({image.shape for image in images}) != 1:
        raise ValueError("its frames differ in size")
    arrays = {
        name: np.stack(
            [_numbers(example, f"{t}/{FEATURES[name]}", *ARRAYS[name]) for t in range(num_frames)]
        )
        for name in ARRAYS
    }
    return np.stack(images), arrays


def _image(example: Example, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return a raw RGB frame, which must be square; official frames are 64x64."""
    value = example[name]
    if not isinstance(value, list) or len(value) != 1:
        raise ValueError(f"{name}: expected one value of bytes")
    side = math.isqrt(len(value[0]) // 3)
    if not side or len(value[0]) != 3 * side * side:
        raise ValueError(
            f"{name}: {len(value[0]):,} bytes are not a raw RGB square (64x64: 12,288)"
        )
    return np.frombuffer(value[0], np.uint8).reshape(side, side, 3)


def _numbers(example: Example, name: str, length: int) -> Float32[np.ndarray, "n"]:
    value = example.get(name)
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or len(value) != length:
        raise ValueError(f"{name}: expected {length} floats")
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: a number is not finite")
    return value
