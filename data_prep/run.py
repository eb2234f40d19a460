"""Preparation of a clip store from a listing of raw videos; can be resumed at any time."""

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from data_prep.archives import Archive, unpack, unpacked_path
from data_prep.pool import COMMAND, Making, Pool, ShardTask
from data_prep.rates import mixed_rates, repeated_frames
from data_prep.ray_pool import run_pool_on_ray
from data_prep.sources import Item, Listing, SourceName
from video_vq.errors import InputError
from video_vq.media.decode import require_decoder
from video_vq.media.prepared import FrameRecipe
from video_vq.progress import progress
from video_vq.ray_tasks import require_ray
from video_vq.stores.clips import PROVENANCE, SKIPPED, SPLITS, ClipStore, ClipStoreWriter
from video_vq.stores.files import read_json, sha256_file, write_json
from video_vq.stores.lock import Lock, held
from video_vq.stores.raw_videos import LIST_SETTINGS, plan_of_videos, usual_videos_per_shard
from video_vq.stores.shards import MANIFEST, PARTS, plan_of, write_sealed
from video_vq.stores.videos import reasons, require_few_skipped, warning_of_empty_splits

Engine = Literal["local", "ray"]
UNPACKED = "unpacked"  # subfolder of parts/, removed together with parts/
CONFIGS: dict[SourceName, str] = {
    "folder": "video64",
    "ucf101": "ucf101",
    "bair": "bair",
    "lerobot": "video64",
}
CONFIG_SIZES = {"video64": (64, 64), "ucf101": (128, 128), "bair": (64, 64)}


@dataclass(frozen=True)
class Outcome:
    """The result of `prepare`.

    Attributes:
        store: the finished store.
        seconds: duration of this call, in seconds.
        new_videos: number of videos in the shards that this call prepared.
        notes: irregularities of videos, with the keys id and note; empty if the store was already
            finished.
        skipped: skipped videos, with the keys id, path and reason; empty if the store was already
            finished.
    """

    store: ClipStore
    seconds: float
    new_videos: int
    notes: tuple[dict[str, str], ...]
    skipped: tuple[dict[str, str], ...]


def make_plan(listing: Listing, recipe: FrameRecipe, videos_per_shard: int) -> dict[str, Any]:
    """Return a store's plan, which determines its bytes: settings and a hash of the video list.

    Args:
        listing: videos of the source.
        recipe: settings for decoding the frames.
        videos_per_shard: number of videos per shard.

    Raises:
        InputError: an actions file has become unreadable since the videos were listed.
    """
    entries = [
        [
            *(item.id, item.label, item.split, item.group, item.name, item.num_bytes, item.offset),
            *([] if item.actions is None else [_sha256_of_actions(item)]),
            *([] if item.place is None else [item.place]),
        ]
        for item in listing.items
    ]
    made = {"source": listing.source, **recipe.plan()}
    if listing.simulated is not None:
        made["simulated"] = listing.simulated
    return plan_of_videos(made, listing.settings, entries, listing.skipped, videos_per_shard)


def _sha256_of_actions(item: Item) -> str:
    assert item.actions is not None
    try:
        return sha256_file(Path(item.actions))
    except OSError as error:
        raise InputError(
            f"{item.actions}: the actions of {item.name} were there when the videos were listed, "
            f"but cannot be read now ({error.strerror or error}); restore them, then run the "
            "command again"
        ) from None


