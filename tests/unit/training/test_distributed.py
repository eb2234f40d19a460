"""Tests of the items of each rank, and of what is due at a step."""

from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import Accelerator

from video_vq.distributed import make_accelerator
from video_vq.training.distributed import rank_batches
from video_vq.training.state import TrainingState
from video_vq.training.training_config import RunConfig


def fake(**attributes: Any) -> Any:
    """Return a fake Accelerator with the given attributes."""
    return mock.Mock(spec=Accelerator, **attributes)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_ranks_share_all_items_in_equally_many_batches(size, batch_size):
    for number in (0, 1, 2, 3, 7, 10, 13, 101):
        shares = [
            list(
                rank_batches(
                    fake(num_processes=size, process_index=rank), range(number), batch_size
                )
            )
            for rank in range(size)
        ]
        assert len({len(batches) for batches in shares}) == 1
        assert all(len(batch) <= batch_size for batches in shares for batch in batches)
        seen = [item for batches in shares for batch in batches for item in batch]
        assert sorted(seen) == list(range(number))


def test_saving_and_validation_are_due_at_their_steps_and_at_the_end():
    state = TrainingState(make_accelerator(), torch.nn.Linear(1, 1), RunConfig())
    run = RunConfig(validate_every=4, checkpoint_every=3)
    due: dict[str, list[int]] = {"validation": [], "save": []}
    for _ in range(10):
        state.end_step(True, run, last_step=10)
        if state.validation_is_due:
            due["validation"].append(state.step)
            state.note_validation({4: 2.0, 8: 1.0, 10: float("nan")}[state.step])
        if state.save_is_due(run.checkpoint_every, ending=state.step == 10):
            due["save"].append(state.step)
            state.saved_step = state.step
            assert not state.save_is_due(run.checkpoint_every, ending=True)  # once per step
    # Each third, the best of 4 and 8, and the end.
    assert due == {"validation": [4, 8, 10], "save": [3, 4, 6, 8, 9, 10]}
    assert state.best == (1.0, 8)
    assert not state.validation_is_due


def test_nothing_is_saved_before_the_first_step_and_bad_steps_are_counted():
    state = TrainingState(make_accelerator(), torch.nn.Linear(1, 1), RunConfig())
    assert not state.save_is_due(1, ending=True)
    for healthy in (True, False, False, True, False):
        state.end_step(healthy, RunConfig(), last_step=100)
    assert (state.step, state.skipped_steps, state.bad_in_a_row) == (5, 3, 1)
