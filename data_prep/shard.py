"""From raw videos to one shard of a clip store: a pure function, the unit of work of every run."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.actions import read_actions
from data_prep.sources import Item, SourceName
from data_prep.sources.bair import Camera, frames_of
from data_prep.tfrecord import RecordError, read_record
from video_vq.media.decode import Decoder, FrameStream
from video_vq.media.probe import (
    DEFAULT_LIMITS,
    Limits,
    UnreadableVideoError,
    VideoInfo,
    probe,
)
from video_vq.media.resample import frames_at_rate, keep
from video_vq.media.resize import METHOD, resize
from video_vq.stores.clips import (
    ClipStoreWriter,
    PreparedVideo,
    Skipped,
    UnusableVideoError,
    Video,
)

# Raise when the same source and recipe begin to give other bytes.
FRAMES_VERSION = 1
# A slow core decodes and scales at ten times this rate.
BYTES_PER_CPU_SECOND = 50_000_000
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """How every video of a store is made.

    Attributes:
        source: decides what an item is.
        size_hw: height and width of the frames.
        fps: rate to bring videos to, None to keep theirs.
        stride: keep every n-th frame.
        camera: of BAIR.
        limits: on what a video may ask for.
        cpu_seconds: processor time that any video may take, before its size is counted.
        decoder: which one is tried first; it does not decide the frames.
    """

    source: SourceName
    size_hw: tuple[int, int]
    fps: float | None = None
    stride: int = 1
    camera: Camera = "aux1"
    limits: Limits = DEFAULT_LIMITS
    cpu_seconds: float = 60.0
    decoder: Decoder = "pyav"

    def plan(self) -> dict[str, Any]:
        """Return what decides the bytes, as JSON."""
        plan = {**asdict(self), "size_hw": list(self.size_hw)}
        del plan["decoder"], plan["camera"]
        return {**plan, "resize": METHOD, "frames_version": FRAMES_VERSION}

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON; see `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Recipe":
        """Return the recipe that `to_json` gave."""
        height, width = value["size_hw"]
        return Recipe(**{**value, "size_hw": (height, width), "limits": Limits(**value["limits"])})

    def cpu_limit(self, decoded_bytes: int) -> float:
        """Return the processor seconds that a video of so many bytes may take."""
        return self.cpu_seconds + decoded_bytes / BYTES_PER_CPU_SECOND


@dataclass(frozen=True)
class Verdict:
    """What an earlier attempt taught about a video.

    Attributes:
        skip: why it is to be left out, None when it is not.
        decoder: which decoder is to be used, None for the recipe's.
    """

    skip: str | None = None
    decoder: Decoder | None = None


Watch = Callable[[str, str, float], None]
"""Told at each stage of a video: its id, "read" or "decode" or "done", the cpu seconds it has."""


def prepare_shard(
    writer: ClipStoreWriter,
    recipe: Recipe,
    shard: int,
    items: Sequence[Item],
    skipped: Sequence[Skipped],
    verdicts: Mapping[str, Verdict],
    watch: Watch,
) -> None:
    """Decode the videos of one shard, write and commit it.

    A video that cannot be used is left out, with its reason.

    Raises:
        OSError: the store cannot be written.
    """
    left_out = list(skipped)
    notes: list[dict[str, str]] = []

    def videos() -> Iterator[PreparedVideo]:
        for item in items:
            verdict = verdicts.get(item.id, Verdict())
            try:
                if verdict.skip is not None:
                    raise UnusableVideoError(verdict.skip)
                yield open_video(item, recipe, verdict.decoder or recipe.decoder, watch, notes)
            except UnusableVideoError as reason:
                left_out.append(Skipped(item.id, item.name, str(reason)))
            watch(item.id, "done", 0.0)

    writer.write_shard(shard, videos(), left_out, notes)


def open_video(
    item: Item, recipe: Recipe, decoder: Decoder, watch: Watch, notes: list[dict[str, str]]
) -> PreparedVideo:
    """Open one video; its frames are decoded as they are taken.

    Raises:
        UnusableVideoError: now or while the frames are taken.
    """
    watch(item.id, "read", recipe.cpu_limit(item.num_bytes))
    if recipe.source == "bair":
        return _open_record(item, recipe, watch)
    return _open_file(item, recipe, decoder, watch, notes)


def _open_file(
    item: Item, recipe: Recipe, decoder: Decoder, watch: Watch, notes: list[dict[str, str]]
) -> PreparedVideo:
    sha256 = _sha256(item)
    watch(item.id, "decode", recipe.cpu_seconds)
    try:
        info = probe(item.path, recipe.limits)
        chosen = None if recipe.fps is None else frames_at_rate(info, recipe.fps, recipe.limits)
    except UnreadableVideoError as error:
        raise UnusableVideoError(error.reason) from None
    actions, its_hash = _actions(item)
    height, width = recipe.size_hw
    frames = info.num_packets if chosen is None else len(chosen)
    watch(item.id, "decode", recipe.cpu_limit(info.decoded_bytes + frames * height * width * 3))
    stream = FrameStream(info, decoder, recipe.limits)
    decoded = iter(stream)
    kept = islice(decoded, 0, None, recipe.stride) if chosen is None else keep(decoded, chosen)
    return PreparedVideo(
        Video(
            id=item.id,
            label=item.label,
            split=item.split,
            group=item.group,
            fps=_rate(info, recipe),
            origin={
                "name": item.name,
                "sha256": sha256,
                "packets": info.num_packets,
                **its_hash,
            },
        ),
        _finished(item, stream, decoded, kept, recipe, notes, actions),
        {} if actions is None else {"actions": _rows(actions, chosen, recipe.stride)},
    )


def _actions(item: Item) -> tuple[Float32[np.ndarray, "t n"] | None, dict[str, str]]:
    """Return the numbers of a video's frames, and what its origin says of them."""
    if item.actions is None:
        return None, {}
    try:
        rows = read_actions(Path(item.actions))
    except ValueError as error:
        raise UnusableVideoError(f"its actions {Path(item.actions).name}: {error}") from None
    return rows, {"actions_sha256": hashlib.sha256(rows.tobytes()).hexdigest()}


