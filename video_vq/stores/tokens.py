"""The token store: grids of codes in .npy shards, with the hash of the tokenizer that made them.

A shard consists of `tokens-00000.npy`, uint16 or uint32 (n, t, h, w), with a last axis of levels if
a position has several codes, and `rows-00000.npy`, int64 (n, 3), whose columns are the video's
index in the manifest, the first frame and the stride. If the videos have actions, the shard also
contains `actions-00000.npy`, float32 (n, t, a), with the actions that lead to each latent frame.
`skipped.jsonl` lists the raw videos that were skipped.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from video_vq import facts
from video_vq.errors import InputError
from video_vq.facts import Facts
from video_vq.stores.clips import SKIPPED
from video_vq.stores.files import canonical_json, open_array, sha256_json, write_array, write_bytes
from video_vq.stores.shards import ShardFolder, read_manifest
from video_vq.stores.videos import Skipped, Video, commonest_fps, video_from_json

FORMAT = "video-vq tokens"
VERSION = 1
HOW_TO_MAKE = "make a token store with `video-vq encode STORE --tokenizer DIR --out TOKENS`"
ROW = 3  # video, first frame, stride


@dataclass(frozen=True)
class TokenHeader:
    """The properties that all grids in a token store share.

    Attributes:
        tokenizer_hash: hash of the tokenizer's tensors and model config.
        codebook_size: number of codes; tokens lie in 0 .. codebook_size − 1. If a position has
            several codes, the number of their combinations.
        grid_thw: shape of a grid.
        num_frames, frame_size_hw: length and frame size of the encoded clips.
        fps: frames per second of the encoded clips; the most common rate if the rates differ, None
            if unknown. For raw videos with their own rates, the rate is known only after decoding:
            the writer's header has None, and the reader's header has the rate.
        classes: ordered class names.
        data_hash: content hash of the clip store or list of raw videos that was encoded; None for
            samples from a prior.
        made_by: settings with which the store was made.
        num_action_dims: number of action values per latent frame, a; 0 without actions.
        levels: codebook size of each level if a position has several codes; empty otherwise.
    """

    tokenizer_hash: str
    codebook_size: int
    grid_thw: tuple[int, int, int]
    num_frames: int
    frame_size_hw: tuple[int, int]
    fps: float | None
    classes: tuple[str, ...]
    data_hash: str | None
    made_by: dict[str, Any]
    num_action_dims: int = 0
    levels: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the codebook size of each level; one size if a position has a single code."""
        return self.levels or (self.codebook_size,)

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Return the shape of a clip's tokens: t h w, or t h w level for several levels."""
        return (*self.grid_thw, *((len(self.levels),) if self.levels else ()))

    @property
    def dtype(self) -> np.dtype:
        """Return the token dtype: uint16, or uint32 for more than 65,536 codes."""
        return np.dtype(np.uint16 if max(self.vocabulary) <= 1 << 16 else np.uint32)

    def to_json(self) -> dict[str, Any]:
        """Return the header as JSON values, without `num_action_dims` and `levels` if unused."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key not in ("num_action_dims", "levels") or value
        }

    @property
    def actions_shape(self) -> tuple[int, int]:
        """Return the shape t a of a clip's actions."""
        return self.grid_thw[0], self.num_action_dims


