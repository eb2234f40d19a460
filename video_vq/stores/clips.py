"""The clip store: decoded videos as uint8 frames in .npy shards, with a manifest.

Layout and fields: docs/clip_format.md.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from video_vq import facts
from video_vq.errors import InputError
from video_vq.facts import Facts
from video_vq.stores.files import ArrayFile, canonical_json, open_array, sha256_json, write_bytes
from video_vq.stores.shards import ShardFolder, read_manifest
from video_vq.stores.videos import (
    REPEATED,
    PreparedVideo,
    Skipped,
    UnusableVideoError,
    Video,
    skipped_entry,
    video_from_json,
)

FORMAT = "video-vq clips"
VERSION = 1
HOW_TO_MAKE = "make a clip store with `data-prep folder VIDEOS --out STORE`"
SPLITS = ("train", "val", "test")
SKIPPED = "skipped.jsonl"
PROVENANCE = "provenance.json"  # sealed, but not in the manifest, as it may name the decoder


class ClipStoreWriter(ShardFolder):
    """Writer that fills a clip store shard by shard, from any process and in any order.

    Args:
        path: store folder.
        frame_size_hw: height and width of every frame, in pixels.
        plan: JSON object with the settings of the store; a resumed run must use the same plan.
        arrays: mapping from the name of each per-frame array to the shape of one frame's row.
        owner: whether this process owns the folder (see ShardFolder).
    """

    def __init__(
        self,
        path: str | Path,
        frame_size_hw: tuple[int, int],
        plan: dict[str, Any],
        arrays: dict[str, tuple[int, ...]] | None = None,
        owner: bool = True,
    ):
        super().__init__(Path(path), plan, owner)
        self.frame_size_hw = frame_size_hw
        self.arrays = arrays or {}
        self.plan = plan

    def write_shard(
        self,
        shard: int,
        videos: Iterable[PreparedVideo],
        skipped: Sequence[Skipped] = (),
        notes: Sequence[dict[str, str]] = (),
    ) -> None:
        """Write and commit one shard.

        Args:
            shard: index of the shard.
            videos: videos of the shard, written one after another; at most one chunk of one video
                is in memory at a time.
            skipped: videos that were skipped; read only after all videos have been written.
            notes: descriptions of irregularities, kept in the shard's record until the store is
                sealed; also read only after all videos have been written.
        """
        height, width = self.frame_size_hw
        written: list[Video] = []
        left_out: list[Skipped] = []
        with ExitStack() as stack:
            frames_file = stack.enter_context(
                ArrayFile(self._shard_file("frames", shard), (height, width, 3), np.uint8)
            )
            array_files = {
                name: stack.enter_context(
                    ArrayFile(self._shard_file(name, shard), shape, np.float32)
                )
                for name, shape in self.arrays.items()
            }
            for prepared in videos:
                offset = frames_file.num_rows
                try:
                    video = self._append(prepared, frames_file, array_files)
                except UnusableVideoError as reason:
                    for file in (frames_file, *array_files.values()):
                        file.truncate(offset)
                    left_out.append(skipped_entry(prepared.video, str(reason)))
                else:
                    written.append(replace(video, shard=shard, offset=offset))
        self.commit(
            shard,
            {
                "frames": frames_file.num_rows,
                "sha256": {
                    "frames": frames_file.sha256,
                    **{name: file.sha256 for name, file in array_files.items()},
                },
                "videos": [asdict(video) for video in written],
                "skipped": [asdict(entry) for entry in (*skipped, *left_out)],
                "notes": list(notes),
            },
        )

    def _append(
        self, prepared: PreparedVideo, frames_file: ArrayFile, array_files: dict[str, ArrayFile]
    ) -> Video:
        offset = frames_file.num_rows
        for chunk in prepared.frames:
            frames_file.append(chunk)
        num_frames = frames_file.num_rows - offset
        if not num_frames:
            raise UnusableVideoError("holds no frame")
        for name, file in array_files.items():
            rows = np.asarray(prepared.arrays[name], dtype=np.float32)
            if len(rows) != num_frames:
                raise ValueError(
                    f"{prepared.video.id}: {len(rows)} rows of {name} for {num_frames} frames"
                )
            file.append(rows)
        return replace(prepared.video, num_frames=num_frames)

    def _shard_file(self, name: str, shard: int) -> Path:
        return self.path / f"{name}-{shard:05d}.npy"

    def committed(self, num_shards: int) -> Iterator[dict[str, Any]]:
        """Yield the record of every committed shard."""
        for shard in range(num_shards):
            if self.is_committed(shard):
                yield self.record(shard)

    def finish(self, num_shards: int, classes: Sequence[str]) -> "ClipStore":
        """Write `skipped.jsonl` and the manifest, which seals the store, and return the store.

        Raises:
            InputError: no video is usable, or two videos have the same id.
        """
        if self.is_complete:
            return ClipStore(self.path)
        records = [self.record(shard) for shard in range(num_shards)]
        videos = [video for record in records for video in record["videos"]]
        skipped = [entry for record in records for entry in record["skipped"]]
        if not videos:
            reasons = "\n  ".join(f"{entry['path']}: {entry['reason']}" for entry in skipped[:10])
            raise InputError(
                f"{self.path}: no usable video; {len(skipped)} skipped:\n  {reasons}"
                if skipped
                else f"{self.path}: no video was given"
            )
        ids = [video["id"] for video in videos]
        if len(set(ids)) != len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise InputError(f"{self.path}: two videos have the id {twice!r}")
        lines = b"".join(canonical_json(entry) + b"\n" for entry in skipped)
        write_bytes(self.path / SKIPPED, lines)
        self.seal(
            {
                "format": FORMAT,
                "version": VERSION,
                "frame_size_hw": list(self.frame_size_hw),
                "classes": list(classes),
                "arrays": {name: list(shape) for name, shape in self.arrays.items()},
                "plan": self.plan,
                "shards": [
                    {"frames": record["frames"], "sha256": record["sha256"]} for record in records
                ],
                "videos": videos,
                "num_skipped": len(skipped),
                "skipped_sha256": hashlib.sha256(lines).hexdigest(),
            }
        )
        return ClipStore(self.path)


class ClipStore:
    """A finished clip store, opened for reading; safe to use after a fork.

    Attributes:
        classes: ordered class names, shared by all splits.
        videos: all videos, in store order.
        frame_size_hw: height and width of every frame, in pixels.
        plan: settings with which the store was made.

    Raises:
        InputError: the store is missing, unfinished, of a different kind, or inconsistent.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        manifest = read_manifest(self.path, FORMAT, VERSION, HOW_TO_MAKE)
        try:
            height, width = (int(side) for side in manifest["frame_size_hw"])
            self.frame_size_hw = (height, width)
            self.classes = tuple(str(name) for name in manifest["classes"])
            self.arrays = {
                str(name): tuple(int(side) for side in shape)
                for name, shape in manifest["arrays"].items()
            }
            self.plan = dict(manifest["plan"])
            self.shards = [
                (int(shard["frames"]), dict(shard["sha256"])) for shard in manifest["shards"]
            ]
            self.videos = tuple(video_from_json(entry) for entry in manifest["videos"])
            self.num_skipped = int(manifest["num_skipped"])
            self._skipped_sha256 = str(manifest["skipped_sha256"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self.path}: the manifest is damaged ({type(error).__name__}: {error}); "
                "prepare the store again"
            ) from None
        self._check()
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    def _check(self) -> None:
        for name in self.arrays:
            if not name.isidentifier():
                raise InputError(f"{self.path}: array name {name!r} is not an identifier")
        if len({video.id for video in self.videos}) != len(self.videos):
            raise InputError(f"{self.path}: two videos have the same id; prepare the store again")
        for video in self.videos:
            inside = (
                0 <= video.shard < len(self.shards)
                and video.offset >= 0
                and video.num_frames > 0
                and video.offset + video.num_frames <= self.shards[video.shard][0]
            )
            if not inside:
                raise InputError(
                    f"{self.path}: the manifest places video {video.id!r} outside its shard; "
                    "prepare the store again"
                )
            if video.label is not None and video.label not in self.classes:
                raise InputError(
                    f"{self.path}: video {video.id!r} has the unknown class {video.label!r}"
                )

    @property
    def simulated(self) -> str | None:
        """Return the simulator that made the videos, or None if the plan names no simulator."""
        label = self.plan.get("simulated")
        return None if label is None else str(label)

    @property
    def content_hash(self) -> str:
        """Return the SHA-256 that identifies the data: frames, order, labels and splits."""
        videos = [asdict(video) for video in self.videos]
        for video in videos:  # the count follows from the rest, and older stores lack it
            (video["origin"] or {}).pop(REPEATED, None)
        return sha256_json(
            {
                "frame_size_hw": self.frame_size_hw,
                "classes": self.classes,
                "shards": [hashes for _, hashes in self.shards],
                "videos": videos,
            }
        )

    def describe(self) -> Facts:
        """Return the details of the store that `video-vq info` shows."""
        lengths = [video.num_frames for video in self.videos]
        low, high = min(lengths), max(lengths)
        length = f"{low}" if low == high else f"{low} to {high}"
        rates = {"unknown" if video.fps is None else f"{video.fps:.5g}" for video in self.videos}
        arrays = [self.path / name for name in self.files() if name != SKIPPED]
        return {
            "videos": facts.per_split(video.split for video in self.videos),
            "frames": f"{sum(lengths):,} of {facts.times(self.frame_size_hw)}, {length} in a video",
            "fps": sorted(rates),
            "classes": facts.or_none(self.classes),
            "arrays": {name: list(shape) for name, shape in self.arrays.items()},
            "left out": f"{self.num_skipped} ({SKIPPED})" if self.num_skipped else "nothing",
            **({} if self.simulated is None else {"simulated": self.simulated}),
            "made by": facts.made_by(self.plan),
            "files": facts.sizes(arrays),
            "hash": self.content_hash,
        }

    def indices(self, split: str | None) -> list[int]:
        """Return the indices into `videos` for one split, or for all videos if split is None.

        Raises:
            InputError: the split contains no video.
        """
        found = [index for index, video in enumerate(self.videos) if split in (None, video.split)]
        if not found:
            splits = sorted({video.split for video in self.videos})
            raise InputError(
                f"{self.path}: no video in split {split!r}; it has {', '.join(splits)}"
            )
        return found

    def read(
        self, index: int, start: int = 0, num_frames: int | None = None, stride: int = 1
    ) -> np.ndarray:
        """Return frames of video `index` as a new uint8 array t h w c.

        Args:
            index: index into `videos`.
            start: index of the first frame.
            num_frames: number of frames; None to read to the end of the video.
            stride: interval between the returned frames, in stored frames.

        Raises:
            ValueError: no frames are requested, or not all of them are inside the video.
            InputError: the file that contains the frames is missing or damaged.
        """
        return self._rows("frames", index, start, num_frames, stride)

    def read_array(
        self, name: str, index: int, start: int = 0, num_frames: int | None = None, stride: int = 1
    ) -> np.ndarray:
        """Return rows of a per-frame array, such as `actions`, as float32 (t, ...); see `read`."""
        return self._rows(name, index, start, num_frames, stride)

    def _rows(
        self, name: str, index: int, start: int, num_frames: int | None, stride: int
    ) -> np.ndarray:
        video = self.videos[index]
        if num_frames is None:
            num_frames = (video.num_frames - start + stride - 1) // stride
        end = start + (num_frames - 1) * stride + 1
        if start < 0 or num_frames < 1 or stride < 1 or end > video.num_frames:
            raise ValueError(
                f"frames {start}..{end - 1} are not inside video {video.id!r} "
                f"of {video.num_frames} frames"
            )
        shard = self._map(name, video.shard)
        return np.array(shard[video.offset + start : video.offset + end : stride])

    def _map(self, name: str, shard: int) -> np.ndarray:
        if (name, shard) not in self._maps:
            row_shape, dtype = (
                ((*self.frame_size_hw, 3), np.uint8)
                if name == "frames"
                else (self.arrays[name], np.float32)
            )
            path = self.path / f"{name}-{shard:05d}.npy"
            array = open_array(path, row_shape, dtype)
            if len(array) != self.shards[shard][0]:
                raise InputError(
                    f"{path}: holds {len(array)} rows, the manifest says {self.shards[shard][0]}; "
                    "prepare the store again"
                )
            self._maps[name, shard] = array
        return self._maps[name, shard]

    def __getstate__(self) -> dict[str, Any]:
        # Workers started by spawn map the files again instead of copying them.
        return {**self.__dict__, "_maps": {}}

    def files(self) -> dict[str, str]:
        """Return a mapping from the name of every file in the manifest to the file's SHA-256."""
        hashed = {SKIPPED: self._skipped_sha256}
        for shard, (_, hashes) in enumerate(self.shards):
            for name in ("frames", *self.arrays):
                hashed[f"{name}-{shard:05d}.npy"] = str(hashes.get(name))
        return hashed
