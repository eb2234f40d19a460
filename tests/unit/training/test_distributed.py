"""Shares of ranks, the launch that must not pass, and what is due at a step."""

from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import Accelerator

from video_vq.errors import InputError
from video_vq.stores.lock import LOCK
from video_vq.training.distributed import (
    holding,
    main_process_first,
    make_accelerator,
    rank_batches,
    require_all_processes,
)
from video_vq.training.state import TrainingState
from video_vq.training.stop_request import LAUNCHER_SIGNS
from video_vq.training.training_config import RunConfig


def fake(**attributes: Any) -> Any:
    """Return an Accelerator of another rank."""
    return mock.Mock(spec=Accelerator, **attributes)


@pytest.mark.parametrize(
    ("environment", "is_refused"),
    [
        ({}, False),
        ({"MASTER_ADDR": "127.0.0.1"}, False),
        ({LAUNCHER_SIGNS[0]: "default"}, False),
        ({LAUNCHER_SIGNS[0]: "default", "MASTER_ADDR": "127.0.0.1"}, True),
        ({LAUNCHER_SIGNS[0]: "default", "MASTER_ADDR": "h", "WORLD_SIZE": "2"}, False),
    ],
)
def test_a_launch_of_several_that_starts_one_is_refused(environment, is_refused):
    if not is_refused:
        require_all_processes(environment)
        return
    with pytest.raises(InputError, match="asked for several processes and started one"):
        require_all_processes(environment)


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


def ranks_of(is_main: bool, main_failed: bool = False) -> tuple[Any, list[str]]:
    """Return one of two ranks and its events; what it does not say itself, the other says."""
    events: list[str] = []
    accelerator = fake(is_main_process=is_main, device=torch.device("cpu"))

    def reduce(value: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "sum"
        events.append("everyone")
        return value + main_failed

    accelerator.reduce.side_effect = reduce
    return accelerator, events


@pytest.mark.parametrize("is_main", [True, False])
def test_nobody_waits_for_a_main_process_that_failed(is_main):
    accelerator, events = ranks_of(is_main)

    def fail() -> None:
        with main_process_first(accelerator):
            events.append("work")
            raise InputError("refused")

    with pytest.raises(InputError, match="refused"):
        fail()
    assert events == (["work", "everyone"] if is_main else ["everyone", "work"])


def test_where_the_main_process_failed_the_others_end_before_they_begin():
    accelerator, events = ranks_of(is_main=False, main_failed=True)
    with (
        pytest.raises(InputError, match="rank 0 cannot go on, and says why"),
        main_process_first(accelerator),
    ):
        events.append("work")
    assert events == ["everyone"]


def test_the_main_process_says_that_it_failed_and_only_then():
    said: list[float] = []
    accelerator = fake(is_main_process=True, device=torch.device("cpu"))
    accelerator.reduce.side_effect = lambda value, _: said.append(float(value)) or value

    def fail() -> None:
        with main_process_first(accelerator):
            raise InputError("refused")

    with pytest.raises(InputError):
        fail()
    with main_process_first(accelerator):
        pass
    assert said == [1.0, 0.0]


@pytest.mark.parametrize("is_main", [True, False])
def test_one_rank_alone_holds_what_all_write(tmp_path, is_main):
    accelerator, events = ranks_of(is_main)
    with holding(accelerator, tmp_path / "out"):
        assert (tmp_path / "out" / LOCK).exists() == is_main
    with holding(accelerator, None):
        pass
    assert events == ["everyone"]
    assert list(tmp_path.iterdir()) == []


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
