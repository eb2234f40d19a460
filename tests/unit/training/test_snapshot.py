"""Tests that copies of a state do not change with the tensors."""

import torch

from video_vq.training.state import Snapshot


def test_a_copy_stays_as_it_was_until_the_next_one():
    weight = torch.ones(3)
    snapshot = Snapshot()
    first = snapshot.take({"model": {"weight": weight}})
    weight += 1
    assert torch.equal(first["model"]["weight"], torch.ones(3))
    second = snapshot.take({"model": {"weight": weight}})
    assert torch.equal(second["model"]["weight"], torch.full((3,), 2.0))
    assert second["model"]["weight"].data_ptr() == first["model"]["weight"].data_ptr()
    grown = snapshot.take({"model": {"weight": torch.zeros(4)}})
    assert torch.equal(grown["model"]["weight"], torch.zeros(4))
