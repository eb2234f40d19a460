"""BAIR robot pushing in its official layout, unpacked: {train,test}/*.tfrecords, two cameras."""

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.sources import Item, Listing, require_folder, split_groups
from data_prep.tfrecord import Example, RecordError, parse_example, read_record, record_offsets
from video_vq.errors import InputError

MAX_SKIPPED = 0.01
ROOTS = ("softmotion30_44k", ".", "bair_robot_pushing_dataset_v0/softmotion30_44k")
ARRAYS: dict[str, tuple[int, ...]] = {"actions": (4,), "endeffector_pos": (3,)}
SIMULATED = "simulated"  # a feature of our simulator's records; a robot's have none of this name
FEATURES = {"actions": "action", "endeffector_pos": "endeffector_pos"}
SIMULATED_NOTE = (
    "these episodes are simulated, and the store says so; no score on them compares with one on "
    "BAIR's"
)

Camera = Literal["aux1", "main"]


@dataclass(frozen=True)
class BairSettings:
    """Which camera, and how much of the training side becomes val.

    Attributes:
        camera: aux1 (VideoGPT, tensor2tensor, MAGVIT) or main (SAVP).
        val: share of the training videos; the official test side chooses nothing.
    """

    camera: Camera = "aux1"
    val: float = 0.05


def list_bair(root: Path, settings: BairSettings) -> Listing:
    """List the records of all files, in the order of their trajectories.

    Simulated episodes are told by the feature that labels their records.

    Raises:
        InputError: no such files, one that is no TFRecord or ends inside a record, or files of
            simulated episodes among others.
    """
    require_folder(root, "BAIR robot pushing, unpacked")
    base = next(
        (
            root / name
            for name in ROOTS
            if any((root / name / side).is_dir() for side in ("train", "test"))
        ),
        None,
    )
    if base is None:
        raise InputError(
            f"{root}: no softmotion30_44k/train there; unpack bair_robot_pushing_dataset_v0.tar "
            "into this folder"
        )
    records: list[tuple[str, str, str, Path, int, int]] = []
    for side in ("train", "test"):
        paths = sorted((base / side).glob("*.tfrecords"), key=_trajectory)
        for path in paths:
            name = f"{side}/{path.name}"
            for number, (offset, length) in enumerate(record_offsets(path)):
                video = f"{side}/{path.stem}/{number:04d}"
                records.append((video, side, name, path, offset, length))
    if not records:
        raise InputError(f"{base}: no record in train/*.tfrecords or test/*.tfrecords")
    simulated = _label(base, records)
    splits = split_groups((r[0] for r in records if r[1] == "train"), settings.val, 0.0)
    items = tuple(
        Item(
            id=video,
            label=None,
            split="test" if side == "test" else splits[video],
            group=video,
            name=name,
            path=os.path.abspath(path),
            num_bytes=length,
            offset=offset,
        )
        for video, side, name, path, offset, length in records
    )
    return Listing(
        source="bair",
        settings={"camera": settings.camera, "val": settings.val},
        items=items,
        classes=(),
        arrays=ARRAYS,
        simulated=simulated,
        notes=(SIMULATED_NOTE,) if simulated is not None else (),
        max_skipped=MAX_SKIPPED,
    )


def _label(base: Path, records: list[tuple[str, str, str, Path, int, int]]) -> str | None:
    """Return what the first readable record of every file says of its simulator, None if nothing.

    Raises:
        InputError: the files differ in it.
    """
    labels: dict[str, str | None] = {}
    for _, _, name, path, offset, _ in records:
        if name not in labels:
            # A record that cannot be read is left out later, with its reason.
            with suppress(RecordError, ValueError, OSError):
                labels[name] = _simulated(parse_example(read_record(path, offset)))
    found = set(labels.values())
    if len(found) > 1:
        told = ", ".join(sorted(label or "none" for label in found))
        raise InputError(
            f"{base}: its files are labelled differently as simulated ({told}); "
            "keep simulated episodes and others in folders of their own"
        )
    return found.pop() if found else None


def _simulated(example: Example) -> str | None:
    """Return the label of a simulated record, None without one."""
    value = example.get(SIMULATED)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 1 or len(value[0]) > 200:
        raise ValueError(f"{SIMULATED}: expected one short text")
    return value[0].decode(errors="replace")


def _trajectory(path: Path) -> tuple[int, str]:
    """Sort traj_512_to_767 after traj_0_to_255."""
    digits = path.stem.split("_")[1:2]
    return (int(digits[0]) if digits and digits[0].isdecimal() else 0, path.name)


def frames_of(
    data: bytes, camera: Camera, simulated: str | None = None
) -> tuple[UInt8[np.ndarray, "t h w 3"], dict[str, Float32[np.ndarray, "t _"]]]:
    """Return the frames of one camera, and `actions` and `endeffector_pos`, of one record.

    Args:
        data: of the record.
        camera: whose frames.
        simulated: the label that the record must carry, None for none.

    Raises:
        ValueError: the record is not of BAIR's schema, or is labelled otherwise.
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
            f"{', '.join(sorted(example)[:4])}"
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
    """Read one raw RGB frame; the official ones are 64x64, any square is taken."""
    value = example[name]
    if not isinstance(value, list) or len(value) != 1:
        raise ValueError(f"{name}: expected one value of bytes")
    side = math.isqrt(len(value[0]) // 3)
    if not side or len(value[0]) != 3 * side * side:
        raise ValueError(f"{name}: {len(value[0]):,} bytes are no raw RGB square (64x64: 12,288)")
    return np.frombuffer(value[0], np.uint8).reshape(side, side, 3)


def _numbers(example: Example, name: str, length: int) -> Float32[np.ndarray, "n"]:
    value = example.get(name)
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or len(value) != length:
        raise ValueError(f"{name}: expected {length} floats")
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: a number is not finite")
    return value
