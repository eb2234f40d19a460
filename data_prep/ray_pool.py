"""Preparation of shards on a Ray cluster; each Ray task decodes in a child process."""

from collections.abc import Callable, Iterable

from data_prep.pool import Making, Pool, ShardTask
from video_vq.errors import InputError
from video_vq.ray_tasks import not_shared, run_on_ray
from video_vq.stores.shards import ShardFolder, plan_of


def run_pool_on_ray(
    making: Making,
    tasks: Iterable[ShardTask],
    on_video: Callable[[int, int], object],
    on_shard: Callable[[int], object],
) -> None:
    """Prepare shards like `Pool.run`, but on a Ray cluster whose machines can all access the store.

    Args:
        making: settings that all shards share.
        tasks, on_video, on_shard: see `Pool.run`; `on_video` is called once for each finished
            shard.

    Raises:
        InputError: as for `Pool.run` and `run_on_ray`; or a machine cannot access the store.
    """
    by_shard = {task.shard: task for task in tasks}
    making = making._replace(store=making.store.absolute())

    def on_done(shard: int) -> None:
        on_video(shard, len(by_shard[shard].items))
        on_shard(shard)

    run_on_ray(_prepare, {shard: (making, task) for shard, task in by_shard.items()}, on_done)


def _prepare(making: Making, task: ShardTask) -> None:
    if plan_of(making.store) is None:
        raise InputError(not_shared(making.store))
    folder = ShardFolder(making.store, making.plan, owner=False)
    with folder.locked(task.shard) as lock:
        if not folder.is_committed(task.shard):
            pool = Pool(making, num_workers=1, keep_open=(lock,))
            pool.run([task], on_video=lambda *_: None, on_shard=lambda _: None)
