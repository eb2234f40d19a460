"""From raw videos to one shard of a clip store: a pure function, the unit of work of every run."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from data_prep.actions import read_actions
from data_prep.sources.lerobot_episode import begin_shard, open_episode
from data_prep.sources import Item, SourceName
from data_prep.sources.bair import Camera, frames_of
from data_prep.tfrecord import RecordError, read_record
from video_vq.media.decode import Decoder
from video_vq.media.prepared import FrameRecipe, OpenedFile, cpu_limit, frames_plan, open_file
from video_vq.media.probe import DEFAULT_LIMITS, Limits, UnreadableVideoError
from video_vq.media.resize import resize
from video_vq.stores.clips import (
    ClipStoreWriter,
    PreparedVideo,
    Skipped,
    UnusableVideoError,
    Video,
)
from video_vq.stores.videos import REPEATED


@dataclass(frozen=True)
class Recipe:
    """How every video of a store is made.

    Attributes:
        source: decides what an item is.
        size_hw: height and width of the frames.
        fps: rate to bring videos to, None to keep theirs.
        stride: keep every n-th frame.
        camera: of BAIR.
        simulated: the label that every record of BAIR's schema must carry, None for none.
        limits: on what a video may ask for.
        cpu_seconds: processor time that any video may take, before its size is counted.
        decoder: which one is tried first; it does not decide the frames.
    """

    source: SourceName
    size_hw: tuple[int, int]
    fps: float | None = None
    stride: int = 1
    camera: Camera = "aux1"
    simulated: str | None = None
    limits: Limits = DEFAULT_LIMITS
    cpu_seconds: float = 60.0
    decoder: Decoder = "pyav"

    def plan(self) -> dict[str, Any]:
        """Return what decides the bytes, as JSON."""
        plan = {**asdict(self), "size_hw": list(self.size_hw)}
        del plan["decoder"], plan["camera"]
        if self.simulated is None:
            del plan["simulated"]
        return {**plan, **frames_plan(self.fps)}

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
        return cpu_limit(self.cpu_seconds, decoded_bytes)

    def of_files(self) -> FrameRecipe:
        """Return the part that says how a video file's frames are made."""
        return FrameRecipe(
            self.size_hw, self.fps, self.stride, self.limits, self.cpu_seconds, self.decoder
        )


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
    begin_shard()
    left_out = list(skipped)
    notes: list[dict[str, str]] = []

    def videos() -> Iterator[PreparedVideo]:
        for item in items:
            verdict = verdicts.get(item.id, Verdict())
            try:
                if verdict.skip is not None:
                    raise UnusableVideoError(verdict.skip)
                decoder = verdict.decoder or recipe.decoder
                prepared = open_video(item, recipe, decoder, watch, notes)
                _require_widths(prepared, writer.arrays)
                yield prepared
            except UnusableVideoError as reason:
                left_out.append(Skipped(item.id, item.name, str(reason)))
            watch(item.id, "done", 0.0)

    writer.write_shard(shard, videos(), left_out, notes)


def _require_widths(prepared: PreparedVideo, arrays: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless every row has as many numbers as when the source was listed.

    Raises:
        UnusableVideoError: a file was changed since.
    """
    for name, shape in arrays.items():
        found = np.shape(prepared.arrays[name])[1:]
        if found != shape:
            raise UnusableVideoError(
                f"its {name} have rows of {' x '.join(map(str, found))} numbers, "
                f"{' x '.join(map(str, shape))} when they were listed; something writes to them"
            )


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
    if recipe.source == "lerobot":

        def decoding(num_bytes: int) -> None:
            watch(item.id, "decode", recipe.cpu_limit(num_bytes))

        return open_episode(item, recipe.size_hw, recipe.stride, recipe.limits, decoding, notes)
    return _open_file(item, recipe, decoder, watch, notes)


def _open_file(
    item: Item, recipe: Recipe, decoder: Decoder, watch: Watch, notes: list[dict[str, str]]
) -> PreparedVideo:
    try:
        opened = open_file(
            item.path,
            item.num_bytes,
            recipe.of_files(),
            decoder,
            lambda stage, cpu_seconds: watch(item.id, stage, cpu_seconds),
        )
    except UnreadableVideoError as error:
        raise UnusableVideoError(error.reason) from None
    actions, its_hash = _actions(item)
    packets = opened.info.num_packets
    origin = {"name": item.name, "sha256": opened.sha256, "packets": packets, **its_hash}
    return PreparedVideo(
        Video(
            id=item.id,
            label=item.label,
            split=item.split,
            group=item.group,
            fps=opened.fps,
            origin=origin,
        ),
        _finished(item, opened, actions, notes, origin),
        {} if actions is None else {"actions": _rows(actions, opened.chosen, recipe.stride)},
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


def _finished(
    item: Item,
    opened: OpenedFile,
    actions: Float32[np.ndarray, "t n"] | None,
    notes: list[dict[str, str]],
    origin: dict[str, Any],
) -> Iterator[UInt8[np.ndarray, "1 h w 3"]]:
    """Yield the frames; at the end check their number, and note what was odd and what repeated."""
    try:
        yield from opened.frames
    except UnreadableVideoError as error:
        raise UnusableVideoError(error.reason) from None
    num_frames = opened.stream.num_frames
    if actions is not None and len(actions) != num_frames:
        raise UnusableVideoError(
            f"its actions have {len(actions):,} rows, its file {num_frames:,} frames"
        )
    notes += [{"id": item.id, "note": note} for note in opened.oddities()]
    repeated = opened.num_repeated()
    if repeated is not None:
        origin[REPEATED] = repeated


def _open_record(item: Item, recipe: Recipe, watch: Watch) -> PreparedVideo:
    try:
        data = read_record(Path(item.path), item.offset, item.base)
        watch(item.id, "decode", recipe.cpu_limit(item.num_bytes))
        frames, arrays = frames_of(data, recipe.camera, recipe.simulated)
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
