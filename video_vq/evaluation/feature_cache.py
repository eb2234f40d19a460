"""A cache of features on disk, keyed by hashes that identify the pixels of the clips.

The cache is a log of fixed-size records with checksums, in one file per writing process. A killed
process leaves at most one incomplete record behind, which is skipped. Concurrent evaluations can
therefore share a cache without a lock: no process writes to another process's file, and at worst
two processes compute the same features.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from jaxtyping import Float32

from video_vq.errors import InputError
from video_vq.stores.files import (
    CACHE,
    cache_folder,
    read_json,
    readable_json,
    sha256_json,
    write_shared,
)

KEY_BYTES = 32  # a SHA-256 hash
CHECK_BYTES = 4  # a CRC32C over key and values


def clip_key(clip: np.ndarray) -> bytes:
    """Return the SHA-256 of a clip's dtype, shape and bytes."""
    header = f"{clip.dtype.str} {clip.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(clip).tobytes()).digest()


class PassingClip:
    """An iterable of a clip's frames that also computes the clip's key; see `clip_key`.

    Args:
        frames: frames, h w c each.
        num_frames: total number of frames.
    """

    def __init__(self, frames: Iterable[np.ndarray], num_frames: int):
        self._frames, self._num_frames = frames, num_frames
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[np.ndarray]:
        for number, frame in enumerate(self._frames):
            if number == 0:
                header = f"{frame.dtype.str} {(self._num_frames, *frame.shape)} ".encode()
                self._digest = hashlib.sha256(header)
            self._digest.update(np.ascontiguousarray(frame).data)
            yield frame

    def key(self) -> bytes:
        """Return the clip's key, which is complete only after the last frame has been yielded."""
        return self._digest.digest()


class FeatureCache:
    """A cache for the feature vectors of one network under one preparation of the clips.

    Args:
        settings: all settings that determine a clip's features, as JSON: network, resize, range, …
        num_features: number of values in a vector.
        folder: parent folder of all feature caches; None for the default folder.

    Raises:
        InputError: the cache's folder cannot be written, or was made with other settings.
    """

    def __init__(self, settings: dict, num_features: int, folder: Path | None = None):
        self._record_bytes = KEY_BYTES + 4 * num_features + CHECK_BYTES
        self.path = (folder or cache_folder() / "features") / sha256_json(settings)[:32]
        belongs_to = {**settings, "num_features": num_features}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            described = self.path / "settings.json"
            if not described.exists():
                write_shared(described, readable_json(belongs_to))
        except OSError as error:
            raise InputError(
                f"{self.path}: the feature cache cannot be written ({error.strerror}); set "
                f"{CACHE} to a writable folder"
            ) from None
        if read_json(described, "a feature cache's settings") != belongs_to:
            raise InputError(f"{self.path}: belongs to other settings; delete it")
        self._known: dict[bytes, np.ndarray] = {}
        self.num_torn = 0
        for file in sorted(self.path.glob("*.log")):
            self._read(file)
        self._file: Path | None = None

    def _read(self, file: Path) -> None:
        size = self._record_bytes
        data = file.read_bytes()
        whole = len(data) // size
        self.num_torn += len(data) % size > 0
        for number in range(whole):
            raw = data[number * size : (number + 1) * size]
            if int.from_bytes(raw[-CHECK_BYTES:], "little") != google_crc32c.value(
                raw[:-CHECK_BYTES]
            ):
                self.num_torn += 1
                continue
            self._known[raw[:KEY_BYTES]] = np.frombuffer(raw[KEY_BYTES:-CHECK_BYTES], "<f4")

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> Float32[np.ndarray, " d"] | None:
        """Return the features of a clip, or None if the features are not cached."""
        return self._known.get(key)

    def add(self, keys: list[bytes], rows: Float32[np.ndarray, "n d"]) -> None:
        """Add the features of clips, and write the features to disk."""
        if self._file is None:
            self._file = self.path / f"{time.time_ns():x}-{os.getpid():x}.log"
        records = b""
        for key, row in zip(keys, rows, strict=True):
            raw = key + np.ascontiguousarray(row, "<f4").tobytes()
            records += raw + google_crc32c.value(raw).to_bytes(CHECK_BYTES, "little")
            self._known[key] = np.array(row, np.float32)
        with open(self._file, "ab") as file:
            file.write(records)