def _rows(
    actions: Float32[np.ndarray, "t n"], chosen: Sequence[int] | None, stride: int
) -> Float32[np.ndarray, "s n"]:
    """Return the rows of the frames that are kept; a frame that is repeated repeats its row."""
    if chosen is None:
        return actions[::stride]
    return actions[[index for index in chosen if index < len(actions)]]


def _rate(info: VideoInfo, recipe: Recipe) -> float | None:
    if recipe.fps is not None:
        return recipe.fps
    return None if info.fps is None else info.fps / recipe.stride


def _finished(
    item: Item,
    stream: FrameStream,
    decoded: Iterator[UInt8[np.ndarray, "h w 3"]],
    kept: Iterable[UInt8[np.ndarray, "h w 3"]],
    recipe: Recipe,
    notes: list[dict[str, str]],
    actions: Float32[np.ndarray, "t n"] | None,
) -> Iterator[UInt8[np.ndarray, "1 h w 3"]]:
    """Yield the frames at the store's size; at the end check their number, note what was odd."""
    try:
        for frame in kept:
            yield resize(frame[None], recipe.size_hw)
        for _ in decoded:  # a fixed rate may not need the last ones; they are counted all the same
            pass
    except UnreadableVideoError as error:
        raise UnusableVideoError(error.reason) from None
    except MemoryError:
        raise UnusableVideoError("asks for more memory than a video may have") from None
    if actions is not None and len(actions) != stream.num_frames:
        raise UnusableVideoError(
            f"its actions have {len(actions):,} rows, its file {stream.num_frames:,} frames"
        )
    if stream.num_frames != stream.info.num_packets:
        notes.append(
            {
                "id": item.id,
                "note": f"{stream.num_frames} frames of {stream.info.num_packets} packets",
            }
        )
    if stream.handed_over is not None:
        notes.append({"id": item.id, "note": f"PyAV took over from decord: {stream.handed_over}"})
    if stream.num_damaged:
        notes.append(
            {"id": item.id, "note": f"damaged frames that were mended: {stream.num_damaged}"}
        )


def _open_record(item: Item, recipe: Recipe, watch: Watch) -> PreparedVideo:
    try:
        data = read_record(Path(item.path), item.offset, item.base)
        watch(item.id, "decode", recipe.cpu_limit(item.num_bytes))
        frames, arrays = frames_of(data, recipe.camera)
    except RecordError as error:
        raise UnusableVideoError(error.reason) from None
    except ValueError as error:
        raise UnusableVideoError(f"byte {item.offset:,}: the record: {error}") from None
    except OSError as error:
        raise UnusableVideoError(f"cannot be read ({error.strerror})") from None
    return PreparedVideo(
        Video(
            id=item.id,
            label=item.label,
            split=item.split,
            group=item.group,
            origin={
                "name": item.name,
                "offset": item.offset,
                "sha256": hashlib.sha256(data).hexdigest(),
            },
        ),
        [resize(frames[:: recipe.stride], recipe.size_hw)],
        {name: array[:: recipe.stride] for name, array in arrays.items()},
    )


def _sha256(item: Item) -> str:
    """Hash the file; it must still be the one that was listed."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(item.path, "rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise UnusableVideoError(f"cannot be read ({error.strerror})") from None
    if size != item.num_bytes:
        raise UnusableVideoError(
            f"has {size:,} bytes, {item.num_bytes:,} when it was listed; something writes to it"
        )
    return digest.hexdigest()
