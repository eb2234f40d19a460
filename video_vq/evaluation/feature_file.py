"""Stores the features of a set of videos in one safetensors file, which can be published.

Given this file, other models can be scored against the real videos without the videos themselves.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from video_vq.errors import InputError
from video_vq.evaluation.feature_network import FeatureNetwork
from video_vq.evaluation.features import FeatureSet
from video_vq.evaluation.scored_clip import Cut
from video_vq.stores.files import write_bytes

FORMAT = "video-vq features"
VERSION = "1"
SUFFIX = ".safetensors"
MAX_BYTES = 4 << 30


def write_features(path: Path, features: FeatureSet, network: FeatureNetwork, cut: Cut) -> None:
    """Write the features of one side of a comparison.

    Raises:
        InputError: the file name does not end in .safetensors.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: a file of features ends in {SUFFIX}")
    described = {
        "name": Path(features.name).name,
        "network": network.sha256,
        "network_name": network.name,
        "cut": list(cut),
        "groups": list(features.groups),
        "left_out": len(features.left_out),
        "data": features.data_hash,
        "split": features.split,
        "kinds": features.kinds,
        "simulated": features.simulated,
    }
    metadata = {"format": FORMAT, "version": VERSION, "described": json.dumps(described)}
    tensors = {name: np.ascontiguousarray(rows) for name, rows in features.rows.items()}
    write_bytes(path, safetensors.numpy.save(tensors, metadata))


def holds_other_tensors(path: Path) -> bool:
    """Return whether a path is a readable safetensors file whose tensors are not features."""
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("format") != FORMAT
    except (OSError, SafetensorError):
        return False


def read_features(path: Path, network: FeatureNetwork, cut: Cut) -> FeatureSet:
    """Read a feature file, and check that it was made with this network and these clip settings.

    Raises:
        InputError: the file is missing or damaged, or was made with another network or with other
            clip settings.
    """
    described, rows = _open(path)
    try:
        groups = tuple(str(group) for group in described["groups"])
        found = FeatureSet(
            str(path),
            rows,
            groups,
            tuple(["(left out when the file was made)"] * int(described["left_out"])),
            str(described["data"]),
            None if described["split"] is None else str(described["split"]),
            {str(name): int(count) for name, count in described["kinds"].items()},
            None if (label := described.get("simulated")) is None else str(label),
        )
        made_by = (described["network"], described["network_name"], list(described["cut"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: its description is damaged: {error!r}") from None
    if made_by[0] != network.sha256:
        raise InputError(
            f"{path}: holds features of the network {made_by[1]} ({str(made_by[0])[:12]}…), "
            f"this is {network.name} ({network.sha256[:12]}…); distances between them mean "
            "nothing. Name the network of both with --network, or leave it out for I3D"
        )
    if made_by[2] != list(cut):
        was, now = Cut(*made_by[2]), cut
        raise InputError(
            f"{path}: holds features of clips of {_told(was)}, asked for {_told(now)}; repeat its "
            "--frames, --stride and --fps"
        )
    for name, values in rows.items():
        good = values.dtype == np.float32 and values.shape == (len(groups), network.num_features)
        if not good or not np.isfinite(values).all():
            raise InputError(
                f"{path}: {name} must hold finite float32 of "
                f"{len(groups)} x {network.num_features}, found {values.dtype} {values.shape}"
            )
    return found


def require_preparations(path: Path, rows: dict[str, Any], wanted: set[str]) -> None:
    """Check that a feature file contains the features that all protocols need.

    Args:
        rows: features from the file, by preparation.
        wanted: names of the preparations that the protocols need.

    Raises:
        InputError: features are missing; the message names the missing preparations.
    """
    if missing := sorted(wanted - set(rows)):
        raise InputError(
            f"{path}: holds {', '.join(sorted(rows))}; the protocol needs {', '.join(missing)}: "
            "make the file again with that --protocol"
        )


def _open(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES >> 30} GB; not a feature file")
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
                raise InputError(
                    f"{path}: is not a feature file of this version; make one with "
                    "`video-vq fvd REAL FAKE --save-real FILE.safetensors`"
                )
        rows = safetensors.numpy.load_file(path)
        described = json.loads(metadata["described"])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable feature file: {error}") from None
    if not isinstance(described, dict):
        raise InputError(f"{path}: its description is damaged: expected a JSON object")
    return described, rows


def _told(cut: Cut) -> str:
    rate = "their own rate" if cut.fps is None else f"{cut.fps:g} fps"
    return f"{cut.num_frames} frames at stride {cut.stride} and {rate}"
