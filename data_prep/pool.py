"""A pool of worker processes that prepare shards and tolerate videos that crash a worker.

If a worker dies, hangs or runs too long while decoding a video, the video is decoded separately in
a new process with PyAV. If that process also dies, the video is skipped and the reason is recorded.
In either case, the shard is then prepared again.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.shard import OPENERS, Verdict, open_video, prepare_shard
from data_prep.sources import Item
from video_vq.errors import InputError
from video_vq.media.child import WatchVideo, serve
from video_vq.media.prepared import FrameRecipe
from video_vq.media.supervisor import STALL_SECONDS, Death, Deaths, Supervisor
from video_vq.stores.clips import ClipStoreWriter, Skipped, UnusableVideoError

COMMAND = (sys.executable, "-c", "from data_prep.pool import main; main()")


@dataclass(frozen=True)
class ShardTask:
    """A shard to prepare.

    Attributes:
        shard: index of the shard.
        items: videos in the shard.
        skipped: files that are already known to be unusable, recorded with the shard.
    """

    shard: int
    items: tuple[Item, ...]
    skipped: tuple[dict[str, Any], ...] = ()


class Making(NamedTuple):
    """The settings that all shards of a store share.

    Attributes:
        store: store folder.
        plan, arrays: see ClipStoreWriter.
        recipe: settings for decoding the frames.
    """

    store: Path
    plan: dict[str, Any]
    arrays: dict[str, tuple[int, ...]]
    recipe: FrameRecipe


class Pool:
    """A pool that runs shard tasks on long-lived worker processes.

    Args:
        making: settings that all shards share.
        num_workers: number of worker processes.
        keep_open: file descriptors that the workers inherit, such as that of a lock file; the lock
            is then held until the last worker ends.
        command: command that starts a worker.
        stall_seconds: longest time that a worker may spend without using the CPU, in seconds.
    """

    def __init__(
        self,
        making: Making,
        num_workers: int,
        keep_open: tuple[int, ...] = (),
        command: tuple[str, ...] = COMMAND,
        stall_seconds: float = STALL_SECONDS,
    ):
        self._common = {
            **making._asdict(),
            "store": str(making.store),
            "recipe": making.recipe.to_json(),
        }
        self._stall_seconds = stall_seconds
        self._workers = Supervisor(command, num_workers, stall_seconds, keep_open)
        self._lock = threading.Lock()

    def run(
        self,
        tasks: Iterable[ShardTask],
        on_video: Callable[[int, int], object],
        on_shard: Callable[[int], object],
    ) -> None:
        """Prepare all shards; call this method only once.

        Args:
            tasks: shards to prepare.
            on_video: function that is called, by one thread at a time, with the index of a shard
                and the change in the shard's number of finished videos, which is negative if the
                shard must be prepared again.
            on_shard: function that is called with the index of each committed shard; an exception
                ends the run.

        Raises:
            InputError: the store cannot be written or has a different plan, the storage does not
                respond, or workers die repeatedly and no single video is the cause.
        """
        with self._workers as workers:
            shards = [workers.submit(self._prepare, task, on_video) for task in tasks]
            for shard in as_completed(shards):
                on_shard(shard.result())

    def _prepare(self, task: ShardTask, on_video: Callable[[int, int], object]) -> int:
        """Have a worker prepare a shard, and return the shard's index; runs in a thread."""
        items = {item.id: item for item in task.items}
        verdicts: dict[str, Verdict] = {}
        deaths = Deaths(self._stall_seconds)
        finished = 0

        def count(report: dict[str, Any]) -> None:
            nonlocal finished
            if report["stage"] == "done":
                finished += 1
                with self._lock:
                    on_video(task.shard, 1)

        while True:
            told = {name: asdict(verdict) for name, verdict in verdicts.items()}
            job = {**self._common, "job": "shard", **asdict(task), "verdicts": told}
            death = self._workers.ask(job, count)
            if not isinstance(death, Death):
                return task.shard
            with self._lock:
                on_video(task.shard, -finished)
            finished = 0
            item = None if death.video is None else items[death.video]
            if deaths.add(death, "a worker" if item is None else item.path) is not None:
                raise InputError(
                    f"{item.path if item is not None else 'a worker'}: {death.cause} among other "
                    "videos, but not by itself; run the command again, with fewer workers if it "
                    "happens again"
                )
            if item is not None:
                verdicts[item.id] = self._tried_alone(item, deaths)

    def _tried_alone(self, item: Item, deaths: Deaths) -> Verdict:
        """Have a video decoded separately after a worker has died, and return the verdict."""
        job = {**self._common, "job": "try", "item": asdict(item)}
        while isinstance(death := self._workers.ask(job, lambda _: None), Death):
            reason = deaths.add(death, item.path)
            if reason is not None:
                return Verdict(skip=reason)
        return Verdict(decoder="pyav")


def main() -> None:
    """Run a worker process of the pool."""
    serve(do)


def do(job: dict[str, Any], watch: WatchVideo) -> dict[str, Any]:
    """Prepare a shard, or decode a video and discard the frames.

    Args:
        job: a shard or a single video, with the settings in `Making`, as JSON.
        watch: function that reports the current video and stage to the pool.

    Raises:
        InputError: the store was made with a different plan, or cannot be written.
    """
    recipe = FrameRecipe.from_json(job["recipe"])
    try:
        if job["job"] == "try":
            _try(Item(**job["item"]), recipe, watch)
        else:
            _make(job, recipe, watch)
    except OSError as error:
        raise InputError(f"{job['store']}: cannot be written ({error.strerror or error})") from None
    return {"report": "done"}


def _try(item: Item, recipe: FrameRecipe, watch: WatchVideo) -> None:
    opener = OPENERS[item.kind]()
    try:
        for _ in open_video(opener, item, replace(recipe, decoder="pyav"), watch, []).frames:
            pass
    except UnusableVideoError:
        pass  # preparing the shard will fail for the same reason
    watch(item.id, "done", 0.0)


def _make(job: dict[str, Any], recipe: FrameRecipe, watch: WatchVideo) -> None:
    arrays = {name: tuple(shape) for name, shape in job["arrays"].items()}
    writer = ClipStoreWriter(job["store"], recipe.size_hw, job["plan"], arrays, owner=False)
    prepare_shard(
        writer,
        recipe,
        job["shard"],
        [Item(**item) for item in job["items"]],
        [Skipped(**entry) for entry in job["skipped"]],
        {name: Verdict(**verdict) for name, verdict in job["verdicts"].items()},
        watch,
    )