def prepare(
    listing: Listing,
    out: Path,
    recipe: FrameRecipe,
    workers: int,
    videos_per_shard: int | None = None,
    max_skipped: float | None = None,
    command: tuple[str, ...] = COMMAND,
    engine: Engine = "local",
) -> Outcome:
    """Decode all videos in a listing into a clip store.

    A repeated call resumes an interrupted preparation, and does nothing if the store is finished.
    The store's bytes depend only on the listing, the recipe and `videos_per_shard`.

    Args:
        listing: videos of the source.
        out: store folder.
        recipe: settings for decoding the frames.
        workers: largest number of decoding processes; unused with Ray.
        videos_per_shard: number of videos per shard; None for the default.
        max_skipped: largest fraction of the videos that may be skipped, from 0 to 1; None for the
            listing's own limit.
        command: command that starts a worker; unused with Ray.
        engine: "local" to decode in processes on this machine, "ray" to decode on a Ray cluster.

    Raises:
        InputError: the store is being written by another process, was made with other settings or
            from other videos, or cannot be written; the archive or an actions file cannot be read;
            too many videos are unusable; workers fail, as for `Pool.run` and `run_on_ray`; or the
            decoder or Ray is not installed.
    """
    require_decoder(recipe.decoder)
    if engine == "ray":
        require_ray()
    start = time.monotonic()
    per_shard = videos_per_shard or usual_videos_per_shard(len(listing.items))
    plan = make_plan(listing, recipe, per_shard)
    num_shards = math.ceil(len(listing.items) / per_shard)
    limit = listing.max_skipped if max_skipped is None else max_skipped
    # Nothing is written to a finished store, which may therefore be on a read-only disk.
    is_finished = (out / MANIFEST).exists() and not (out / PARTS).exists()
    with nullcontext(Lock(None)) if is_finished else held(out) as lock, _writing(out):
        _require_same_list(out, plan_of(out), plan)
        writer = ClipStoreWriter(out, recipe.size_hw, plan, listing.arrays)
        if writer.is_complete:
            store = ClipStore(out)
            return Outcome(store, time.monotonic() - start, 0, (), ())
        _note_provenance(writer, recipe)
        missing, tally = _remaining(writer, listing, per_shard, limit)
        if listing.archive is not None:
            missing = _unpacked(listing.archive, missing, writer.parts / UNPACKED)
        making = Making(out, plan, listing.arrays, recipe)
        run = partial(run_pool_on_ray, making)
        if engine == "local":
            num_workers = max(1, min(workers, len(missing)))
            # The workers keep the lock, so a new run waits for the workers of a killed run.
            keep_open = () if lock.descriptor is None else (lock.descriptor,)
            run = Pool(making, num_workers, keep_open=keep_open, command=command).run
        new_videos = sum(len(task.items) for task in missing)
        done = len(listing.items) - new_videos
        with progress("preparing", len(listing.items), "video", initial=done) as bar:
            run(missing, on_video=lambda _, change: bar.update(change), on_shard=tally.add)
        records = list(writer.committed(num_shards))
        notes = [note for record in records for note in record["notes"]]
        skipped = [entry for record in records for entry in record["skipped"]]
        write_sealed(out / PROVENANCE, {**_read_provenance(writer), "notes": notes})
        store = writer.finish(num_shards, listing.classes)
    return Outcome(store, time.monotonic() - start, new_videos, tuple(notes), tuple(skipped))


def _tasks(listing: Listing, per_shard: int) -> list[ShardTask]:
    """Divide a listing into shards; the first shard also records the listing's skipped files."""
    return [
        ShardTask(
            shard,
            listing.items[first : first + per_shard],
            tuple(asdict(entry) for entry in listing.skipped) if shard == 0 else (),
        )
        for shard, first in enumerate(range(0, len(listing.items), per_shard))
    ]


def _remaining(
    writer: ClipStoreWriter, listing: Listing, per_shard: int, limit: float
) -> tuple[list[ShardTask], "_Tally"]:
    tally = _Tally(writer, listing, limit)
    missing = []
    for task in _tasks(listing, per_shard):
        if writer.is_committed(task.shard):
            tally.add(task.shard)
        else:
            missing.append(task)
    tally.check()
    return missing, tally


def _unpacked(archive: Archive, tasks: list[ShardTask], folder: Path) -> list[ShardTask]:
    """Unpack the files of all tasks, and return the tasks with the paths of the unpacked files."""
    wanted = {item.path for task in tasks for item in task.items}
    members = [member for member in archive.members if member.name in wanted]
    with progress(f"unpacking {archive.path.name}", len(members), "file") as bar:
        unpack(archive, members, folder, on_file=bar.update)
    return [
        replace(
            task,
            items=tuple(
                replace(item, path=os.path.abspath(unpacked_path(folder, item.path)))
                for item in task.items
            ),
        )
        for task in tasks
    ]


class _Tally:
    """Counter that raises an error if too many videos are skipped."""

    def __init__(self, writer: ClipStoreWriter, listing: Listing, limit: float):
        self._writer = writer
        self._limit = limit
        self._total = len(listing.items) + len(listing.skipped)
        self._skipped = [asdict(entry) for entry in listing.skipped]

    def add(self, shard: int) -> None:
        """Add a committed shard's skipped videos that are not counted yet; then call `check`."""
        known = {entry["id"] for entry in self._skipped}
        record = self._writer.record(shard)
        self._skipped += [entry for entry in record["skipped"] if entry["id"] not in known]
        self.check()

    def check(self) -> None:
        """Raise an error if too many videos were skipped; see `require_few_skipped`."""
        require_few_skipped(self._skipped, self._total, self._limit)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn an OSError, for example from a full disk, into an InputError with advice."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be read or written ({error.strerror or error}). "
            "Nothing is lost: correct it (free some space), then run the command again; it resumes "
            "where it stopped"
        ) from None


