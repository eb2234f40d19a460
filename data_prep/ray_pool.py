"""Shards prepared on a Ray cluster: a task for each, which decodes in a child of its own."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.pool import Pool, ShardTask
from video_vq.errors import InputError
from video_vq.media.prepared import FrameRecipe
from video_vq.ray_tasks import not_shared, run_on_ray
from video_vq.stores.shards import ShardFolder, plan_of


class RayPool:
    """Does what `Pool` does, on a cluster; its store lies where all machines see it.

    Args:
        store, plan, arrays, recipe: see `Pool`.
    """

    def __init__(
        self,
        store: Path,
        plan: Mapping[str, Any],
        arrays: Mapping[str, tuple[int, ...]],
        recipe: FrameRecipe,
    ):
        self._common = (store.absolute(), dict(plan), dict(arrays), recipe)

    def run(
        self,
        tasks: Iterable[ShardTask],
        on_video: Callable[[int, int], object],
        on_shard: Callable[[int], object],
    ) -> None:
        """Prepare all shards; see `Pool.run`. Videos are counted when their shard is done.

        Raises:
            InputError: see `Pool.run` and `run_on_ray`.
        """
        by_shard = {task.shard: task for task in tasks}

        def on_done(shard: int) -> None:
            on_video(shard, len(by_shard[shard].items))
            on_shard(shard)

        arguments = {shard: (*self._common, task) for shard, task in by_shard.items()}
        run_on_ray(_prepare, arguments, on_done)


def _prepare(
    store: Path,
    plan: dict[str, Any],
    arrays: dict[str, tuple[int, ...]],
    recipe: FrameRecipe,
    task: ShardTask,
) -> None:
    """Prepare one shard in a process of a cluster."""
    if plan_of(store) is None:
        raise InputError(not_shared(store))
    folder = ShardFolder(store, plan, owner=False)
    with folder.locked(task.shard) as lock:
        if not folder.is_committed(task.shard):
            pool = Pool(store, plan, arrays, recipe, num_workers=1, keep_open=(lock,))
            pool.run([task], on_video=lambda *_: None, on_shard=lambda _: None)