class TokenStoreWriter(ShardFolder):
    """Writer that fills a token store shard by shard; see `ClipStoreWriter`."""

    def __init__(self, path: str | Path, header: TokenHeader, owner: bool = True):
        super().__init__(Path(path), header.to_json(), owner)
        self.header = header

    def write_shard(
        self,
        shard: int,
        tokens: np.ndarray,
        rows: np.ndarray,
        actions: np.ndarray | None = None,
        skipped: Sequence[Skipped] = (),
        rates: Mapping[int, float | None] | None = None,
        notes: Sequence[dict[str, str]] = (),
    ) -> None:
        """Write and commit one shard.

        Args:
            shard: index of the shard.
            tokens: integer grids n t h w, or n t h w level.
            rows: video index, first frame and stride of each grid, int64 (n, 3).
            actions: actions n t a; None if the header has no actions.
            skipped: videos that could not be used.
            rates: mapping from video index to frames per second, for rates found by decoding.
            notes: remarks on irregular videos, each with the keys "id" and "note".
        """
        if tokens.shape[1:] != self.header.token_shape or rows.shape != (len(tokens), ROW):
            raise ValueError(
                f"grids of {tokens.shape[1:]} with rows {rows.shape} do not fit "
                f"{self.header.token_shape}"
            )
        for level, codes in enumerate(codes_of_levels(tokens, self.header)):
            size = self.header.vocabulary[level]
            if codes.size and not 0 <= codes.min() <= codes.max() < size:
                raise ValueError(f"tokens lie outside 0..{size - 1}{_of_level(level, self.header)}")
        expected = (
            (len(tokens), *self.header.actions_shape) if self.header.num_action_dims else None
        )
        if (None if actions is None else actions.shape) != expected:
            raise ValueError(f"actions do not have the shape {expected} of the header")
        hashes = {
            "tokens": write_array(
                self.path / f"tokens-{shard:05d}.npy", tokens.astype(self.header.dtype)
            ),
            "rows": write_array(self.path / f"rows-{shard:05d}.npy", rows.astype(np.int64)),
        }
        if actions is not None:
            file = self.path / f"actions-{shard:05d}.npy"
            hashes["actions"] = write_array(file, actions.astype(np.float32))
        record = {
            "count": len(tokens),
            "sha256": hashes,
            "skipped": [asdict(entry) for entry in skipped],
            "rates": {str(position): fps for position, fps in (rates or {}).items()},
            "notes": list(notes),
        }
        self.commit(shard, record)

    def skipped(self, shard: int) -> list[dict[str, str]]:
        """Return the videos skipped in a committed shard (id, path, reason)."""
        return self.record(shard)["skipped"]

    def num_grids(self, num_shards: int) -> int:
        """Return the number of grids in the committed shards."""
        shards = (shard for shard in range(num_shards) if self.is_committed(shard))
        return sum(int(self.record(shard)["count"]) for shard in shards)

    def finish(self, num_shards: int, videos: Sequence[Video]) -> "TokenStore":
        """Write `skipped.jsonl` and the manifest, which seals the store, and return the store.

        Args:
            num_shards: number of shards, all of which must be committed.
            videos: videos that the first column of the rows indexes; a rate found by decoding
                replaces a video's own rate.
        """
        if not self.is_complete:
            records = [self.record(shard) for shard in range(num_shards)]
            rates = {place: fps for record in records for place, fps in record["rates"].items()}
            skipped = [entry for record in records for entry in record["skipped"]]
            lines = b"".join(canonical_json(entry) + b"\n" for entry in skipped)
            write_bytes(self.path / SKIPPED, lines)
            self.seal(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "plan": self.header.to_json(),
                    "shards": [
                        {"count": record["count"], "sha256": record["sha256"]} for record in records
                    ],
                    "videos": [
                        {
                            "id": video.id,
                            "label": video.label,
                            "split": video.split,
                            "group": video.group,
                            "fps": rates.get(str(position), video.fps),
                        }
                        for position, video in enumerate(videos)
                    ],
                    "notes": [note for record in records for note in record["notes"]],
                    "num_skipped": len(skipped),
                    "skipped_sha256": hashlib.sha256(lines).hexdigest(),
                }
            )
        return TokenStore(self.path)