def _require_same_list(out: Path, before: Any, now: dict[str, Any]) -> None:
    """Raise an error if only the list of videos has changed; the writer rejects other changes."""
    if not isinstance(before, dict) or before.get("list_sha256") == now["list_sha256"]:
        return
    changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    old, new = before.get("num_videos"), now["num_videos"]
    if changed - LIST_SETTINGS or not isinstance(old, int):
        return
    if new == old:
        found = f"the folder still holds {new:,} videos, but not the same ones as"
    else:
        count, word = abs(new - old), "more" if new > old else "fewer"
        plural = "s" if count > 1 else ""
        found = f"the folder now holds {count:,} {word} video{plural} ({new:,}, not {old:,}) than"
    raise InputError(
        f"{out}: {found} when this store was begun. A store is made from one list of videos: name "
        f"another --out for a store of the {new:,} there are now, or delete {out} and run this "
        "again; with the folder as it was, the same command resumes"
    )


def _note_provenance(writer: ClipStoreWriter, recipe: FrameRecipe) -> None:
    """Record the decoder, machine type and software versions, which are not in the plan."""
    made_by = {
        "decoder": recipe.decoder,
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("video-vq", "av", "decord", "numpy", "pillow")},
    }
    known = _read_provenance(writer)["made_by"]
    if made_by not in known:
        write_json(writer.parts / PROVENANCE, {"made_by": [*known, made_by]})


def _read_provenance(writer: ClipStoreWriter) -> dict[str, Any]:
    path = writer.parts / PROVENANCE
    return read_json(path, "a store's provenance") if path.exists() else {"made_by": []}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def summarize(outcome: Outcome, listing: Listing) -> str:
    """Return a summary of the result as text, including skipped videos, notes and warnings."""
    store = outcome.store
    videos = len(store.videos)
    height, width = store.frame_size_hw
    frames = sum(video.num_frames for video in store.videos)
    splits = Counter(video.split for video in store.videos)
    shares = ", ".join(f"{splits[name]:,} {name}" for name in SPLITS if splits[name])
    classes = f", {len(store.classes)} classes" if store.classes else ""
    how = f"{outcome.seconds:.0f} s" if outcome.new_videos else "was complete, nothing to do"
    lines = [
        f"{store.path}: {videos:,} videos ({shares}){classes}, {frames:,} frames of "
        f"{height}x{width}, {frames * height * width * 3 / 1e6:,.0f} MB; {how}"
    ]
    if store.num_skipped:
        total = videos + store.num_skipped
        lines.append(
            f"{store.num_skipped:,} of {total:,} were left out, see {store.path / SKIPPED}"
        )
        if outcome.skipped:
            lines.append(reasons(outcome.skipped))
    if outcome.notes:
        lines.append(f"{len(outcome.notes):,} videos have oddities, see {store.path / PROVENANCE}")
        lines += [f"  {note['id']}: {note['note']}" for note in outcome.notes[:3]]
    lines += [f"note: {note}" for note in (*listing.notes, *mixed_rates(store.videos))]
    lines += repeated_frames(store.videos, store.plan.get("fps"))
    if splits["train"] == 1 and videos > 1:
        lines.append("note: only one video is left for training; a model cannot learn much from it")
    if missing := [name for name in SPLITS if not splits[name]]:
        lines.append(warning_of_empty_splits(missing, store.num_skipped))
    return "\n".join(lines)


def next_commands(outcome: Outcome, listing: Listing) -> list[str]:
    """Return lines with the next commands: verification and, if a config fits, training."""
    store = outcome.store
    path, sheet = quote(str(store.path)), quote(f"{store.path}.png")
    lines = [f"next: data-prep verify {path} --sheet {sheet}   (and look at it)"]
    config = CONFIGS.get(listing.source)
    trainable = {"train", "val"} <= {video.split for video in store.videos}
    if trainable and config is not None and store.frame_size_hw == CONFIG_SIZES.get(config):
        beside = Path("runs") if store.path.parent == Path() else store.path.parent
        lines.append(
            f"then: video-vq train-tokenizer --config {config} --data {path} "
            f"--out {quote(str(beside / 'tokenizer'))}"
        )
    return lines


def numbers(outcome: Outcome) -> dict[str, Any]:
    """Return a summary of the result by name, for JSON output."""
    store = outcome.store
    frames = sum(video.num_frames for video in store.videos)
    return {
        "out": store.path,
        "videos": len(store.videos),
        "new_videos": outcome.new_videos,
        "splits": Counter(video.split for video in store.videos),
        "classes": store.classes,
        "frames": frames,
        "frame_size_hw": store.frame_size_hw,
        "bytes": frames * math.prod(store.frame_size_hw) * 3,
        "videos_left_out": store.num_skipped,
        "videos_with_notes": len(outcome.notes),
        "seconds": outcome.seconds,
    }
