"""Blocks of reports: the choice of items to show."""

import itertools

import pytest

from video_vq.report.blocks import spread


@pytest.mark.parametrize("number", [0, 1, 2, 7, 8, 9, 15, 16, 1000])
def test_shown_items_reach_from_the_first_to_the_last_at_equal_distances(number):
    found = spread(range(number), 8)
    assert len(found) == min(number, 8)
    assert found[:1] == list(range(number))[:1]
    assert found[1:][-1:] == list(range(number))[1:][-1:]
    steps = {after - before for before, after in itertools.pairwise(found)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


def test_a_single_item_is_the_first():
    assert spread("abc", 1) == ["a"]