class TokenStore:
    """A finished token store, opened for reading.

    Attributes:
        header: properties that all grids share.
        videos: id, label, split, group and rate of each video that the rows index.
        num_skipped: number of raw videos that were skipped; `skipped.jsonl` lists them.
        notes: remarks on irregular raw videos, each with the keys "id" and "note".

    Raises:
        InputError: the store is missing, unfinished, of a different kind, or inconsistent.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        manifest = read_manifest(self.path, FORMAT, VERSION, HOW_TO_MAKE)
        try:
            plan = dict(manifest["plan"])
            for key in ("grid_thw", "frame_size_hw", "classes", "levels"):
                plan[key] = tuple(plan.get(key, ()) if key == "levels" else plan[key])
            self.header = TokenHeader(**plan)
            if prod(self.header.vocabulary) != self.header.codebook_size:
                raise ValueError(f"levels {self.header.levels} do not multiply to codebook_size")
            self.shards = [
                (int(shard["count"]), dict(shard["sha256"])) for shard in manifest["shards"]
            ]
            self.videos = tuple(video_from_json(entry) for entry in manifest["videos"])
            self.num_skipped = int(manifest.get("num_skipped", 0))
            self._skipped: str | None = manifest.get("skipped_sha256")
            self.notes = tuple(dict(note) for note in manifest.get("notes", ()))
            if bad := [v.label for v in self.videos if v.label not in (None, *self.header.classes)]:
                raise ValueError(f"unknown class {bad[0]!r}")
            self._first = np.cumsum([0, *(count for count, _ in self.shards)])
            self._tokens = self._open("tokens", self.header.token_shape, self.header.dtype)
            parts = self._open("rows", (ROW,), np.int64)
            shape = self.header.actions_shape
            self._actions = self._open("actions", shape, np.float32) if shape[1] else []
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.path}: the manifest is damaged ({type(error).__name__}: {error}); "
                "encode again"
            ) from None
        self._rows = np.concatenate([*parts, np.empty((0, ROW), np.int64)])
        counts = [len(tokens) for tokens in self._tokens]
        if self._actions and counts != [len(actions) for actions in self._actions]:
            raise InputError(f"{self.path}: not every grid has actions; encode again")
        if counts != [count for count, _ in self.shards] or len(self._rows) != self._first[-1]:
            raise InputError(f"{self.path}: shards and manifest disagree on lengths; encode again")
        if len(self._rows) and not (
            0 <= self._rows[:, 0].min() <= self._rows[:, 0].max() < len(self.videos)
        ):
            raise InputError(f"{self.path}: rows point to missing videos; encode again")
        if self.header.fps is None and len(self._rows):
            self.header = replace(self.header, fps=usual_rate(self.videos, int(self._rows[0, 2])))

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype | type) -> list[np.ndarray]:
        shards = range(len(self.shards))
        return [open_array(self.path / f"{name}-{k:05d}.npy", shape, dtype) for k in shards]

    def __len__(self) -> int:
        return int(self._first[-1])

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path]]:
        # Workers started by spawn map the files again instead of copying them.
        return TokenStore, (self.path,)

    @property
    def content_hash(self) -> str:
        """Return the SHA-256 that identifies the tokens, the videos and the tokenizer."""
        return sha256_json(
            {
                "header": self.header.to_json(),
                "shards": [hashes for _, hashes in self.shards],
                "videos": [asdict(video) for video in self.videos],
            }
        )

    def files(self) -> dict[str, str]:
        """Return a mapping from the name of every file in the manifest to the file's SHA-256."""
        arrays = ("tokens", "rows", *(("actions",) if self.header.num_action_dims else ()))
        files = {
            f"{name}-{shard:05d}.npy": str(hashes.get(name))
            for shard, (_, hashes) in enumerate(self.shards)
            for name in arrays
        }
        return files if self._skipped is None else {**files, SKIPPED: self._skipped}

    def describe(self) -> Facts:
        """Return the details of the store that `video-vq info` shows."""
        header = self.header
        rate = "an unknown rate" if header.fps is None else f"{header.fps:g} fps"
        mixed = len({video.fps for video in self.videos}) > 1
        size = facts.times(header.frame_size_hw)
        return {
            "clips": facts.per_split(self.video_of(row).split for row in range(len(self))),
            "tokens": facts.tokens(header.grid_thw, header.vocabulary),
            "each clip": f"{header.num_frames} frames of {size} at {rate}"
            + (", mostly (rates are mixed)" if mixed else ""),
            "classes": facts.or_none(header.classes),
            **facts.actions(header.num_action_dims),
            "tokenizer": header.tokenizer_hash,
            "made from": header.data_hash or "samples of a prior",
            "files": facts.sizes(
                self.path / name for name in self.files() if name.startswith("tokens")
            ),
            "hash": self.content_hash,
        }

    @property
    def splits(self) -> set[str]:
        """Return the splits that contain tokens; skipped videos have no tokens."""
        return {self.videos[number].split for number in np.unique(self._rows[:, 0])}

    def rows(self, split: str | None) -> np.ndarray:
        """Return the row indices of one split, or all row indices if split is None.

        Raises:
            InputError: the split contains no tokens.
        """
        chosen = np.array([split in (None, video.split) for video in self.videos], dtype=bool)
        found = np.flatnonzero(chosen[self._rows[:, 0]])
        if not len(found):
            splits = ", ".join(sorted(self.splits))
            raise InputError(f"{self.path}: no tokens of split {split!r}; it has {splits}")
        return found

    def read(self, row: int) -> np.ndarray:
        """Return the grid of a row: t h w, or t h w level if a position has several codes.

        Raises:
            InputError: a token is outside the codebook.
        """
        shard = int(np.searchsorted(self._first, row, side="right")) - 1
        grid = np.array(self._tokens[shard][row - self._first[shard]])
        for level, codes in enumerate(codes_of_levels(grid, self.header)):
            if codes.max() >= self.header.vocabulary[level]:
                raise InputError(
                    f"{self.path}: row {row} holds token {codes.max()}"
                    f"{_of_level(level, self.header)}, the codebook has "
                    f"{self.header.vocabulary[level]}; encode again"
                )
        return grid

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the grids of several rows as one int64 array n t h w, or n t h w level."""
        return np.stack([self.read(int(row)) for row in rows]).astype(np.int64)

    def read_actions(self, row: int) -> np.ndarray | None:
        """Return the actions that lead to each latent frame of a row's grid, float32 t a.

        Return None if the store has no actions.

        Raises:
            InputError: a value is not finite.
        """
        if not self._actions:
            return None
        shard = int(np.searchsorted(self._first, row, side="right")) - 1
        actions = np.array(self._actions[shard][row - self._first[shard]])
        if not np.isfinite(actions).all():
            raise InputError(
                f"{self.path}: an action of row {row} is not finite; encode again from valid data"
            )
        return actions

    def window_of(self, row: int) -> tuple[int, int, int]:
        """Return the video index, first frame and stride of a row."""
        video, start, stride = (int(value) for value in self._rows[row])
        return video, start, stride

    def video_of(self, row: int) -> Video:
        """Return the source video of a row."""
        return self.videos[int(self._rows[row, 0])]

    def class_of(self, row: int) -> int:
        """Return the class index of a row's video, or −1 if the video has no class."""
        label = self.video_of(row).label
        return -1 if label is None else self.header.classes.index(label)


def codes_of_levels(tokens: np.ndarray, header: TokenHeader) -> list[np.ndarray]:
    """Return a list of code arrays, one per level; a single array if there are no levels."""
    return [tokens[..., level] for level in range(len(header.levels))] or [tokens]


def _of_level(level: int, header: TokenHeader) -> str:
    return f" of level {level}" if header.levels else ""


def usual_rate(videos: Sequence[Video], stride: int) -> float | None:
    """Return the most common frame rate of clips, or None if no rate is known.

    If there is a train split, only its videos count, because a prior imitates its training data.

    Args:
        videos: source videos of the clips.
        stride: interval between the frames of a clip, in video frames.
    """
    train = [video for video in videos if video.split == "train"]
    rate = commonest_fps(train or videos)
    return None if rate is None else rate / stride
