"""Tests that the order of the data is a pure function of (seed, epoch, position)."""

import copy

import numpy as np
import pytest

from video_vq.data.order import EpochOrder, rank_positions


def test_every_item_comes_once_an_epoch_and_epochs_differ():
    order = EpochOrder(10, seed=3)
    epochs = [[order(10 * epoch + place).item for place in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert order(25).epoch == 2


def test_a_position_means_the_same_from_anywhere():
    order = EpochOrder(101, seed=0)
    late = [order(position) for position in range(500, 520)]
    assert [EpochOrder(101, seed=0)(position) for position in range(500, 520)] == late
    assert [copy.deepcopy(order)(position) for position in range(500, 520)] == late


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_all_world_sizes_see_the_same_batch_in_the_same_order(world_size, accumulation):
    batch = [
        position
        for micro_batch in range(accumulation)
        for rank in range(world_size)
        for position in rank_positions(
            5, micro_batch, rank, batch_size=24, accumulation=accumulation, world_size=world_size
        )
    ]
    assert batch == list(range(120, 144))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="global batch of 10 is not divisible"):
        rank_positions(0, 0, 0, batch_size=10, accumulation=1, world_size=3)


@pytest.mark.parametrize(
    ("first", "last", "ends"),
    [
        *[(0, 9, False), (0, 10, True), (9, 10, True), (10, 19, False), (10, 20, True)],
        *[(9, 11, True), (11, 11, False), (10, 10, False), (3, 35, True)],
    ],
)
def test_an_epoch_ends_with_its_last_item(first, last, ends):
    order = EpochOrder(10, seed=0)
    assert order.ends_between(first, last) is ends
    assert ends is any(position % 10 == 9 for position in range(first, last))


def test_shuffling_is_uniform():
    first = [EpochOrder(5, seed)(0).item for seed in range(2000)]
    counts = np.bincount(first, minlength=5)
    assert counts.min() > 320
